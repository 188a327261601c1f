"""Load: an hour's mixed traffic in ten minutes, and ten million entries in one cache."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    CacheOptions,
    CallableEmbeddingModel,
    MemoryStore,
    TieredStore,
)
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.benchmarks.timing import FILLER
from tests.faults.crowd import start
from tests.faults.fault_lab import TABLE, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kura_cache_adapters.identity import Role

PROCESSES, THREADS = 4, 8
ROLES: tuple[Role, ...] = ("document", "query")
PAUSE = 1 / 6  # between a thread's calls: one in a second, an hour in ten minutes
SHARED = 3000  # texts that are there before the traffic
MEMORY = 16 << 20
SLACK = 24 << 20  # what an allocator keeps, and thirty-two threads' work at hand
LONG = float(os.environ.get("KURA_CACHE_LOAD_SECONDS", "600"))


class Silent(FakeEmbeddingModel):
    """A model that remembers no call, answers after a moment, and tells queries from documents."""

    def __init__(self) -> None:
        super().__init__(dimension=384, roles=("query",))

    async def _answer(self, texts: list[str], role: Role) -> list[list[float]]:
        await asyncio.sleep(0.005)
        return self.lists(texts, role)


def store(tiered: bool, path: Path) -> Any:  # noqa: FBT001
    arrow = ArrowStore(path)
    return TieredStore(MemoryStore(max_bytes=MEMORY), arrow) if tiered else arrow


def anonymous_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


class Traffic:
    """One process's traffic: every call is timed, every vector checked."""

    def __init__(self, tiered: bool, path: Path, seconds: float, process: int) -> None:  # noqa: FBT001
        self.model = Silent()
        self.cached = CachedEmbeddingModel(self.model, store(tiered, path))
        self.end = time.monotonic() + seconds
        self.warm = time.perf_counter() + seconds / 5
        self.process = process
        self.new = [0] * THREADS
        self.hits: list[float] = []
        self.asked = self.wrong = 0
        self.errors: list[str] = []

    def calls(self, thread: int) -> Iterator[tuple[list[str], Role, bool]]:
        """Yield what to ask next: three calls in ten are of new texts, a fifth are queries."""
        chance = random.Random(100 * self.process + thread)
        at = time.monotonic()
        while at < self.end:
            at += chance.expovariate(1 / PAUSE)
            time.sleep(max(0, at - time.monotonic()))
            count, role = chance.randint(1, 8), ROLES[chance.random() < 0.2]
            fresh = chance.random() < 0.3
            if fresh:
                first = self.new[thread]
                self.new[thread] += count
                texts = [f"{self.process} {thread} {number}" for number in range(first, first + count)]
            else:
                texts = [f"text {number}" for number in chance.sample(range(SHARED), count)]
            yield texts, role, fresh

    def note(self, texts: list[str], role: Role, fresh: bool, began: float, vectors: Any) -> None:  # noqa: FBT001
        if not fresh and began > self.warm:
            self.hits.append(time.perf_counter() - began)
        self.asked += len(texts)
        self.wrong += not np.array_equal(np.asarray(vectors, np.float32), self.model.array(texts, role))

    def sync(self, thread: int) -> None:
        for texts, role, fresh in self.calls(thread):
            began = time.perf_counter()
            self.note(texts, role, fresh, began, self.cached.embed_sync(texts, role=role))

    async def asynchronous(self, thread: int) -> None:
        for texts, role, fresh in self.calls(thread):
            began = time.perf_counter()
            self.note(texts, role, fresh, began, await self.cached.embed(texts, role=role))

    def serve(self, thread: int) -> None:
        try:
            asyncio.run(self.asynchronous(thread)) if thread % 2 else self.sync(thread)
        except Exception as error:  # noqa: BLE001 - none may come out
            self.errors.append(repr(error))

    def run(self, report: Path) -> None:
        threads = [threading.Thread(target=self.serve, args=(thread,)) for thread in range(THREADS)]
        for thread in threads:
            thread.start()
        time.sleep((self.end - time.monotonic()) / 5)
        before = anonymous_memory()
        for thread in threads:
            thread.join()
        grown = anonymous_memory() - before
        told = {"grown": grown, "hits": self.hits, "asked": self.asked, "wrong": self.wrong}
        report.write_text(json.dumps({**told, "errors": self.errors}))


