"""The examples run as a user would run them, and save what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDS = {
    "quickstart": [],
    "langchain_vector_store": ["langchain_core", "langchain_huggingface"],
    "llama_index_pipeline": ["llama_index.core", "llama_index.embeddings.huggingface"],
}
ENGINES = {"ray_data": ["ray.data"], "spark_local": ["pyspark", "pandas"]}


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


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("example", ENGINES)
def test_an_engine_pays_for_each_text_once_and_then_for_none(example: str, tmp_path: Path) -> None:
    for package in ENGINES[example]:
        if find_spec(package.partition(".")[0]) is None:
            pytest.skip(f"{package} is not installed")
    if example == "spark_local" and shutil.which("java") is None:
        pytest.skip("Spark needs a JVM")
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, str(EXAMPLES / f"{example}.py"), "--cache", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    said = re.findall(r"(\w+) run: ([\d,]+) rows, (\d+) texts to the model", done.stdout)
    assert said == [("first", "100,000", "50000"), ("second", "100,000", "0")]


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*NEEDS, *ENGINES, "kura_pipeline"}
