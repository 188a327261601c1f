"""Ctrl-C, an end in the middle, and no memory left: the same object is used on."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, MemoryStore
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.fault_lab import WAYS, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess


from tests.faults.crowd import NOTHING, check, some_of, start, stop, whole_lines


@dataclass
class Busy:
    """Uses one object on and on; says `.` after each call and `x` after each Ctrl-C."""

    way: str
    path: Path
    log: Path
    said: Path

    def __post_init__(self) -> None:
        self.chance, self.ledger = random.Random(0), Ledger(self.way, self.path, "")

    def say(self, file: Path, what: str) -> None:
        with file.open("a") as end:
            end.write(what)

    def got(self, texts: list[str], vectors: Any) -> None:
        self.ledger.outcome.wrong += self.ledger.count_wrong(texts, vectors)
        check(self.ledger)
        self.say(self.log, "".join(f"{text}\n" for text in texts))
        self.say(self.said, ".")

    def sync(self) -> None:
        cached = self.ledger.open(CacheOptions(durable=False))
        while True:
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                while True:
                    self.got(texts := some_of(self.chance, 5, 10_000), cached.embed_sync(texts))
            except KeyboardInterrupt:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # the next one must not end this word
                self.say(self.said, "x")

    def asynchronous(self) -> None:
        asyncio.run(self._cancelled_by_ctrl_c())

    async def _cancelled_by_ctrl_c(self) -> None:
        """Ctrl-C as servers have it: the loop cancels a task. (`asyncio.run` itself may hang at it.)"""
        cached, loop = self.ledger.open(CacheOptions(durable=False)), asyncio.get_running_loop()
        while True:
            texts = some_of(self.chance, 5, 10_000)
            call = asyncio.ensure_future(cached.embed(texts))
            loop.add_signal_handler(signal.SIGINT, call.cancel)
            try:
                self.got(texts, await call)
            except asyncio.CancelledError:
                self.say(self.said, "x")


def busy(one: Busy, sync: bool) -> None:  # noqa: FBT001
    faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does
    one.sync() if sync else one.asynchronous()


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
    [("memory, arrow", 40), *(pytest.param(way, 150, marks=pytest.mark.long) for way in WAYS)],
)
def test_after_ctrl_c_the_same_object_is_used_on(way: str, rounds: int, sync: bool, tmp_path: Path) -> None:  # noqa: FBT001
    ledger = Ledger(way, tmp_path / "cache", f"Ctrl-C, {'sync' if sync else 'async'}")
    chance, log, said = random.Random(rounds), tmp_path / "log", tmp_path / "said"
    process = start(busy, Busy(way, ledger.path, log, said), sync)
    assert wait_for(lambda: said.exists() and said.stat().st_size > 3, process)
    for _ in range(rounds):
        time.sleep(0.002 + chance.random() * 0.02)
        if not interrupt(process, said):
            ledger.outcome.stuck += 1
            if process.is_alive():
                os.kill(process.pid or 0, signal.SIGUSR1)
                time.sleep(0.5)
            break
    assert b"x" in said.read_bytes()
    stop(process, ledger)
    assert ledger.audit(whole_lines(log)).good


def use_memory(store: MemoryStore, numbers: range) -> None:
    """Put, evict, shrink, delete, clear; whatever is found must be right."""
    space = store.space(ModelIdentity.of("fake"))
    for number in numbers:
        keys = [bytes([at]) * 32 for at in range(number, number + 9)]
        space.put_many(keys, np.array([[key[0], -key[0]] for key in keys], np.float32))
        space.delete_many(keys[:1])
        if number % 3 == 0:
            store.close()
        assert_right(store)


def assert_right(store: MemoryStore) -> int:
    hits = store.space(ModelIdentity.of("fake")).get_many([bytes([at]) * 32 for at in range(200)])
    assert np.array_equal(hits.vectors.reshape(-1, 2)[:, 0], hits.positions)
    return len(hits.positions)


def test_ctrl_c_at_any_line_leaves_memory_right_and_usable() -> None:
    for nth in range(1, 100_000):
        store, lines = MemoryStore(max_bytes=3000), count(1)

        def stop(frame: Any, event: str, _: object, lines: Any = lines, nth: int = nth) -> Any:
            if not frame.f_code.co_filename.endswith("memory.py"):
                return None
            if event == "line" and next(lines) == nth:
                raise KeyboardInterrupt
            return stop

        before = sys.gettrace()
        sys.settrace(stop)
        try:
            use_memory(store, range(0, 40, 5))
            break
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert_right(store)
        use_memory(store, range(40, 80, 10))
        assert assert_right(store)
    assert nth > 100


ENDING = """
import sys, time
from kura_cache_adapters import CachedEmbeddingModel, CallableEmbeddingModel
def embed(texts):
    time.sleep(float(sys.argv[2]))
    return [[1.0]] * len(texts)
