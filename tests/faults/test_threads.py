"""No thread can be started: what needs one is done in the caller's, and nothing is lost, wrong or raised."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel, MemoryStore
from kura_cache_adapters._runtime import loop
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.fault_lab import WAYS, Ledger
from tests.frameworks import LangChain, LlamaIndex, Spy
from tests.test_concurrency import in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if sys.platform != "linux":
    pytest.skip("limits on threads are Linux's", allow_module_level=True)

import resource

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

NOBODY = 54321  # root has no limit: a user of no other process
TEXTS = [*"abcdef"]
FAKE = FakeEmbeddingModel()


@pytest.fixture
def anywhere() -> Iterator[Path]:
    """Make a directory that another user may write to."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o777)
        yield Path(made)


def start_no_threads() -> None:
    """Reach the limit on this user's processes and threads; it may be lifted again."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
    with pytest.raises(RuntimeError, match="start new thread"):
        threading.Thread(target=print).start()


def without_threads(work: Callable[[Path], object], path: Path) -> None:
    """Do work in a process that can start no thread; what it imports is imported before."""
    work(path / "before")

    def limited() -> None:
        start_no_threads()
        work(path / "limited")

    in_child(limited)


@pytest.mark.parametrize("way", WAYS)
def test_without_threads_all_is_stored_and_found_in_every_format(way: str, anywhere: Path) -> None:
    def ask(path: Path) -> None:
        ledger = Ledger(way, path, "no thread can be started")
        ledger.ask(ledger.open(), TEXTS[:3])
        cached = ledger.open()
        ledger.ask(cached, TEXTS)
        for _ in range(2):
            assert asyncio.run(cached.embed(TEXTS)) == FAKE.lists(TEXTS)
        assert ledger.outcome.good
        assert cached.stats.misses == 3

    without_threads(ask, anywhere)
    after = Ledger(way, anywhere / "limited", "no thread can be started").audit(TEXTS)
    assert after.good
    assert after.acknowledged == len(TEXTS)


class Sync:
    """A model with a sync method."""

    model_name = "fake"

    def slug(self) -> str:
        return "sync"

    def embed_sync(self, texts: list[str]) -> list[list[float]]:
        return FAKE.lists(texts)

    async def embed(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError


class Background(FakeEmbeddingModel):
    """A model that belongs to the background loop."""

    runs_on = "background"


async def awaiting(texts: list[str]) -> list[list[float]]:
    await asyncio.sleep(0.001)
    return FAKE.lists(texts)


MODELS: dict[str, Callable[[], Any]] = {
    "sync": Sync,
    "async": FakeEmbeddingModel,
    "background": Background,
    "function": lambda: CallableEmbeddingModel(FAKE.lists, model_name="fake"),
    "async function": lambda: CallableEmbeddingModel(awaiting, model_name="fake"),
    "a cache around a cache": lambda: CachedEmbeddingModel(Sync(), MemoryStore()),
    "a function that asks a cache": lambda: CallableEmbeddingModel(
        CachedEmbeddingModel(FakeEmbeddingModel(), MemoryStore()).embed_sync, model_name="fake"
    ),
}


async def ask_from_a_loop(cached: CachedEmbeddingModel) -> None:
    assert await cached.embed(TEXTS[:3]) == FAKE.lists(TEXTS[:3])
    assert await cached.embed(TEXTS) == FAKE.lists(TEXTS)
    assert (await cached.embed_array(TEXTS * 20)).tolist() == FAKE.lists(TEXTS * 20)
    assert cached.embed_sync(["in a loop", "a"]) == FAKE.lists(["in a loop", "a"])  # as in a notebook
    asked = [["shared", f"{number}"] for number in range(5)]
    assert await asyncio.gather(*map(cached.embed, asked)) == [*map(FAKE.lists, asked)]
    task = asyncio.current_task()
    assert task is not None
    assert asyncio.get_running_loop().is_running()


@pytest.mark.parametrize("where", ["disk", "nothing"])
@pytest.mark.parametrize("kind", MODELS)
def test_without_threads_every_call_answers(kind: str, where: str, anywhere: Path) -> None:
    def ask(path: Path) -> None:
        cached = CachedEmbeddingModel(
            MODELS[kind](), None if where == "nothing" else path, options=CacheOptions(chunk_size=2)
        )
        asyncio.run(ask_from_a_loop(cached))
        for texts in (TEXTS, ["sync", "a"], ["sync", "a"]):
            assert cached.embed_sync(texts) == FAKE.lists(texts)
            assert cached.embed_array_sync(texts).tolist() == FAKE.lists(texts)
        if where == "disk":
            assert (
                cached.stats.misses == len(TEXTS) + 8
            )  # "shared" once, and not twice what a sync call asked

    without_threads(ask, anywhere)


@pytest.mark.parametrize("framework", [LangChain, LlamaIndex])
def test_without_threads_the_adapters_answer(framework: Any, anywhere: Path) -> None:
    face = framework()

    def ask(path: Path) -> None:
        spy = Spy(FakeEmbeddingModel(roles=("query",)))
        adapter = face.wrap(face.embedder(spy), path)

        async def go() -> None:
            for _ in range(2):
                assert await face.adocuments(adapter, TEXTS) == spy.fake.lists(TEXTS)
                assert await face.aquery(adapter, "q") == spy.fake.lists(["q"], "query")[0]

        asyncio.run(go())
        for _ in range(2):
            assert face.documents(adapter, ["x", *TEXTS]) == spy.fake.lists(["x", *TEXTS])
            assert face.query(adapter, "y") == spy.fake.lists(["y"], "query")[0]

    without_threads(ask, anywhere)


def test_without_threads_kuras_models_answer(anywhere: Path) -> None:
    pytest.importorskip("kura", reason="needs the extra `kura`")
    from kura_cache_adapters import kura

    def ask(path: Path) -> None:
        cached = kura.cached(FakeEmbeddingModel(), path)
        assert cached.embed_sync(TEXTS) == FAKE.lists(TEXTS)
        assert asyncio.run(cached.embed(["z", *TEXTS])) == FAKE.lists(["z", *TEXTS])

    without_threads(ask, anywhere)


class Heard(logging.Handler):
    """Keeps the warnings of a cache."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        logging.getLogger("kura_cache_adapters").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_the_limit_is_one_warning_and_is_noticed_when_it_is_lifted(anywhere: Path) -> None:
    def ask(path: Path) -> None:
        heard, cached = Heard(), CachedEmbeddingModel(FakeEmbeddingModel(), path)
        for number in range(5):
            cached.embed_sync([f"{number}"])
            asyncio.run(cached.embed([f"async {number}"]))
        assert "limited" not in path.name or [message[:25] for message in heard.messages] == [
            "can't start new thread: s"
        ]
        resource.setrlimit(resource.RLIMIT_NPROC, (resource.getrlimit(resource.RLIMIT_NPROC)[1],) * 2)
        assert cached.embed_sync(["after"]) == FAKE.lists(["after"])
        assert loop._loop is not None

    without_threads(ask, anywhere)


