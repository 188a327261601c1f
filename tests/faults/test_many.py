"""Many at once: writers that are killed, threads and loops, forks, cancellations."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.crowd import check, some_of, start, stop, whole_lines
from tests.faults.fault_lab import FORMATS, WAYS, Ledger

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from pathlib import Path

TEXTS = [f"text {number}" for number in range(60)]


def write(way: str, path: Path, seed: int, log: Path) -> None:
    """Embed and write down what is acknowledged, until killed."""
    chance, ledger = random.Random(seed), Ledger(way, path, "")
    cached = ledger.open()
    with log.open("ab", buffering=0) as acknowledged:
        while True:
            texts = some_of(chance, 5)
            ledger.ask(cached, texts)
            check(ledger)
            acknowledged.write("".join(f"{text}\n" for text in texts).encode())


def crowd(way: str, path: Path, kills: int) -> Ledger:
    """Let eight writers and a reader loose on one directory; kill a writer now and then, and replace it."""
    chance, ledger = random.Random(kills), Ledger(way, path / "cache", "8 writers, killed at random")

    def launch(number: int) -> BaseProcess:
        return start(write, way, ledger.path, number, path / f"log {number}")

    writers = [launch(number) for number in range(8)]
    reader = ledger.open()
    for number in range(kills):
        ledger.ask(reader, some_of(chance, 20))
        time.sleep(chance.random() * 0.1)
        victim = writers.pop(chance.randrange(8))
        stop(victim, ledger)
        writers.append(launch(8 + number))
    for writer in writers:
        stop(writer, ledger)
    for log in path.glob("log *"):
        ledger.acknowledged.update(whole_lines(log))
    return ledger


def files_in(path: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(path))


@pytest.mark.parametrize(
    ("way", "kills"),
    [("arrow", 12), *(pytest.param(way, 60, marks=pytest.mark.long) for way in WAYS)],
)
def test_writers_on_one_directory_may_be_killed(way: str, kills: int, tmp_path: Path) -> None:
    ledger = crowd(way, tmp_path, kills)
    assert len(ledger.acknowledged) > 100
    assert ledger.audit().good
    if way in FORMATS:
        assert files_in(ledger.path) < 300


class Slow(FakeEmbeddingModel):
    """A model that takes a moment, and counts what it has answered."""

    def __init__(self) -> None:
        super().__init__()
        self.answered: Counter[str] = Counter()

    async def embed(self, texts: list[str], *, role: str = "document") -> list[list[float]]:
        await asyncio.sleep(0.01)
        self.answered.update(texts)
        return self.lists(texts, role)


class SlowInThread(Slow):
    """The same, sync: what it has begun, it answers."""

    def embed_sync(self, texts: list[str]) -> list[list[float]]:
        time.sleep(0.01)
        self.answered.update(texts)
        return self.lists(texts)


def overlapping() -> list[list[str]]:
    return [TEXTS[at : at + 30] for at in (0, 10, 20, 30)]


def assert_each_was_paid_once(model: Slow, answers: list[list[list[float]]]) -> None:
    assert answers == [model.lists(texts) for texts in overlapping()]
    assert model.answered == Counter(TEXTS)


@pytest.mark.parametrize("model", [Slow(), SlowInThread()], ids=["async", "sync"])
def test_four_threads_with_four_loops_on_one_object(model: Slow, tmp_path: Path) -> None:
    model.answered.clear()
    cached = CachedEmbeddingModel(model, tmp_path, options=CacheOptions(chunk_size=7))
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda texts: asyncio.run(cached.embed(texts)), overlapping()))
    assert_each_was_paid_once(model, answers)


def test_five_loops_one_after_another(tmp_path: Path) -> None:
    model = Slow()
    cached = CachedEmbeddingModel(model, tmp_path)
    for at in range(5):
        texts = TEXTS[10 * at : 10 * at + 20]
        assert asyncio.run(cached.embed(texts)) == model.lists(texts)
    assert model.answered == Counter(TEXTS)


def test_a_cache_opened_twice_in_a_process_finds_what_the_other_stored(tmp_path: Path) -> None:
    model = Slow()
    one, two = (CachedEmbeddingModel(model, tmp_path) for _ in range(2))
    for at in range(40):
        here, there = (one, two) if at % 2 else (two, one)
        assert here.embed_sync(TEXTS[at : at + 2]) == model.lists(TEXTS[at : at + 2])
        assert there.embed_sync(TEXTS[at : at + 2]) == model.lists(TEXTS[at : at + 2])
    assert model.answered == Counter(TEXTS[:41])


def go_on(cached: CachedEmbeddingModel, number: int) -> None:
    texts = [f"{number}, text {at}" for at in range(10)]
    fake: Any = cached.embedding_model
    for at in range(10):
        assert cached.embed_sync(texts[: at + 1]) == fake.lists(texts[: at + 1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_after_a_fork_both_sides_go_on(way: str, tmp_path: Path) -> None:
    ledger = Ledger(way, tmp_path / "cache", "fork after open")
    cached = ledger.open()
    go_on(cached, 0)
    children = [multiprocessing.get_context("fork").Process(target=go_on, args=(cached, n)) for n in (1, 2)]
    for child in children:
        child.start()
    go_on(cached, 3)
    for child in children:
        child.join(30)
        ledger.outcome.stuck += child.is_alive()
        child.kill()
        ledger.outcome.raised += child.exitcode != 0
    assert ledger.audit(f"{number}, text {at}" for number in range(4) for at in range(10)).good


async def cancelled_now_and_then(cached: CachedEmbeddingModel, chance: random.Random, calls: int) -> None:
    async def one() -> None:
        texts = chance.sample(TEXTS, 12)
        timeout = chance.choice([0.001, 0.01, 0.03, 0.1, 10])
        model: Any = cached.embedding_model
        try:
            assert await asyncio.wait_for(cached.embed(texts), timeout) == model.lists(texts)
        except asyncio.TimeoutError:
            assert timeout < 10

    for _ in range(calls):
        await asyncio.gather(*(one() for _ in range(chance.randrange(1, 5))))


@pytest.mark.parametrize("rounds", [8, pytest.param(60, marks=pytest.mark.long)])
@pytest.mark.parametrize("make", [Slow, SlowInThread])
def test_calls_cancelled_at_random_pay_for_nothing_twice(
    make: type[Slow], rounds: int, tmp_path: Path
) -> None:
    for seed in range(rounds):
        model = make()
        path = tmp_path / str(seed)
        cached = CachedEmbeddingModel(model, path, options=CacheOptions(chunk_size=3, durable=False))
        asyncio.run(cancelled_now_and_then(cached, random.Random(seed), 5))
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
        assert model.answered == Counter(TEXTS)
        again = CachedEmbeddingModel(fresh := FakeEmbeddingModel(), path)
        assert again.embed_sync(TEXTS) == model.lists(TEXTS)
        assert fresh.texts == []


def test_a_model_that_asks_its_own_cache_is_told_so(tmp_path: Path) -> None:
    class Circular(SlowInThread):
        def embed_sync(self, texts: list[str]) -> list[list[float]]:
            return cached.embed_sync(texts)

    cached = CachedEmbeddingModel(Circular(), tmp_path)
    with pytest.raises(RuntimeError, match="the cache around itself"):
        cached.embed_sync(["a"])
