"""The programs of docs/services.md under their real servers: paid once, nothing lost however they end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import CachedEmbeddingModel, OpenAIEmbeddingModel, open_cache
from kura_cache_adapters.testing import FakeEmbeddingModel

httpx = pytest.importorskip("httpx", reason="comes with the extra `openai`")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kura_cache_adapters.testing.openai_server import OpenAIServer

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "services.md").read_text(encoding="utf-8")
TEXTS = [f"text {number}" for number in range(100)]
WORKERS = 4


def write(name: str, *, more: str = "") -> None:
    """Write a program of the page, and perhaps more at its end, into this directory."""
    (program,) = re.findall(rf"```python\n(# {name}\n.*?)```", PAGE, re.DOTALL)
    Path(name).write_text(program + more)


class Service:
    """A server with its workers, in this directory."""

    def __init__(self, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [each.format(address=self.address, port=self.address[10:]) for each in arguments]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}."}
        self.log = Path("log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command], env=environment, stdout=log, stderr=log
            )
        self._wait(lambda: self.health(httpx))

    def _wait(self, served: Callable[[], object]) -> None:
        for _ in range(1200):
            assert self.process.poll() is None, self.log.read_text()
            with suppress(httpx.TransportError):
                served()
                return
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def health(self, client: Any) -> dict[str, int]:
        return client.get(f"http://{self.address}/health", timeout=30).json()

    def embed(self, texts: list[str], client: Any = httpx) -> list[list[float]]:
        answer = client.post(f"http://{self.address}/embed", json=texts, timeout=60)
        assert answer.status_code == 200, self.log.read_text()
        return answer.json()

    @contextmanager
    def clients(self, workers: int, count: int) -> Iterator[list[Any]]:
        """Connect clients, and keep as many of each worker's."""
        of: dict[int, list[Any]] = {}
        with ExitStack() as stack:
            while sum(map(len, of.values())) < count:
                client = stack.enter_context(httpx.Client())
                mates = of.setdefault(self.health(client)["worker"], [])
                mates += [client] * (len(mates) * workers < count)
            yield [client for mates in of.values() for client in mates]

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0, self.log.read_text()
        return self.log.read_text()


@pytest.fixture
def serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openai_server: OpenAIServer
) -> Iterator[Callable[[str], Service]]:
    monkeypatch.chdir(tmp_path)
    running: list[Service] = []

    def start(kind: str, workers: int = 2) -> Service:
        if kind == "uvicorn":
            pytest.importorskip("fastapi", reason="needs fastapi")
            write("app.py")
            kept = ["--timeout-keep-alive=60", f"--workers={workers}"]
            running.append(Service("uvicorn", "app:app", "--port={port}", *kept))
        else:
            write("wsgi.py", more='\nmodel.embed_sync(["before the fork"])\n')
            workers_are = [f"--workers={workers}", "--preload", "--bind={address}"]
            running.append(Service("gunicorn", "wsgi:application", *workers_are))
        return running[-1]

    for server in ("uvicorn", "gunicorn"):
        pytest.importorskip(server, reason=f"needs {server}")
    yield start
    for service in running:
        if service.process.poll() is None:
            service.process.terminate()
            service.process.wait(timeout=30)


def cached() -> CachedEmbeddingModel:
    return CachedEmbeddingModel(OpenAIEmbeddingModel("text-embedding-3-small"), "./cache")


API = FakeEmbeddingModel("text-embedding-3-small")
expected = API.lists


def late(server: OpenAIServer, seconds: float) -> None:
    """Let the API take its time, so that what is asked at once overlaps."""

    def embed(texts: list[str]) -> Any:
        time.sleep(seconds)
        return API.array(texts)

    server.embed = embed


