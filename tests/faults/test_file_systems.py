"""Odd file systems and clocks: layers of an image, directories that take no flush, copies of live caches."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.crowd import check, start, stop, whole_lines
from tests.faults.fault_lab import FORMATS, MANAGERS, WAYS, Ledger
from tests.faults.workers import Item, Job, Strike, Workers, items_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "stores.md"
HOUR = 3600
OLD = [f"old {at}" for at in range(7)]

unflushed = pytest.mark.usefixtures("unflushed")
managers = pytest.mark.parametrize("way", [name for name in MANAGERS if name in WAYS])


class Overlay:
    """A directory that is the upper layer over another one, as in a container made from an image."""

    def __init__(self, path: Path) -> None:
        self.lower, self.merged = path / "lower", path / "merged"
        self._own = [path / "upper", path / "work"]
        for each in (self.lower, self.merged, *self._own):
            each.mkdir()

    def start(self) -> None:
        """Start a container anew: nothing of an earlier one is left."""
        self.stop()
        for each in self._own:
            shutil.rmtree(each)
            each.mkdir()
        upper, work = self._own
        layers = f"lowerdir={self.lower},upperdir={upper},workdir={work},redirect_dir=off"
        mount = ["mount", "-t", "overlay", "overlay", "-o", layers, str(self.merged)]
        if not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("mounting an overlay needs root, and a file system that can be its upper layer")

    def stop(self) -> None:
        if self.merged.is_mount():
            subprocess.run(["umount", "-l", str(self.merged)], check=True)


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Overlay]:
    layers = Overlay(tmp_path)
    yield layers
    layers.stop()


def rows_of(path: Path) -> int:
    """Count the rows in the segments of a cache, by their names."""
    return sum(int(segment.name[:9]) for segment in path.glob("*/0*"))


def one_by_one(ledger: Ledger, texts: list[str]) -> None:
    """Ask for texts, each as a process of its own would."""
    for text in texts:
        cached = ledger.open()
        ledger.ask(cached, [text])
        cached.close()


@unflushed
@pytest.mark.parametrize("way", FORMATS)
def test_a_cache_in_an_image_takes_merges_and_does_not_grow_at_every_start(
    way: str, overlay: Overlay, caplog: Any
) -> None:
    one_by_one(Ledger(way, overlay.lower / "cache", ""), OLD)
    overlay.start()
    ledger = Ledger(way, overlay.merged / "cache", "a cache in a layer of an image")
    new = [f"new {at}" for at in range(5)]
    one_by_one(ledger, new)
    assert rows_of(ledger.path) == len(OLD + new)
    assert len([*ledger.path.glob("*/0*")]) < len(OLD)
    assert ledger.audit(OLD + new).good
    assert not caplog.records


@unflushed
@pytest.mark.parametrize("way", FORMATS)
def test_what_is_in_an_image_can_be_forgotten(way: str, overlay: Overlay, caplog: Any) -> None:
    lower = Ledger(way, overlay.lower / "cache", "")
    lower.ask(lower.open(), OLD)
    overlay.start()
    ledger = Ledger(way, overlay.merged / "cache", "a cache in a layer of an image, deletions")
    cached = ledger.open()
    assert cached.cache
    (identity,) = cached.cache.spaces()
    space = cached.cache.store.space(identity)
    key = bytes.fromhex(cached.cache_key(OLD[0]))
    assert space.delete_many([key]) == 1
    assert cached.missing(OLD) == [0]
    assert rows_of(ledger.path) == len(OLD) - 1
    assert ledger.audit(OLD[1:]).good
    assert not caplog.records


@unflushed
@managers
def test_a_checkpoint_in_an_image_is_replaced_and_deleted(way: str, overlay: Overlay) -> None:
    MANAGERS[way](overlay.lower / "checkpoints").save_checkpoint("name", items_of(0))
    overlay.start()
    manager = MANAGERS[way](overlay.merged / "checkpoints")
    for number in (1, 2):
        manager.save_checkpoint("name", items_of(number))
        assert manager.load_checkpoint("name", Item) == items_of(number)
    overlay.start()
    assert manager.delete_checkpoint("name")
    assert manager.load_checkpoint("name", Item) is None
    assert manager.list_checkpoints() == []


@unflushed
@pytest.mark.skipif("HF manager" not in WAYS, reason="needs the extra `datasets`")
def test_a_save_over_a_checkpoint_in_an_image_that_is_killed_leaves_the_old_or_the_new_one(
    overlay: Overlay, workers: Workers
) -> None:
    make, path = MANAGERS["HF manager"], overlay.merged / "checkpoints"
    make(overlay.lower / "checkpoints").save_checkpoint("name", items_of(0))
    overlay.start()
    job = Job("HF manager", str(path), do="save", first=1)
    calls = workers.run(replace(job, strike=Strike())).calls
    for at in range(1, calls + 1):
        overlay.start()
        report = workers.run(replace(job, strike=Strike(at=at, signal=signal.SIGKILL)))
        assert report.ended == -signal.SIGKILL
        found = make(path).load_checkpoint("name", Item)
        assert found in (items_of(0), items_of(1)), at
        make(path).save_checkpoint("name", items_of(2))
        assert make(path).load_checkpoint("name", Item) == items_of(2)
        assert [entry.name for entry in path.iterdir() if entry.name.endswith((".copy", ".previous"))] == []


def fill(way: str, path: Path, log: Path, whose: str = "our") -> None:
    """Embed one text after the other, and write down what is acknowledged, until killed."""
    ledger = Ledger(way, path, "")
    cached = ledger.open()
    with log.open("ab", buffering=0) as acknowledged:
        for number in range(1_000_000):
            ledger.ask(cached, [f"{whose} text {number}"])
            check(ledger)
            acknowledged.write(f"{whose} text {number}\n".encode())


COPIES = {
    "cp": 'mkdir {0}; for space in cache/*/; do flock "$space" cp -a "$space" {0}; done',
    "tar": 'mkdir {0}; cd cache; for space in */; do flock "$space" tar c "$space" | tar x -C ../{0}; done',
}
"""A temporary that is gone before it is copied is none of the copy."""


def test_the_docs_copy_as_is_tested() -> None:
    assert COPIES["cp"].format("copy") in DOCS.read_text()


@unflushed
@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock(1) of util-linux")
@pytest.mark.parametrize("tool", COPIES)
@pytest.mark.parametrize(
    ("way", "rounds"),
    [
        *[pytest.param(way, 8, id=way) for way in ("arrow", "hf") if way in FORMATS],
        *[pytest.param(way, 40, id=f"{way}-long", marks=pytest.mark.long) for way in FORMATS],
    ],
)
def test_a_copy_under_the_lock_of_merges_has_all_that_was_acknowledged(
    way: str, rounds: int, tool: str, tmp_path: Path
) -> None:
    live, log = Ledger(way, tmp_path / "cache", ""), tmp_path / "log"
    filler = start(fill, way, live.path, log)
    try:
        for number in range(rounds):
            grown = len(whole_lines(log)) + 5
            while len(acknowledged := whole_lines(log)) < grown:
                assert filler.is_alive()
                time.sleep(0.001)
            copy = Ledger(way, tmp_path / f"copy-{number}", f"a copy of a live cache, {tool}")
            command = ["sh", "-c", COPIES[tool].format(copy.path.name)]
            subprocess.run(command, cwd=tmp_path, check=False, capture_output=True)
            assert copy.audit(acknowledged).good
            shutil.rmtree(copy.path)
    finally:
        stop(filler, live)
    assert live.audit(whole_lines(log)).good


BESIDE = """
import sys, time
from pathlib import Path
from tests.faults.test_file_systems import fill
print(time.time(), flush=True)
fill(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), "their")
"""


@unflushed
@pytest.mark.parametrize("way", [way for way in ("arrow", "hf") if way in FORMATS])
@pytest.mark.parametrize("ahead", [2 * HOUR, -2 * HOUR])
def test_a_host_whose_clock_is_wrong_removes_nothing_that_another_is_writing(
    way: str, ahead: int, clock: Path, tmp_path: Path
) -> None:
    live = Ledger(way, tmp_path / "cache", "a clock that is two hours ahead or behind")
    live.ask(live.open(), OLD)
    (space,) = (path for path in live.path.iterdir() if path.is_dir())
    in_flight = space / ".another's.tmp"
    in_flight.touch()
    logs = [tmp_path / "ours", tmp_path / "theirs"]
    environment = {**os.environ, "LD_PRELOAD": str(clock), "CLOCK_AHEAD": str(ahead)}
    command = [sys.executable, "-c", BESIDE, way, str(live.path), str(logs[1])]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as beside:
        assert beside.stdout
        shift = float(beside.stdout.readline()) - time.time()
        ours = start(fill, way, live.path, logs[0])
        try:
            while not all(len(whole_lines(log)) > 60 for log in logs):
                assert ours.is_alive()
                assert beside.poll() is None
                time.sleep(0.01)
        finally:
            stop(ours, live)
            beside.kill()
    assert abs(shift - ahead) < HOUR
    assert in_flight.exists()
    assert live.audit([text for log in logs for text in whole_lines(log)]).good


REFUSALS = [errno.EBADF, errno.EISDIR, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP]


def refuse_flush(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Refuse to flush directories, as some file systems do; files are flushed."""

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
@pytest.mark.parametrize("way", [way for way in (*FORMATS, *MANAGERS) if way in WAYS])
def test_where_directories_are_not_flushed_all_is_stored(
    way: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    refuse_flush(monkeypatch, number)
    ledger = Ledger(way, tmp_path / "cache", "a directory that takes no flush")
    ledger.ask(ledger.open(), OLD)
    if way in MANAGERS:
        manager = MANAGERS[way](tmp_path / "checkpoints")
        manager.save_checkpoint("name", items_of(0))
        manager.save_checkpoint("name", items_of(1))
        assert manager.load_checkpoint("name", Item) == items_of(1)
    assert ledger.audit().good
    assert not caplog.records


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_directory_that_the_disk_fails_to_flush_is_told_of(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    refuse_flush(monkeypatch, number)
    ledger = Ledger("arrow", tmp_path / "cache", "a directory that fails to be flushed")
    cached = ledger.open()
    ledger.ask(cached, OLD)
    assert cached.stats.save_failures == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    monkeypatch.undo()
    ledger.acknowledged.clear()
    assert ledger.audit().good
