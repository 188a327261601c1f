"""Power cuts: what is durable is on the disk before it is acknowledged, and a file's half is no vector."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import CacheOptions, open_store
from tests.faults.fault_lab import FORMATS, MANAGERS, WAYS, Ledger
from tests.faults.workers import items_of

if TYPE_CHECKING:
    from collections.abc import Callable

OLD = [f"old {at}" for at in range(20)]

every_way = pytest.mark.parametrize(
    "way",
    [way if way in FORMATS else pytest.param(way, marks=pytest.mark.long) for way in WAYS],
)
unflushed = pytest.mark.usefixtures("unflushed")
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


def content_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def prefixes(size: int, count: int) -> list[int]:
    return sorted({0, 1, size - 1, *random.Random(size).sample(range(size), min(size, count))})


def cut_everything(ledger: Ledger, count: int) -> None:
    """Cut each file to prefixes: entries may be lost, but are never wrong, and the cache goes on."""
    ledger.ask(ledger.open(), OLD)
    whole = ledger.path.with_name("whole")
    shutil.copytree(ledger.path, whole)
    for file in content_of(whole):
        for size in prefixes(file.stat().st_size, count):
            shutil.rmtree(ledger.path)
            shutil.copytree(whole, ledger.path)
            os.truncate(ledger.path / file.relative_to(whole), size)
            assert ledger.audit().good


@every_way
@unflushed
def test_a_power_cut_makes_no_wrong_vector(way: str, tmp_path: Path) -> None:
    cut_everything(Ledger(way, tmp_path / "cache", "files cut to a prefix", damaging=True), 4)


@pytest.mark.long
@every_way
@unflushed
def test_no_prefix_of_a_file_makes_a_wrong_vector(way: str, tmp_path: Path) -> None:
    cut_everything(Ledger(way, tmp_path / "cache", "files cut to a prefix", damaging=True), 100)


def test_a_cut_identity_is_written_again(tmp_path: Path) -> None:
    ledger = Ledger("arrow", tmp_path / "cache", "files cut to a prefix", damaging=True)
    for size in (0, 1, 40):
        ledger.ask(ledger.open(), OLD)
        (file,) = ledger.path.glob("*/_identity.json")
        os.truncate(file, size)
        assert open_store(ledger.path).spaces() == []
        assert ledger.audit().good
        assert open_store(ledger.path).spaces() == [ledger.open().identity()]


class PowerCut:
    """Knows what a power cut would take: names and content that were not flushed.

    It looks whenever something is renamed or removed: by then all else must be on the disk.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.taken: list[Path] = []
        self._names: set[tuple[int, str]] = set()  # of directories, by the directory's number
        self._sizes: dict[int, int] = {}
        monkeypatch.setattr(os, "fsync", partial(self._flush, os.fsync))
        for name in ("rename", "replace", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, partial(self._change, getattr(os, name)))

    def look(self) -> None:
        """Note what would be gone; names with a dot are not finished, `_uses` is worth no flush."""
        for path in [self.root, *self.root.rglob("*")]:
            hidden = any(part.startswith(".") for part in path.relative_to(self.root).parts)
            if path.exists() and not hidden and path.name != "_uses" and not self._is_safe(path):
                self.taken.append(path)

    def _is_safe(self, path: Path) -> bool:
        content = path.is_dir() or self._sizes.get(path.stat().st_ino) == path.stat().st_size
        return content and (path.parent.stat().st_ino, path.name) in self._names

    def _flush(self, fsync: Callable[[int], None], descriptor: int) -> None:
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        inside = path.iterdir() if path.is_dir() else ()
        self._names |= {(path.stat().st_ino, child.name) for child in inside}
        self._sizes[path.stat().st_ino] = path.stat().st_size

    def _change(self, change: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        self.look()
        change(*args, **kwargs)


def fill_under(cut: PowerCut, ledger: Ledger, options: CacheOptions) -> None:
    cached = ledger.open(options)
    for number in range(20):  # with merges
        ledger.ask(cached, [f"text {number}"])
        cut.look()


@every_way
@needs_proc
def test_what_is_durable_is_on_the_disk_before_it_is_acknowledged(
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = Ledger(way, tmp_path / "a" / "cache", "power cut")
    cut = PowerCut(tmp_path / "a", monkeypatch)
    fill_under(cut, ledger, CacheOptions())
    monkeypatch.undo()
    assert cut.taken == []
    assert ledger.audit().good


def test_what_is_not_durable_is_not_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = PowerCut(tmp_path / "a", monkeypatch)
    fill_under(cut, Ledger("arrow", tmp_path / "a" / "cache", "power cut"), CacheOptions(durable=False))
    assert cut.taken
    assert not cut._sizes


@every_way
@needs_proc
def test_what_is_durable_does_not_rely_on_directories_that_another_has_just_made(
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = Ledger(way, tmp_path / "a" / "cache", "power cut")
    ledger.ask(ledger.open(CacheOptions(durable=False)), ["another's"])
    others = {*content_of(tmp_path)}
    cut = PowerCut(tmp_path / "a", monkeypatch)
    ledger.ask(ledger.open(), ["mine"])
    monkeypatch.undo()
    cut.taken.clear()
    cut.look()
    mine = {*content_of(tmp_path)} - others
    assert not {*cut.taken} & (mine | {parent for path in mine for parent in path.parents})


@pytest.mark.parametrize("way", [name for name in MANAGERS if name in WAYS])
@needs_proc
def test_a_saved_checkpoint_is_on_the_disk(
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = PowerCut(tmp_path / "a", monkeypatch)
    for number in range(3):
        MANAGERS[way](tmp_path / "a").save_checkpoint("name", items_of(number))
        cut.taken.clear()  # a directory of another name may stand in for it while it is replaced
        cut.look()
        assert cut.taken == []


@pytest.mark.parametrize("way", FORMATS)
def test_where_directories_cannot_be_flushed_entries_are_stored_all_the_same(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems of networks and images have no such call."""
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    ledger = Ledger(way, tmp_path / "cache", "directories cannot be flushed")
    ledger.ask(ledger.open(), ["a", "b"])
    assert ledger.audit().good
