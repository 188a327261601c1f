"""By the public door alone: a service writes, and who runs it looks after its cache."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("typer", reason="needs the extra `cli`")

from typer.testing import CliRunner

from kura_cache_adapters import CachedEmbeddingModel, CallableEmbeddingModel
from kura_cache_adapters.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVICE = """
    import sys
    import numpy as np
    from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel

    def embed(texts):
        return np.array([[float(text.split()[1]), 1.0] for text in texts], np.float32)

    model = CachedEmbeddingModel(
        CallableEmbeddingModel(embed, model_name="service"), "./cache", options=CacheOptions(durable=False)
    )
    at = 0
    print("up", flush=True)
    while not sys.stdin.closed:
        numbers = [*range(at, at + 50), *range(max(0, at - 500), at, 7)]
        vectors = model.embed_array_sync([f"request {number}" for number in numbers])
        assert vectors[:, 0].tolist() == numbers
        at += 50
        if at % 1000 == 0:
            print(at, flush=True)
        if at == 1_000_000 or (at % 1000 == 0 and sys.stdin.readline() == "stop\\n"):
            break
    model.close()
    print(model.stats.load_failures + model.stats.save_failures, flush=True)
"""


class Service:
    """A service that writes to ./cache, a thousand requests at a time."""

    def __init__(self) -> None:
        self._running = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SERVICE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "up"

    def line(self) -> str:
        assert self._running.stdout is not None
        return self._running.stdout.readline().strip()

    def goes_on(self) -> None:
        """Let it take the next thousand, beside what is done meanwhile."""
        self.line()
        assert self._running.stdin is not None
        self._running.stdin.write("go\n")
        self._running.stdin.flush()

    def stop(self) -> tuple[str, str]:
        """Return what it has told of failures, and logged."""
        self.line()
        told, logged = self._running.communicate("stop\n")
        assert self._running.returncode == 0, logged
        return told.split()[-1], logged

    def kill(self) -> None:
        self._running.kill()
        self._running.communicate()


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.chdir(tmp_path)
    running = Service()
    yield running
    running.kill()


def asked(*said: str) -> Any:
    ended = CliRunner().invoke(app, [*said, "--json"], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.output.splitlines()[-1])


def test_an_operator_looks_after_a_cache_that_a_service_writes_to(service: Service) -> None:
    model = CachedEmbeddingModel(
        CallableEmbeddingModel(lambda texts: [[0.0, 1.0]] * len(texts), model_name="service"), "./cache"
    )
    keys = [model.cache_key(f"request {at}") for at in range(100)]
    service.goes_on()
    for _ in range(5):
        (space,) = asked("ls")["spaces"]
        assert space["entries"] >= 1000
        service.goes_on()
        assert asked("verify")["sound"]
        service.goes_on()
        asked("compact")
    assert asked("forget", *keys, "--yes")["receipt"]["complete"]
    service.goes_on()
    assert len(model.missing([f"request {at}" for at in range(100)])) == 100
    before = asked("ls")["spaces"][0]["nbytes"]
    assert asked("prune", "--max-size", f"{before // 2}", "--yes")["entries"] > 0
    service.goes_on()
    assert asked("stats")["spaces"][space["name"]]["hits"] > 0
    failures, logged = service.stop()
    assert (failures, logged) == ("0", "")
    assert asked("verify")["sound"]
    assert len(model.missing([f"request {at}" for at in range(100)])) == 100
