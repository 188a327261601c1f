"""A cache on a FUSE file system: without maps, without flushes of directories, with reads that fail."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import ArrowStore, CachedEmbeddingModel
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.crowd import start
from tests.faults.fault_lab import FORMATS, MANAGERS, WAYS, Ledger
from tests.faults.workers import Item, items_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVER = Path(__file__).with_name("fuse.py")
TEXTS = [f"text {at}" for at in range(12)]
REFUSALS = [errno.EBADF, errno.EPERM]  # others are in test_file_systems.py

unflushed = pytest.mark.usefixtures("unflushed")
formats = pytest.mark.parametrize(
    "way",
    [way if way == "arrow" else pytest.param(way, marks=pytest.mark.long) for way in FORMATS],
)


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[Path]:
    """Mount a file system of ours; where that is not allowed, there is nothing to test."""
    behind, here = path / "behind", path / "mounted"
    behind.mkdir()
    here.mkdir()
    command = [sys.executable, "-IS", str(SERVER), str(behind), str(here), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        while not here.is_mount():
            if server.poll() is not None:
                pytest.skip(f"FUSE cannot be used here: {server.stderr.read().strip()[-100:]}")
            time.sleep(0.01)
        try:
            yield here
        finally:
            subprocess.run(["umount", "-l", str(here)], check=True)
            server.kill()


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("FUSE cannot be used here: there is no /dev/fuse for this user")
    with ExitStack() as mounts:
        yield lambda *options: mounts.enter_context(mounted(tmp_path, *options))


@unflushed
@formats
@pytest.mark.parametrize("options", [(), ("direct_io",)], ids=["with maps", "direct_io"])
def test_what_is_stored_is_found_and_merged(
    way: str, options: tuple[str, ...], fuse: Callable[..., Path], caplog: Any
) -> None:
    ledger = Ledger(way, fuse(*options) / "cache", f"on FUSE {' '.join(options)}")
    for text in TEXTS:
        ledger.ask(ledger.open(), [text])
    assert len([*ledger.path.glob("*/0*")]) < len(TEXTS)
    assert ledger.audit().good
    assert not caplog.records


@unflushed
def test_a_map_that_is_asked_for_and_refused_is_read(fuse: Callable[..., Path]) -> None:
    path = fuse("direct_io") / "cache"
    for _ in range(2):
        model = FakeEmbeddingModel()
        cached = CachedEmbeddingModel(model, ArrowStore(path, mapped=True))
        assert cached.embed_sync(TEXTS) == FakeEmbeddingModel().lists(TEXTS)
    assert not model.calls


@pytest.mark.parametrize("way", [way for way in ("arrow", "HF manager") if way in WAYS])
@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_where_directories_refuse_to_be_flushed_all_is_stored(
    way: str, number: int, fuse: Callable[..., Path], caplog: Any
) -> None:
    disk = fuse(str(number))
    ledger = Ledger(way, disk / "cache", "a directory that FUSE does not flush")
    ledger.ask(ledger.open(), TEXTS)
    if way in MANAGERS:
        manager = MANAGERS[way](disk / "checkpoints")
        for version in (0, 1):
            manager.save_checkpoint("name", items_of(version))
            assert manager.load_checkpoint("name", Item) == items_of(version)
    assert ledger.audit().good
    assert not caplog.records


def ask_while_reads_fail(way: str, path: Path, failing: Path) -> None:
    """Ask with a cache that was open before, and with one that was not; end with what went wrong."""
    ledger = Ledger(way, path, "")
    was_open, was_not = ledger.open(), ledger.open()
    ledger.ask(was_open, TEXTS[:1])
    failing.touch()
    for cached in (was_open, was_not):
        ledger.ask(cached, TEXTS)
    failing.unlink()
    ledger.ask(was_open, TEXTS)
    os._exit(ledger.outcome.raised + ledger.outcome.wrong)


@unflushed
@formats
@pytest.mark.parametrize("options", [(), ("direct_io",)], ids=["with maps", "direct_io"])
def test_reads_that_fail_end_no_process(
    way: str, options: tuple[str, ...], fuse: Callable[..., Path]
) -> None:
    disk = fuse(*options)
    ledger = Ledger(way, disk / "cache", "EIO from each read on FUSE")
    ledger.ask(ledger.open(), TEXTS)
    process = start(ask_while_reads_fail, way, ledger.path, disk.with_name("behind.failing"))
    process.join(30)
    assert process.exitcode == 0
    assert ledger.audit().good
