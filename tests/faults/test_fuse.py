"""A file system whose server fails: reads without an answer, stale handles, maps and renames refused."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kura_cache_adapters.stores import ArrowStore
from kura_cache_adapters.testing.stores import IDENTITY
from tests.faults.fault_lab import FORMATS, WAYS, Ledger
from tests.test_forgetting import put

if TYPE_CHECKING:
    from tests.faults.conftest import Mounted

ROOT = Path(__file__).parents[2]
every_way = pytest.mark.parametrize("way", WAYS)


def filled(way: str, mounted: Mounted, fault: str, batches: int = 12) -> Ledger:
    ledger = Ledger(way, mounted.path / "cache", fault)
    for number in range(batches):
        ledger.ask(ledger.open(), [f"text {number}.{at}" for at in range(3)])
    return ledger


@every_way
def test_all_is_stored_and_found_behind_a_server(way: str, mounted: Mounted) -> None:
    assert filled(way, mounted, "FUSE").audit().good


@every_way
def test_where_files_cannot_be_mapped_they_are_read(way: str, mounted: Mounted) -> None:
    mounted.fault("direct")
    ledger = filled(way, mounted, "FUSE with direct I/O")
    assert ledger.audit().good
    assert len([*ledger.path.glob("*/0*")]) < 12


@pytest.mark.parametrize("way", FORMATS)
@pytest.mark.parametrize(
    "code",
    [errno.EIO, *(pytest.param(code, marks=pytest.mark.long) for code in (errno.ETIMEDOUT, errno.ESTALE))],
)
def test_a_read_that_the_server_refuses_is_a_miss_and_no_signal(
    way: str, code: int, mounted: Mounted
) -> None:
    ledger = filled(way, mounted, "EIO from a FUSE server's reads")
    ledger.damaging = True
    cached = ledger.open()
    ledger.ask(cached, sorted(ledger.acknowledged))
    mounted.fault("read", code)
    mounted.forget_pages()
    for each in (cached, ledger.open()):
        ledger.ask(each, sorted(ledger.acknowledged))
        ledger.ask(each, ["text 1.1"])
        ledger.ask(each, ["not there"])
    mounted.heal()
    ledger.damaging = False
    ledger.acknowledged.discard("not there")  # Parquet files are read when they are written
    assert ledger.audit().good


LOOK_UP = """
import os
import sys
from pathlib import Path
from kura_cache_adapters.stores import ArrowStore
from tests.test_forgetting import *
store = ArrowStore(sys.argv[1], mapped=sys.argv[3] == "mapped")
assert len(found(store.space(IDENTITY), range(1000))) == 1000
Path(sys.argv[2], "read").write_text("5")
for path in Path(sys.argv[1]).rglob("*.arrow"):
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
for segment in store.space(IDENTITY)._listing.open.values():
    segment.release()
