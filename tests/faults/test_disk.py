"""Disks that are full, read-only, unreadable or gone: slower, and nothing worse."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.fault_lab import FORMATS, MANAGERS, WAYS, Ledger
from tests.faults.workers import Item, items_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from kura_cache_adapters import CachedEmbeddingModel

pytestmark = pytest.mark.usefixtures("unflushed")

NOBODY = 65534
OLD = [f"old {at}" for at in range(20)]
MEANWHILE = [f"asked meanwhile {at}" for at in range(20)]

every_way = pytest.mark.parametrize(
    "way",
    [way if way in FORMATS else pytest.param(way, marks=pytest.mark.long) for way in WAYS],
)


@pytest.fixture
def public_path(tmp_path: Path) -> Iterator[Path]:
    """Return a directory that every user can reach, below no private one."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB; where that is not allowed, there is nothing to test."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill a file system to the last byte, then free it again."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass
    yield
    (disk / "filler").unlink()


@contextmanager
def read_only_file_system(disk: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


@contextmanager
def mode(path: Path, files: int, directories: int) -> Iterator[None]:
    """Change the mode of all that is at a path, and work as a user whom modes bind."""
    before = {entry: entry.stat().st_mode for entry in [path, *path.rglob("*")]}
    for entry in reversed(before):
        if os.geteuid() == 0:
            os.chown(entry, NOBODY, NOBODY)
        entry.chmod(directories if entry.is_dir() else files)
    with as_nobody():
        yield
    for entry, old in before.items():
        entry.chmod(old)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's rights for a while: it may read and write everything."""
    user = os.geteuid()
    os.seteuid(user or NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@contextmanager
def limited(limit: int, size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (soft, hard))


@contextmanager
def no_descriptors(_: Path) -> Iterator[None]:
    """Open files until there is no descriptor left."""
    with ExitStack() as opened, limited(resource.RLIMIT_NOFILE, 128):
        with suppress(OSError):
            while True:
                opened.enter_context(Path(os.devnull).open())
        yield


TROUBLE: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "file size limit": lambda _: limited(resource.RLIMIT_FSIZE, 100),
    "no file descriptors": no_descriptors,
    "read-only directory": lambda path: mode(path, 0o600, 0o500),
    "read-only files": lambda path: mode(path, 0o400, 0o700),
    "read-only files and directory": lambda path: mode(path, 0o400, 0o500),
    "unreadable files": lambda path: mode(path, 0, 0o700),
    "unreadable directory": lambda path: mode(path, 0o600, 0o300),
    "unreadable files, read-only directory": lambda path: mode(path, 0, 0o500),
    "closed directory": lambda path: mode(path, 0, 0),
}
MOUNTED = {"full disk": full, "read-only file system": read_only_file_system}


def outlive(ledger: Ledger, trouble: AbstractContextManager[None], caplog: Any) -> None:
    """Ask before, in and after trouble, with a cache that was open before and with one that was not.

    What was acknowledged before is found afterwards; what was asked in the trouble may not be.
    """
    was_open, was_not = ledger.open(), ledger.open()
    ledger.ask(was_open, OLD)
    with trouble:
        for cached in (was_open, was_not):
            ledger.ask(cached, [*OLD, *MEANWHILE])
        warnings = [record.levelname for record in caplog.records].count("WARNING")
        for cached in (was_open, was_not):
            ledger.ask(cached, [*OLD, *MEANWHILE])
    assert [record.levelname for record in caplog.records].count("WARNING") == warnings
    ledger.acknowledged = {*OLD}
    assert ledger.audit().good
    for number, cached in enumerate([was_open, was_not]):
        assert_found(ledger, cached, OLD)
        asked = [*OLD, *MEANWHILE, f"asked afterwards {number}"]
        ledger.ask(cached, asked)
        assert_found(ledger, cached, asked)
    assert ledger.audit().good


def assert_found(ledger: Ledger, cached: CachedEmbeddingModel, texts: list[str]) -> None:
    hits = cached.stats.hits
    ledger.ask(cached, texts)
    assert cached.stats.hits == hits + len(texts)


@every_way
@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_is_outlived(way: str, trouble: str, caplog: Any, public_path: Path) -> None:
    outlive(Ledger(way, public_path / "cache", trouble), TROUBLE[trouble](public_path), caplog)


@every_way
@pytest.mark.parametrize("trouble", MOUNTED)
def test_trouble_of_a_file_system_is_outlived(way: str, trouble: str, caplog: Any, disk: Path) -> None:
    outlive(Ledger(way, disk / "cache", trouble), MOUNTED[trouble](disk), caplog)


@pytest.mark.parametrize("way", [name for name in MANAGERS if name in WAYS])
@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_checkpoint_outlives_trouble(way: str, trouble: str, public_path: Path) -> None:
    manager = MANAGERS[way](public_path / "checkpoints")
    manager.save_checkpoint("name", items_of(0))
    with TROUBLE[trouble](public_path), suppress(OSError):  # what a save raises
        manager.save_checkpoint("name", items_of(1))
    assert manager.load_checkpoint("name", Item) in (items_of(0), items_of(1))
    manager.save_checkpoint("name", items_of(2))
    assert manager.load_checkpoint("name", Item) == items_of(2)


def test_what_killed_writers_left_does_not_fill_the_disk_for_ever(disk: Path) -> None:
    ledger = Ledger("arrow", disk / "cache", "a disk full of leftovers")
    cached = ledger.open()
    ledger.ask(cached, OLD)
    (space,) = (path for path in ledger.path.iterdir() if path.is_dir())
    with full(disk):
        left = (disk / "filler").rename(space / ".left.1-00.tmp")
        os.utime(left, (0, 0))
        (disk / "filler").touch()
        ledger.ask(cached, MEANWHILE)
        assert cached.stats.save_failures == 1
        ledger.ask(cached, MEANWHILE)
        assert ledger.audit().good


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of another user")
@pytest.mark.parametrize("way", FORMATS)
def test_segments_that_cannot_be_removed_are_merged_once(way: str, public_path: Path) -> None:
    ledger = Ledger(way, public_path / "cache", "a sticky directory")
    for text in OLD[:7]:
        ledger.ask(ledger.open(), [text])
    others = {*ledger.path.glob("*/*")}
    for entry in ledger.path.rglob("*"):
        entry.chmod(0o1777 if entry.is_dir() else 0o644)
    ledger.path.chmod(0o755)
    with as_nobody():
        cached = ledger.open()
        merged = set()
        for text in [*OLD, *MEANWHILE]:
            ledger.ask(cached, [text])
            merged |= {path for path in ledger.path.glob("*/0*") if not path.name.startswith("000000001-")}
    assert others <= {*ledger.path.glob("*/*")}
    assert 1 < len(merged) < 10
    assert ledger.audit().good


@contextmanager
def taken_by_a_file(path: Path) -> Iterator[None]:
    path.write_text("in the way")
    yield
    assert path.read_text() == "in the way"
    path.unlink()


@contextmanager
def dangling_link(path: Path) -> Iterator[None]:
    path.symlink_to(path.with_name("nowhere"))
    yield
    assert not path.with_name("nowhere").exists()
    path.unlink()


IN_THE_WAY = {"a file in the way": taken_by_a_file, "a dangling link": dangling_link}


@every_way
@pytest.mark.parametrize("trouble", IN_THE_WAY)
def test_what_is_in_the_way_is_left_alone_until_it_is_gone(way: str, trouble: str, tmp_path: Path) -> None:
    ledger = Ledger(way, tmp_path / "cache", trouble)
    with IN_THE_WAY[trouble](ledger.path):
        cached = ledger.open()
        for _ in range(2):
            ledger.ask(cached, MEANWHILE)
        assert cached.stats.stored == 0
    ledger.acknowledged.clear()
    ledger.ask(cached, [*MEANWHILE, "asked afterwards"])
    assert ledger.audit().good


@every_way
def test_a_directory_that_vanishes_is_made_again(way: str, tmp_path: Path) -> None:
    ledger = Ledger(way, tmp_path / "cache", "the directory vanishes")
    for path in (ledger.path, *ledger.path.glob("*")):
        cached = ledger.open()
        ledger.ask(cached, OLD)
        shutil.rmtree(path)
        ledger.ask(cached, MEANWHILE)
        ledger.acknowledged = {*MEANWHILE}
        assert ledger.audit().good
