"""The real Kura pipeline from end to end, in fresh processes, against a server that counts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("kura", reason="needs the extra `kura`")

from kura_cache_adapters.testing import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parent.parent / "examples" / "kura_pipeline.py"


def word_vectors(texts: list[str]) -> Any:
    spec = importlib.util.spec_from_file_location("kura_pipeline", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.word_vectors(texts)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(embed=word_vectors) as server:
        yield server


def pipeline(server: OpenAIServer, cache: Path, *options: str) -> subprocess.Popen[str]:
    """Start the example in a process of its own, with one run."""
    environment = {
        **os.environ,
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_BASE_URL": server.url,
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, str(EXAMPLE), "--cache", str(cache), "--runs", "1", *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finished(process: subprocess.Popen[str]) -> str:
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return printed


@pytest.mark.timeout(500)
def test_a_second_run_embeds_nothing_and_a_larger_one_only_what_is_new(
    server: OpenAIServer, tmp_path: Path
) -> None:
    results = []
    for run in ("first", "second"):
        out = tmp_path / f"{run}.json"
        finished(pipeline(server, tmp_path, "--conversations", "100", "--json", str(out)))
        results += json.loads(out.read_text())
        if run == "first":
            asked = server.texts
    first, second = results
    assert first["clusters"] == second["clusters"]
    assert first["coordinates"] == second["coordinates"]
    assert len(first["coordinates"]) == len(first["clusters"]) > 10
    assert (first["misses"], second["misses"]) == (len(asked), 0)
    assert server.texts == asked
    assert len({*asked}) == len(asked) > 110
    finished(pipeline(server, tmp_path, "--conversations", "110", "--until", "meta clusters"))
    new = server.texts[len(asked) :]
    assert not {*new} & {*asked}
    assert sum(text.startswith("summary=") for text in new) == 10


def test_a_killed_run_embeds_nothing_again_that_was_acknowledged(
    server: OpenAIServer, tmp_path: Path
) -> None:
    options = ("--conversations", "100", "--until", "meta clusters")
    process = pipeline(server, tmp_path, *options)
    assert process.stdout is not None
    for line in process.stdout:
        if "base clusters" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    asked = server.texts
    assert len(asked) >= 100
    printed = finished(pipeline(server, tmp_path, *options))
    again = server.texts[len(asked) :]
    assert not {*again} & {*asked[:100]}
    texts, hits, misses = map(int, re.findall(r"base clusters +(\d+) +(\d+) +(\d+)", printed)[0])
    assert (texts, hits, misses) == (100, 100, 0)


def test_the_example_needs_no_key_and_no_network() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    command = [sys.executable, str(EXAMPLE), "--conversations", "30", "--until", "meta clusters"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=110)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"(first|second) .*? +(\d+) +(\d+) +(\d+) +\d+\.\d+", done.stdout)
    assert [int(misses) for run, _, _, misses in rows if run == "second"] == [0, 0, 0]
    assert "the same clusters each time: True" in done.stdout