def traffic(tiered: bool, path: Path, seconds: float, process: int, report: Path) -> None:  # noqa: FBT001
    Traffic(tiered, path, seconds, process).run(report)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("tiered", [True, False], ids=["memory, arrow", "arrow"])
@pytest.mark.parametrize(
    "seconds", [3.0, pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.timeout(LONG + 90)])]
)
def test_an_hours_traffic(seconds: float, tiered: bool, tmp_path: Path) -> None:  # noqa: FBT001
    path, model = tmp_path / "cache", Silent()
    shared = [f"text {number}" for number in range(SHARED)]
    cached = CachedEmbeddingModel(model, store(tiered, path))
    for role in ROLES:
        cached.add(shared, model.array(shared, role), role=role)
    reports = [tmp_path / f"report {number}" for number in range(PROCESSES)]
    running = [start(traffic, tiered, path, seconds, *each) for each in enumerate(reports)]
    for process in running:
        process.join()
    told = [json.loads(report.read_text()) for report in reports]
    half, most = np.percentile(np.concatenate([one["hits"] for one in told]) * 1e6, [50, 99])
    grown, files = max(one["grown"] for one in told), len([*path.rglob("*")])
    times = f"p50 {half:.0f} us, p99 {most:.0f} us"
    way = f"{'memory, arrow' if tiered else 'arrow'}; {times}; {files} files, "
    outcome = Outcome(f"traffic for {seconds:.0f} s", f"{way}grown by {grown >> 20} MB")
    outcome.rounds, outcome.acknowledged = 1, sum(one["asked"] for one in told)
    outcome.wrong = sum(one["wrong"] for one in told)
    outcome.raised = sum(len(one["errors"]) for one in told)
    TABLE[outcome.fault, outcome.way] = outcome
    assert outcome.good, [one["errors"] for one in told]
    assert outcome.acknowledged > 300 * seconds
    assert grown < MEMORY * tiered + SLACK
    assert files < 100
    if seconds == LONG:
        assert most < 20 * half


MANY, FEW, BATCH = 10_000_000, 10_000, 100_000


def numbered(numbers: Iterable[int]) -> list[str]:
    return [f"{number:08d} {FILLER}" for number in numbers]


def filled(path: Path, count: int) -> CachedEmbeddingModel:
    """Fill a cache with vectors that say their text's number."""
    model = CallableEmbeddingModel(lambda _: 1 / 0, model_name="large")
    cached = CachedEmbeddingModel(model, path, options=CacheOptions(durable=False))
    for first in range(0, count, BATCH):
        numbers = np.arange(first, min(first + BATCH, count))
        vectors = np.zeros((len(numbers), 8), np.float32)
        vectors[:, 0], vectors[:, 1] = numbers // 4096, numbers % 4096
        cached.add(numbered(numbers.tolist()), vectors)
    return cached


def microseconds_per_text(cached: CachedEmbeddingModel, count: int) -> float:
    """Look up ten thousand random texts at a time; return the best."""
    chance, best = np.random.default_rng(0), float("inf")
    for _ in range(20):
        numbers = chance.integers(0, count, FEW)
        texts = numbered(numbers.tolist())
        began = time.perf_counter()
        vectors = cached.embed_array_sync(texts)
        best = min(best, (time.perf_counter() - began) / FEW * 1e6)
        assert np.array_equal(vectors[:, 0] * 4096 + vectors[:, 1], numbers)
    return best


def seconds_of(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@pytest.mark.long
@pytest.mark.timeout(400)
def test_ten_million_entries_are_opened_found_and_merged_like_ten_thousand(tmp_path: Path) -> None:
    small, large = filled(tmp_path / "small", FEW), filled(tmp_path / "large", MANY)
    few, many = microseconds_per_text(small, FEW), microseconds_per_text(large, MANY)
    again = CachedEmbeddingModel(large.embedding_model, tmp_path / "large")
    opening = seconds_of(lambda: again.missing(numbered([1])))
    merging = max(
        seconds_of(lambda first=first: again.add(numbered(range(first, first + 100)), np.ones((100, 8))))  # type: ignore[misc]
        for first in range(MANY, MANY + 2000, 100)
    )
    way = f"10,000: {few:.2f} us, 10,000,000: {many:.2f} us, opened in {opening * 1e3:.1f} ms, "
    outcome = Outcome("ten million entries", f"{way}slowest write {merging * 1e3:.0f} ms", 1, MANY)
    TABLE[outcome.fault, outcome.way] = outcome
    assert opening < 0.1
    assert merging < 1
    assert many < 2 * few