def test_threads_that_are_there_answer_beside_each_other(anywhere: Path) -> None:
    def ask() -> None:
        cached = CachedEmbeddingModel(FakeEmbeddingModel(), anywhere, options=CacheOptions(chunk_size=1))
        go, answers = threading.Event(), dict[int, Any]()

        def work(number: int) -> None:
            go.wait(10)
            texts = [f"{number} {at}" for at in range(5)] + TEXTS
            answers[number] = (
                asyncio.run(cached.embed(texts)) if number % 2 else cached.embed_sync(texts)
            ) == FAKE.lists(texts)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        start_no_threads()
        go.set()
        for thread in threads:
            thread.join(20)
        assert answers == dict.fromkeys(range(6), True)

    cached = CachedEmbeddingModel(FakeEmbeddingModel(), MemoryStore())
    asyncio.run(cached.embed(TEXTS))  # imports
    in_child(ask)


def test_without_threads_what_ends_a_program_passes_and_leaves_nothing_behind(anywhere: Path) -> None:
    def ask(path: Path) -> None:
        model = FakeEmbeddingModel()
        cached = CachedEmbeddingModel(model, path)

        def interrupt(_: list[str]) -> None:
            raise KeyboardInterrupt

        for error in (KeyboardInterrupt, ConnectionError):
            model.fault = interrupt if error is KeyboardInterrupt else lambda _: open_nothing()
            with pytest.raises(error):
                cached.embed_sync(TEXTS)
        model.fault = None
        assert cached.embed_sync(TEXTS) == FAKE.lists(TEXTS)

    def open_nothing() -> None:
        raise ConnectionError

    without_threads(ask, anywhere)
