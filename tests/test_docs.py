"""Every block of code in the README and the docs runs, in the order of its page."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import importlib
import inspect
import io
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import kura_cache_adapters

if TYPE_CHECKING:
    from kura_cache_adapters.testing.openai_server import OpenAIServer

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
]
BLOCK = re.compile(r"(?:<!-- raises (\w+) -->\n)?```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


def run(code: str, page: Path, namespace: dict[str, Any]) -> str:
    """Run a block, which may await; return what it prints."""
    compiled = compile(code, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        outcome = eval(compiled, namespace)
        if inspect.iscoroutine(outcome):
            asyncio.run(outcome)
    return printed.getvalue()


@pytest.fixture
def newcomers_directory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    minilm: Path,
    openai_server: OpenAIServer,
) -> None:
    """Stand in a directory with the model's weights beside, and an API that answers."""
    pytest.importorskip("kura", reason="needs the extra `kura`")
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(minilm)
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("newcomers_directory")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    for error, code, output in BLOCK.findall(page.read_text(encoding="utf-8")):
        if error:
            with pytest.raises(Exception, match=r".") as caught:
                run(code, page, namespace)
            assert caught.typename == error
        else:
            printed = run(code, page, namespace)
            assert not output or printed == output
    namespace.clear()
    gc.collect()  # here, where the warnings of Kura's abandoned clients are ignored


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("newcomers_directory")
@pytest.mark.parametrize("number", range(7))
def test_the_snippets_of_the_document_run_unchanged_but_for_the_packages_name(number: int) -> None:
    types = importlib.import_module("kura.types")
    when = datetime(2026, 1, 1, tzinfo=timezone.utc)
    message = types.Message(role="user", content="How do I bake bread?", created_at=when)
    namespace: dict[str, Any] = {
        "CachedEmbeddingModel": kura_cache_adapters.CachedEmbeddingModel,
        "BaseEmbeddingModel": kura_cache_adapters.BaseEmbeddingModel,
        "JSONLCheckpointManager": kura_cache_adapters.JSONLCheckpointManager,
        "base_model": kura_cache_adapters.OpenAIEmbeddingModel(),
        "cache_manager": kura_cache_adapters.JSONLCheckpointManager("./cache"),
        "conversations": [
            types.Conversation(chat_id="1", created_at=when, messages=[message], metadata={}),
        ],
    }
    page = ROOT / "tests" / "document.md"
    _, code, _ = BLOCK.findall(page.read_text(encoding="utf-8"))[number]
    if "This will raise ValueError" in code:
        with pytest.raises(ValueError, match="BadModel has no model_name"):
            run(code, page, namespace)
    else:
        run(code, page, namespace)
    namespace.clear()
    gc.collect()


def test_the_readme_names_the_commands_that_ci_runs() -> None:
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    assert '\npip install -e ".[test]" && pytest\n' in readme
    assert "README.md" in ci


def test_a_package_index_shows_no_link_that_leads_nowhere() -> None:
    tomllib = pytest.importorskip("tomllib", reason="came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    readme = (ROOT / "README.md").read_text()
    for each in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        readme = re.sub(each["pattern"], each["replacement"], readme)
    links = re.findall(r"\]\(([^)]+)\)", readme)
    assert links
    assert all(link.startswith("https://") for link in links)
    assert "\n| docs/stores.md | " in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        target = page.parent / link
        assert target.is_dir() or target.stat().st_size, link
