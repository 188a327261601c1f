"""A kill, an error or a stop at the nth system call that changes files, for every n."""

from __future__ import annotations

import re
import shutil
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.faults.fault_lab import FORMATS, MANAGERS, WAYS, Ledger
from tests.faults.workers import STRIKES, Item, Job, Strike, Workers, items_of, texts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Numbers = Callable[[int], range]

pytestmark = pytest.mark.usefixtures("unflushed")

SOON = 5.0  # seconds
JOBS = [(0, Job("", "", batches=1)), (6, Job("", "", first=6, batches=3))]
"""How many batches there are already, and what follows: the first batch ever; and three, the second
of which brings a merge."""

FAST_JOBS = [(0, Job("", "", batches=9, durable=False))]
"""What is not durable is merged by its writer alone."""

CASES = {f"{name} call n": (strike, JOBS) for name, strike in STRIKES.items()}
CASES["kill before call n, not durable"] = (STRIKES["kill before"], FAST_JOBS)


def some(calls: int) -> range:
    """Return a few call numbers, all over the run."""
    return range(1, calls + 1, max(1, calls // 3))


def each(calls: int) -> range:
    """Return every call number."""
    return range(1, calls + 1)


def some_or_each(quick: list[str], ways: list[str]) -> pytest.MarkDecorator:
    """Strike some calls of a few ways in the quick half, each call of every way in the long one."""
    return pytest.mark.parametrize(
        ("way", "numbers"),
        [
            *(pytest.param(way, some, id=way) for way in quick if way in ways),
            *(pytest.param(way, each, id=f"{way}-each", marks=pytest.mark.long) for way in ways),
        ],
    )


stores = some_or_each(["arrow", "hf"], list(WAYS))
forgetting = some_or_each(["arrow", "hf"], FORMATS)
managers = some_or_each(["Parquet manager", "HF manager"], [name for name in MANAGERS if name in WAYS])
cases = pytest.mark.parametrize("case", CASES)
strikes = pytest.mark.parametrize("strike", STRIKES.values(), ids=STRIKES)


def with_batches(way: str, path: Path, count: int) -> list[str]:
    """Fill a cache with batches; return their texts."""
    cached = Ledger(way, path, "").open()
    for number in range(count):
        cached.embed_sync(texts_of(number))
    cached.close()
    return [text for number in range(count) for text in texts_of(number)]


def struck(workers: Workers, job: Job, numbers: Numbers) -> Iterator[Job]:
    """Yield a job for each number, on a copy of its directory; it is known to have so many calls."""
    template = f"{job.path}-template"
    shutil.copytree(job.path, template, dirs_exist_ok=True)
    calls = workers.run(replace(job, strike=Strike())).calls
    assert calls
    for at in numbers(calls):
        shutil.rmtree(job.path)
        shutil.copytree(template, job.path)
        yield replace(job, strike=replace(job.strike, at=at))


@stores
@cases
def test_a_strike_loses_nothing_and_raises_nothing(
    tmp_path: Path,
    workers: Workers,
    way: str,
    numbers: Numbers,
    case: str,
) -> None:
    strike, jobs = CASES[case]
    for before, todo in jobs:
        path = tmp_path / f"after {before}"
        path.mkdir()
        acknowledged = with_batches(way, path, before)
        job = replace(todo, way=way, path=str(path), strike=strike)
        for each_job in struck(workers, job, numbers):
            report = workers.run(each_job)
            assert not report.trouble
            assert report.ended == -strike.signal
            assert Ledger(way, path, case).audit(acknowledged + report.texts).good


@stores
def test_a_writer_that_stops_holds_up_nobody(
    tmp_path: Path,
    workers: Workers,
    way: str,
    numbers: Numbers,
) -> None:
    for before, todo in JOBS:
        path = tmp_path / f"after {before}"
        path.mkdir()
        ledger = Ledger(way, path, "SIGSTOP at call n")
        acknowledged = with_batches(way, path, before)
        job = replace(todo, way=way, path=str(path), strike=Strike(signal=signal.SIGSTOP))
        for each_job in struck(workers, job, numbers):
            stopped = workers.run(each_job)
            assert stopped.ended == -signal.SIGSTOP
            started = time.monotonic()
            other = workers.run(replace(todo, way=way, path=str(path), first=100))
            assert not other.trouble
            assert ledger.audit(acknowledged + other.texts).good
            assert time.monotonic() - started < SOON
            resumed = workers.resume(stopped)
            assert not other.refused + resumed.refused + resumed.trouble
            assert ledger.audit(resumed.texts).good
            ledger.acknowledged.clear()


@forgetting
@strikes
def test_a_struck_deletion_that_was_acknowledged_holds_and_costs_no_other_entry(
    tmp_path: Path,
    workers: Workers,
    way: str,
    numbers: Numbers,
    strike: Strike,
) -> None:
    path = tmp_path / "cache"
    texts = with_batches(way, path, 3)
    doomed = texts_of(1)
    job = Job(way, str(path), do="forget", first=1, strike=strike)
    for each_job in struck(workers, job, numbers):
        report = workers.run(each_job)
        assert not report.trouble
        ledger = Ledger(way, path, "a struck deletion")
        if report.acknowledged:
            assert len(ledger.open().missing(doomed)) == len(doomed)
        assert ledger.audit(set(texts) - set(doomed)).good
        assert ledger.open().embed_sync(doomed)
        assert ledger.audit(texts).good


@managers
@strikes
@pytest.mark.parametrize("before", [True, False], ids=["over an old one", "as the first"])
def test_a_struck_save_leaves_the_old_checkpoint_or_the_new_one(
    tmp_path: Path,
    workers: Workers,
    way: str,
    numbers: Numbers,
    strike: Strike,
    before: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "checkpoints"
    path.mkdir()
    if before:
        MANAGERS[way](path).save_checkpoint("name", items_of(0))
    old = items_of(0) if before else None
    job = Job(way, str(path), do="save", first=1, strike=strike)
    for each_job in struck(workers, job, numbers):
        report = workers.run(each_job)
        assert not report.trouble
        found = MANAGERS[way](path).load_checkpoint("name", Item)
        assert found == items_of(1) or (found == old and not report.acknowledged)
        assert_takes_and_finds(way, path)


@managers
def test_a_save_that_stops_holds_up_nobody(
    tmp_path: Path,
    workers: Workers,
    way: str,
    numbers: Numbers,
) -> None:
    path = tmp_path / "checkpoints"
    manager = MANAGERS[way](path)
    manager.save_checkpoint("name", items_of(0))
    job = Job(way, str(path), do="save", first=1, strike=Strike(signal=signal.SIGSTOP))
    for each_job in struck(workers, job, numbers):
        stopped = workers.run(each_job)
        started = time.monotonic()
        assert manager.load_checkpoint("name", Item) in (items_of(0), items_of(1))
        assert manager.list_checkpoints() == ["name"]
        assert time.monotonic() - started < SOON
        resumed = workers.resume(stopped)
        assert not resumed.trouble
        found = manager.load_checkpoint("name", Item)
        assert found == items_of(1) or (found == items_of(0) and not resumed.acknowledged)
        assert_takes_and_finds(way, path)


@managers
@strikes
def test_a_struck_delete_leaves_the_checkpoint_or_nothing(
    tmp_path: Path,
    workers: Workers,
    way: str,
    numbers: Numbers,
    strike: Strike,
) -> None:
    path = tmp_path / "checkpoints"
    MANAGERS[way](path).save_checkpoint("name", items_of(0))
    job = Job(way, str(path), do="delete", strike=strike)
    for each_job in struck(workers, job, numbers):
        report = workers.run(each_job)
        assert not report.trouble
        found = MANAGERS[way](path).load_checkpoint("name", Item)
        assert found is None or (found == items_of(0) and not report.acknowledged)
        assert_takes_and_finds(way, path)


def assert_takes_and_finds(way: str, path: Path) -> None:
    manager = MANAGERS[way](path)
    manager.save_checkpoint("name", items_of(2))
    assert manager.load_checkpoint("name", Item) == items_of(2)
    assert manager.list_checkpoints() == ["name"]
    assert manager.delete_checkpoint("name")
    assert manager.load_checkpoint("name", Item) is None


CHANGES = re.compile(
    r"O_CREAT|O_TRUNC|\b(p?writev?(64|v2)?|f(data)?sync|(f|fl|fall)?(truncate|ock|ocate)|f?chmod(at)?|mkdir(at)?|"
    r"rename(at2?)?|(sym)?link(at)?|unlink(at)?|rmdir|copy_file_range|sendfile)\("
)


@pytest.mark.parametrize("way", [way for way in ("parquet", "JSONL manager", "HF manager") if way in WAYS])
def test_the_shim_sees_every_system_call_that_strace_sees(tmp_path: Path, shim: Path, way: str) -> None:
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    path, log = tmp_path / "cache", tmp_path / "log"
    with Workers(shim, "strace", "-f", "-y", "-qq", "-o", str(log)) as workers:
        calls = workers.run(Job(way, str(path), batches=9)).calls
    changes = [line for line in log.read_text().splitlines() if CHANGES.search(line)]
    above = tuple(f"<{directory}>)" for directory in tmp_path.parents)
    ours = [line for line in changes if str(tmp_path) in line or any(name in line for name in above)]
    assert len(ours) == calls