assert not found(store.space(IDENTITY), range(0, 1000, 7))
"""


@pytest.mark.parametrize(("how", "ended"), [("mapped", -signal.SIGBUS), ("read", 0)])
def test_the_same_fault_ends_a_process_that_has_mapped_the_file(
    how: str, ended: int, mounted: Mounted
) -> None:
    put(ArrowStore(mounted.path / "cache").space(IDENTITY), range(1000))
    command = [sys.executable, "-c", LOOK_UP, str(mounted.path / "cache"), str(mounted.control), how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ended, done.stderr


@every_way
def test_when_the_server_is_gone_the_model_answers(way: str, mounted: Mounted) -> None:
    ledger = filled(way, mounted, "a FUSE server that is gone")
    cached = ledger.open()
    ledger.ask(cached, sorted(ledger.acknowledged))
    mounted.kill()
    for each in (cached, ledger.open()):
        ledger.ask(each, ["text 1.1", "not there"])
    assert not ledger.outcome.raised
    assert not ledger.outcome.wrong


@pytest.mark.parametrize("way", [way for way in WAYS if way.lower().startswith("hf")])
def test_directories_that_cannot_be_renamed_are_copied(way: str, mounted: Mounted) -> None:
    """But new ones, which come into being by it: there is no other way, and the model answers."""
    ledger = filled(way, mounted, "EXDEV for directories")
    mounted.fault("rename", errno.EXDEV)
    ledger.damaging = True
    ledger.ask(ledger.open(), sorted(ledger.acknowledged))
    ledger.ask(ledger.open(), ["new"])
    assert not ledger.outcome.raised
    mounted.heal()
    ledger.damaging = False
    ledger.acknowledged.discard("new")
    assert ledger.audit().good


@pytest.mark.parametrize("code", [errno.EPERM, errno.EISDIR, errno.EBADF, errno.ENOSYS])
@pytest.mark.parametrize("way", [way for way in ("arrow", "hf", "HF manager") if way in WAYS])
def test_a_server_that_flushes_no_directory_is_stored_to(way: str, code: int, mounted: Mounted) -> None:
    mounted.fault("flush", code)
    assert filled(way, mounted, "no flushing of directories").audit().good


@pytest.mark.parametrize("way", FORMATS)
def test_a_reader_whose_files_another_host_has_removed_lists_again(way: str, mounted: Mounted) -> None:
    """NFS knows no file that is open and removed: whoever reads it is told ESTALE."""
    ledger = filled(way, mounted, "ESTALE for open files", batches=6)
    reader, texts = ledger.open(), sorted(ledger.acknowledged)
    ledger.ask(reader, texts)
    mounted.fault("stale")
    for number in range(6, 30):
        writer = ledger.open()
        ledger.ask(writer, [f"text {number}.{at}" for at in range(3)])
    mounted.forget_pages()
    asked = reader.embedding_model.texts  # type: ignore[attr-defined] # a fake one
    before = len(asked)
    for _ in range(3):
        ledger.ask(reader, sorted(ledger.acknowledged))
        ledger.ask(reader, texts[:1])
    assert len(reader.embedding_model.texts) == before  # type: ignore[attr-defined]
    assert ledger.audit().good


@pytest.mark.parametrize("way", FORMATS)
def test_two_hosts_write_merge_and_forget_in_one_directory(
    way: str, mounted: Mounted, mounted_elsewhere: Mounted
) -> None:
    hosts = [
        Ledger(way, each.path / "cache", "two hosts on a FUSE server")
        for each in (mounted, mounted_elsewhere)
    ]
    cached = [host.open() for host in hosts]
    for number in range(30):
        here, there = number % 2, 1 - number % 2
        hosts[here].ask(cached[here], [f"text {number}.{at}" for at in range(3)])
        hosts[there].acknowledged |= hosts[here].acknowledged
        hosts[there].ask(cached[there], sorted(hosts[here].acknowledged))
    asked = [text for each in cached for text in each.embedding_model.texts]  # type: ignore[attr-defined]
    assert len(asked) == len(hosts[0].acknowledged)
    doomed = [f"text {number}.1" for number in range(30)]
    assert cached[0].cache is not None
    space = cached[0].cache.store.space(cached[0].identity().shared)
    assert space.delete_many([bytes.fromhex(cached[0].cache_key(text)) for text in doomed]) == 30
    end = time.monotonic() + 2
    while time.monotonic() < end and len(cached[1].missing(doomed)) < 30:
        time.sleep(0.05)
    for host in hosts:
        host.acknowledged -= set(doomed)
        assert len(host.open().missing(doomed)) == 30
        assert host.audit().good
    assert len(cached[1].missing(doomed)) == 30


def test_what_the_lab_is_told_it_does(mounted: Mounted) -> None:
    file = mounted.path / "file"
    file.write_bytes(b"x" * 300_000)
    assert (mounted.backing / "file").read_bytes() == file.read_bytes()
    with file.open("rb") as opened:
        mounted.fault("stale")
        file.unlink()
        with pytest.raises(OSError) as caught:  # noqa: PT011 - by its errno
            os.fstat(opened.fileno())
        assert caught.value.errno == errno.ESTALE