cached = CachedEmbeddingModel(CallableEmbeddingModel(embed, model_name="m"), sys.argv[1])
print(flush=True)
cached.embed_sync(["a"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
@pytest.mark.parametrize(("seconds", "kept"), [(1, 1), (60, 0)])
def test_ctrl_c_ends_a_program_soon_and_keeps_what_soon_arrives(
    seconds: int, kept: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", ENDING, str(tmp_path), str(seconds)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None
    program.stdout.readline()
    time.sleep(0.3)  # by then it waits for its model
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=10)
    assert program.returncode == -signal.SIGINT
    assert errors.strip().endswith(b"KeyboardInterrupt")
    again = CachedEmbeddingModel(FakeEmbeddingModel("m", dimension=1), tmp_path)
    assert len(again.missing(["a"])) == 1 - kept


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_a_program_that_exits_at_once_on_ctrl_c_keeps_what_soon_arrives(tmp_path: Path) -> None:
    code = ENDING.replace("cached.embed_sync", "try: cached.embed_sync")
    code += "except KeyboardInterrupt: sys.exit(3)"
    command = [sys.executable, "-c", code, str(tmp_path), "1"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert program.stdout is not None
    program.stdout.readline()
    time.sleep(0.3)  # by then it waits for its model
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=10)
    assert program.returncode == 3
    again = CachedEmbeddingModel(FakeEmbeddingModel("m", dimension=1), tmp_path)
    assert not again.missing(["a"])


def short_of_memory(way: str, path: Path) -> None:
    """Ask for more each time, with little address space, then with all of it; leave with a code."""
    import resource

    ledger = Ledger(way, path, "", dimension=2048)
    cached = ledger.open(CacheOptions(durable=False, chunk_size=2000))
    ledger.ask(cached, some_of(random.Random(0), 10))  # all threads are there, all is imported
    limits, errors = resource.getrlimit(resource.RLIMIT_AS), 0
    told: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = told.append  # type: ignore[method-assign,assignment]
    logging.getLogger("kura_cache_adapters").addHandler(listener)
    for megabytes in range(12):
        texts = [f"{megabytes}, text {number}" for number in range(100 + 100 * megabytes)]
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
    os._exit(0 if errors or told else NOTHING)


def allocations_that_fail(way: str, path: Path) -> None:
    """Let the n-th allocation of Python's own fail in a look-up, for each n, and use the object on.

    Of a look-up in memory only: asyncio loses a wake-up whose allocation fails, and numpy may crash.
    """
    import _testcapi  # type: ignore[import-not-found]

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


def leaves_well(work: Any, *values: object) -> bool:
    process = start(work, *values)
    process.join(60)
    process.kill()
    process.join()
    return process.exitcode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
@pytest.mark.parametrize(
    "way", ["memory, arrow", *(pytest.param(way, marks=pytest.mark.long) for way in WAYS)]
)
def test_short_of_memory_nothing_but_memory_errors_come_out(way: str, tmp_path: Path) -> None:
    assert leaves_well(short_of_memory, way, tmp_path / "cache")


def test_an_allocation_that_fails_in_a_look_up_is_no_more_than_a_miss(tmp_path: Path) -> None:
    pytest.importorskip("_testcapi", reason="this Python was built without its tests")
    assert leaves_well(allocations_that_fail, "memory, arrow", tmp_path / "cache")
