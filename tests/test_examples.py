"""The examples run as a user would run them, and save what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDS = {
    "quickstart": [],
    "langchain_vector_store": ["langchain_core", "langchain_huggingface"],
    "llama_index_pipeline": ["llama_index.core", "llama_index.embeddings.huggingface"],
}


ANSWERS = {
    "quickstart": r"\nloading .*(?s:.*)sorted list\?\n  0\.\d\d  bisect\.insort",
    "langchain_vector_store": r"best: textwrap\.shorten",
    "llama_index_pipeline": r"best: textwrap\.shorten",
}


@pytest.mark.usefixtures("minilm")
@pytest.mark.parametrize("example", NEEDS)
def test_an_example_runs_offline_and_asks_the_model_once(example: str, tmp_path: Path) -> None:
    for package in NEEDS[example]:
        pytest.importorskip(package, reason=f"{package} is not installed")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(EXAMPLES / f"{example}.py"), "--cache", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=110)
    assert done.returncode == 0, done.stderr
    first, second = map(int, re.findall(r"(\d+) (?:misses|texts to the model)", done.stdout))
    assert first > 100
    assert second <= 1
    assert re.search(ANSWERS[example], done.stdout)


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*NEEDS, "kura_pipeline"}