def test_twenty_clients_of_four_workers_pay_for_each_text_once(
    serve: Callable[..., Service], openai_server: OpenAIServer
) -> None:
    late(openai_server, 0.2)
    service = serve("uvicorn", WORKERS)
    with service.clients(WORKERS, 20) as clients, ThreadPoolExecutor(len(clients)) as threads:
        answers = list(threads.map(lambda client: service.embed(TEXTS, client), clients))
        told = {each["worker"]: each for each in map(service.health, clients)}.values()
    assert all(answer == expected(TEXTS) for answer in answers)
    assert Counter(openai_server.texts) == Counter(TEXTS)
    assert [(each["texts"], each["failures"]) for each in told] == [(500, 0)] * WORKERS
    assert "kura" not in service.stop()
    (uses,) = open_cache("./cache").hit_rates().values()
    assert (uses.texts, uses.misses) == (2000, 100)  # a clean end loses none of the counts


@pytest.mark.parametrize("kind", ["uvicorn", "gunicorn"])
def test_sigterm_answers_what_was_asked_and_all_of_it_is_stored(
    serve: Callable[..., Service], openai_server: OpenAIServer, kind: str
) -> None:
    service = serve(kind)
    late(openai_server, 1.0)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(service.embed, TEXTS)
        while "text 0" not in openai_server.texts:
            time.sleep(0.01)
        logged = service.stop()
        assert answer.result() == expected(TEXTS)
    assert "kura" not in logged
    assert cached().missing(TEXTS) == []


@pytest.mark.parametrize("kind", [pytest.param("uvicorn", marks=pytest.mark.long), "gunicorn"])
def test_killed_workers_lose_nothing_that_was_answered_and_are_replaced(
    serve: Callable[..., Service], openai_server: OpenAIServer, kind: str
) -> None:
    service = serve(kind)
    victims: set[int] = set()
    while len(victims) < 2:
        victims.add(service.health(httpx)["worker"])

    def embed(texts: list[str]) -> Any:
        while "text 50" in texts and victims:
            os.kill(victims.pop(), signal.SIGKILL)
        return API.array(texts)

    openai_server.embed = embed
    answered: list[str] = []
    for start in range(0, 100, 5):
        batch = TEXTS[start : start + 5]
        with suppress(httpx.TransportError):
            assert service.embed(batch) == expected(batch)
            answered += batch
    assert answered == TEXTS[:50] + TEXTS[55:]
    assert cached().missing(answered) == []
    assert service.embed(TEXTS) == expected(TEXTS)
    assert {text for text, count in Counter(openai_server.texts).items() if count > 1} <= set(TEXTS[50:55])
    service.stop()


def test_the_workers_of_celery_pay_for_each_text_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openai_server: OpenAIServer
) -> None:
    celery = pytest.importorskip("celery", reason="needs celery")
    monkeypatch.chdir(tmp_path)
    late(openai_server, 0.2)
    settings = {
        "broker_url": "filesystem://",
        "result_backend": f"file://{tmp_path}/results",
        "broker_transport_options": dict.fromkeys(("data_folder_in", "data_folder_out"), f"{tmp_path}/queue")
        | {"control_folder": f"{tmp_path}/control", "polling_interval": 0.1},
    }
    for folder in ("queue", "control", "results"):
        (tmp_path / folder).mkdir()
    write("tasks.py", more=f'\nqueue.conf.update({settings!r})\nmodel.embed_sync(["before the fork"])\n')
    asking = celery.Celery("asking")
    asking.conf.update(settings)
    answers = [asking.send_task("tasks.embed", [TEXTS]) for _ in range(8)]
    alone = [f"--without-{what}" for what in ("gossip", "mingle", "heartbeat")]
    options = ["-A", "tasks", "worker", "--concurrency=4", "--loglevel=warning", *alone]
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", *options],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}."},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert all(answer.get(timeout=60, interval=0.1) == expected(TEXTS) for answer in answers)
    finally:
        worker.terminate()
        _, logged = worker.communicate(timeout=30)
    assert worker.returncode == 0
    assert "kura" not in logged
    assert Counter(openai_server.texts) == Counter([*TEXTS, "before the fork"])
    with open_cache("cache") as cache:
        assert [uses.texts for uses in cache.hit_rates().values()] == [1 + 8 * len(TEXTS)]
