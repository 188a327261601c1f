"""Every block of code in the README and the docs runs, in the order of its page."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import importlib
import inspect
import io
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import pytest

import kura_cache_adapters
from kura_cache_adapters.stores import registry, url_options
from tests import names_page

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
LONG = re.compile(r"<!-- long: (\w+) -->\n```python\n(.*?)```", re.DOTALL)
NEEDS = {"engines.md": "dask.dataframe", "joins.md": "duckdb"}


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
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name], reason=f"needs {NEEDS[page.name]}")
    namespace: dict[str, Any] = {"__name__": "page"}
    for error, code, output in BLOCK.findall(LONG.sub("", page.read_text(encoding="utf-8"))):
        if error:
            with pytest.raises(Exception, match=r".") as caught:
                run(code, page, namespace)
            assert caught.typename == error
        else:
            printed = run(code, page, namespace)
            assert not output or printed == output
    namespace.clear()
    gc.collect()  # here, where the warnings of Kura's abandoned clients are ignored


def blocks_of_engines() -> list[tuple[str, str, str]]:
    """Return each engine, what stands before its block on the page, and the block."""
    found = []
    for name in NEEDS:
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for block in LONG.finditer(page):
            before = [code for _, code, _ in BLOCK.findall(LONG.sub("", page[: block.start()]))]
            found.append((block[1], "\n".join(before), block[2]))
    return found


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("engine", "before", "code"), blocks_of_engines())
def test_the_block_of_an_engine_runs(engine: str, before: str, code: str, tmp_path: Path) -> None:
    if find_spec(engine) is None or (engine == "pyspark" and shutil.which("java") is None):
        pytest.skip(f"{engine} is not installed")
    (tmp_path / "page.py").write_text(f"{before}\nif __name__ == '__main__':\n{indent(code, '    ')}")
    here = {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-W", "ignore", "page.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **here}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "print" not in code or "[5.0, 1.0]" in done.stdout


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


def test_one_page_has_every_public_name() -> None:
    for framework in ("kura", "langchain_core", "llama_index.core"):
        pytest.importorskip(framework, reason=f"needs {framework}")
    page = names_page.PAGE.read_text(encoding="utf-8")
    assert page == names_page.written(page), "python -m tests.names_page writes it anew"
    assert {name for name in dir(kura_cache_adapters) if name[0] != "_"} <= {
        *re.findall(r"\b(\w+)` \|", page)
    }


def test_one_table_has_every_option_of_every_url_and_what_is_meant_without_it() -> None:
    page = (ROOT / "docs" / "stores.md").read_text(encoding="utf-8")
    table = page.partition("\n## Options of URLs\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([`\w ]+) \| `(\S+)` \| .", table, re.MULTILINE)
    told = {(scheme, name): value for name, of, value in rows for scheme in re.findall(r"\w+", of)}
    assert told == {
        (scheme, name): str(inspect.signature(kind).parameters[name].default).lower()
        for scheme in (*registry.STORES, *registry.MIRRORS)
        for kind in classes_behind(scheme)
        for name in url_options._known(kind)
    }


def classes_behind(scheme: str) -> list[type]:
    """Return whose options a URL may have; of one name, the last one's."""
    if scheme in registry.MIRRORS:
        return [kura_cache_adapters.MirroredStore]
    store: Any = registry.class_of(scheme)
    return [store, kura_cache_adapters.Remote] if getattr(store, "remote", False) else [store]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        target = page.parent / link
        assert target.is_dir() or target.stat().st_size, link
