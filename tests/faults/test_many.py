"""Many at once: writers that are killed, loops, forks, cancellations, Ctrl-C, and no memory left."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.lab import FORMATS, WAYS, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess


UNIVERSE = 1500
TEXTS = [f"text {number}" for number in range(60)]
WRONG, RAISED, NOTHING = 3, 4, 5
processes = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    processes.set_forkserver_preload(["tests.faults.test_many"])


def start(work: Callable[..., object], *values: object) -> BaseProcess:
    process = processes.Process(target=work, args=values)
    process.start()
    return process


def some_of(chance: random.Random, count: int, universe: int = UNIVERSE) -> list[str]:
    return [f"text {number}" for number in chance.choices(range(universe), k=count)]


def check(ledger: Ledger) -> None:
    """Leave the process with a code that says what went wrong, if anything has."""
    if ledger.outcome.wrong or ledger.outcome.raised:
        os._exit(WRONG if ledger.outcome.wrong else RAISED)


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


def whole_lines(log: Path) -> list[str]:
    """Return the lines of a log whose writer was killed: the last may be cut."""
    return log.read_text().split("\n")[:-1] if log.exists() else []


def crowd(way: str, path: Path, kills: int) -> Ledger:
    """Let eight writers and a reader loose on one directory; kill a writer now and then, and replace it."""
    chance, ledger = random.Random(kills), Ledger(way, path / "cache", "8 writers, killed at random")
    logs = iter(path / f"log {number}" for number in range(1000))
    launch = lambda number: start(write, way, ledger.path, number, next(logs))  # noqa: E731
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


def stop(writer: BaseProcess, ledger: Ledger) -> None:
    writer.kill()
    writer.join()
    ledger.outcome.wrong += writer.exitcode == WRONG
    ledger.outcome.raised += writer.exitcode not in {WRONG, -signal.SIGKILL}


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

    async def embed(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0.01)
        self.answered.update(texts)
        return self.lists(texts)


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


@pytest.mark.parametrize("rounds", [8, pytest.param(200, marks=pytest.mark.long)])
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


def busy(way: str, path: Path, said: Path, log: Path, sync: bool) -> None:  # noqa: FBT001
    """Use one object on and on; say `.` after each call and `x` after each Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance, ledger = random.Random(0), Ledger(way, path, "")
    cached = ledger.open(CacheOptions(durable=False))
    with said.open("ab", buffering=0) as say, log.open("ab", buffering=0) as acknowledged:
        while True:
            try:
                while True:
                    texts = some_of(chance, 5, 10_000)
                    vectors = cached.embed_sync(texts) if sync else asyncio.run(cached.embed(texts))
                    ledger.outcome.wrong += ledger.count_wrong(texts, vectors)
                    check(ledger)
                    acknowledged.write("".join(f"{text}\n" for text in texts).encode())
                    say.write(b".")
            except KeyboardInterrupt:
                say.write(b"x")


def wait_for(condition: Callable[[], bool], process: BaseProcess, seconds: float = 20) -> bool:
    """Poll until a condition holds; False when the process ends or the time is over first."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end or not process.is_alive():
            return False
        time.sleep(0.001)
    return True


def interrupt(process: BaseProcess, said: Path) -> bool:
    """Send Ctrl-C; tell whether the process hears it, or goes on where some callback swallowed it."""
    before = said.read_bytes()
    os.kill(process.pid or 0, signal.SIGINT)

    def heard() -> bool:
        news = said.read_bytes()[len(before) :]
        return b"x" in news or len(news) > 20

    return wait_for(heard, process)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("way", "rounds"),
    [("memory, arrow", 60), *(pytest.param(way, 400, marks=pytest.mark.long) for way in WAYS)],
)
def test_after_ctrl_c_the_same_object_is_used_on(way: str, rounds: int, sync: bool, tmp_path: Path) -> None:  # noqa: FBT001
    ledger = Ledger(way, tmp_path / "cache", f"Ctrl-C, {'sync' if sync else 'async'}")
    chance, log, said = random.Random(rounds), tmp_path / "log", tmp_path / "said"
    process = start(busy, way, ledger.path, said, log, sync)
    assert wait_for(lambda: said.exists() and said.stat().st_size > 3, process)
    for _ in range(rounds):
        time.sleep(0.002 + chance.random() * 0.02)
        if not interrupt(process, said):
            ledger.outcome.stuck += 1
            break
    assert b"x" in said.read_bytes()
    stop(process, ledger)
    assert ledger.audit(whole_lines(log)).good


def short_of_memory(way: str, path: Path) -> None:
    """Ask with a little more address space each time, then with all of it; leave with a code."""
    import resource

    ledger = Ledger(way, path, "", dimension=2048)
    cached = ledger.open(CacheOptions(durable=False))
    ledger.ask(cached, some_of(random.Random(0), 400))  # all threads are there, all is imported
    limits, errors = resource.getrlimit(resource.RLIMIT_AS), 0
    for megabytes in range(0, 60, 5):
        texts = [f"{megabytes}, text {number}" for number in range(400)]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), limits[1]))
        try:
            cached.embed_array_sync(texts)
        except MemoryError:
            errors += 1
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        ledger.ask(cached, texts)
        check(ledger)
    trouble = errors + cached.stats.save_failures + cached.stats.load_failures
    os._exit(0 if trouble else NOTHING)


def allocations_that_fail(way: str, path: Path) -> None:
    """Let the n-th allocation of Python's own fail in a look-up, for each n, and use the object on.

    Of a look-up only: asyncio loses a wake-up whose allocation fails, and nobody can tell.
    """
    import _testcapi

    ledger = Ledger(way, path, "")
    cached, texts = ledger.open(CacheOptions(durable=False)), some_of(random.Random(0), 3)
    ledger.ask(cached, texts)
    for nth in range(300):
        _testcapi.set_nomemory(nth, nth + 1)
        try:
            cached.missing(texts)
        except MemoryError:
            pass
        finally:
            _testcapi.remove_mem_hooks()
        ledger.ask(cached, texts)
        check(ledger)
    os._exit(0 if cached.stats.hits == 3 * 300 else NOTHING)


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
@pytest.mark.parametrize("shortage", [short_of_memory, allocations_that_fail])
@pytest.mark.parametrize(
    "way", ["memory, arrow", *(pytest.param(way, marks=pytest.mark.long) for way in WAYS)]
)
def test_without_memory_nothing_but_memory_errors_come_out(way: str, shortage: Any, tmp_path: Path) -> None:
    if shortage is allocations_that_fail:
        pytest.importorskip("_testcapi", reason="this Python was built without its tests")
    process = start(shortage, way, tmp_path / "cache")
    process.join(60)
    stuck = process.is_alive()
    process.kill()
    assert not stuck
    assert process.exitcode == 0
