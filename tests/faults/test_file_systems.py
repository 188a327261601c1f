"""File systems that refuse what others allow, hosts whose clocks are wrong, and copies of caches in use."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from kura_cache_adapters import CachedEmbeddingModel, HFDatasetCheckpointManager
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.fault_lab import FORMATS, STORES, WAYS, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
HOUR = 3600
formats = pytest.mark.parametrize("way", FORMATS)


def texts_of(*numbers: int) -> list[str]:
    return [f"text {number}" for number in numbers]


def segments(path: Path) -> list[Path]:
    return [each for each in path.glob("*/0*") if not each.name.startswith(".")]


# overlayfs: what an image brings along lies in a lower layer


@pytest.fixture
def overlaid(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Return a function that mounts what is in `lower` under a writable layer, and tells where."""
    layers = {name: tmp_path / name for name in ("lower", "upper", "work", "merged")}
    for path in layers.values():
        path.mkdir()

    def mount() -> Path:
        names = ",".join(f"{name}dir={layers[name]}" for name in ("lower", "upper", "work"))
        command = ["mount", "-t", "overlay", "overlay", "-o", names, str(layers["merged"])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no overlay can be mounted: {done.stderr.strip()}")
        return layers["merged"]

    if not shutil.which("mount") or sys.platform != "linux":
        pytest.skip("mounting needs Linux")
    yield mount
    subprocess.run(["umount", "-l", str(layers["merged"])], capture_output=True, check=False)


@formats
def test_a_cache_baked_into_an_image_is_used_on_and_does_not_grow_with_each_start(
    way: str, tmp_path: Path, overlaid: Callable[[], Path]
) -> None:
    baked = Ledger(way, tmp_path / "lower" / "cache", "overlayfs")
    for number in range(7):
        baked.ask(baked.open(), texts_of(number))
    ledger = Ledger(way, overlaid() / "cache", "overlayfs")
    ledger.acknowledged = baked.acknowledged
    for number in range(7, 40):
        ledger.ask(ledger.open(), texts_of(number))
    assert len(segments(ledger.path)) < 25
    doomed = texts_of(0, 1, 20)
    cached = ledger.open()
    assert cached.cache is not None
    space = cached.cache.store.space(cached.identity().shared)
    assert space.delete_many([bytes.fromhex(cached.cache_key(text)) for text in doomed]) == 3
    assert ledger.open().missing(doomed) == [0, 1, 2]
    ledger.acknowledged -= set(doomed)
    assert ledger.audit().good


class Item(BaseModel):
    number: int


def test_checkpoints_baked_into_an_image_are_replaced_and_deleted(
    tmp_path: Path, overlaid: Callable[[], Path]
) -> None:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    for name in ("one", "two"):
        HFDatasetCheckpointManager(tmp_path / "lower" / "points").save_checkpoint(name, [Item(number=1)])
    manager = HFDatasetCheckpointManager(overlaid() / "points")
    for number in (2, 3):
        manager.save_checkpoint("one", [Item(number=number)])
        assert manager.load_checkpoint("one", Item) == [Item(number=number)]
    assert manager.delete_checkpoint("two")
    assert manager.list_checkpoints() == ["one"]


# Directories that cannot be flushed


@pytest.mark.parametrize(
    "code", [errno.EBADF, errno.EISDIR, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP]
)
@pytest.mark.parametrize("call", ["fsync", "open"])
@pytest.mark.parametrize("way", [way for way in ("arrow", "hf", "HF manager") if way in WAYS])
def test_where_directories_are_not_flushed_all_is_stored_none_the_less(
    way: str, call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_directories(monkeypatch, call, code)
    ledger = Ledger(way, tmp_path / "cache", "no flushing of directories")
    for number in range(10):
        cached = ledger.open()
        ledger.ask(cached, texts_of(number))
        assert cached.stats.save_failures == 0
    assert ledger.audit().good


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_directory_that_could_not_be_flushed_is_told(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_directories(monkeypatch, "fsync", code)
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path / "cache")
    cached.embed_sync(["a"])
    assert cached.stats.save_failures == 1


def refuse_directories(monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    """Let fsync, or opening for it, fail for directories alone."""
    fsync, open_ = os.fsync, os.open

    def refusing_fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    def refusing_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags == os.O_RDONLY and os.path.isdir(path):  # noqa: PTH112 - a path or a descriptor
            raise OSError(code, os.strerror(code))
        return open_(path, flags, *args, **kwargs)

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", refusing_fsync)
    else:
        monkeypatch.setattr("kura_cache_adapters._disk.atomic.os.open", refusing_open)


# Clocks


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library that shifts the time of day."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("shifting the clock needs Linux and gcc")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


FILL = """
import sys, time
from kura_cache_adapters import CachedEmbeddingModel, CacheOptions
from kura_cache_adapters.testing import FakeEmbeddingModel
cached = CachedEmbeddingModel(FakeEmbeddingModel(), sys.argv[1], options=CacheOptions(durable=False))
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    cached.embed_sync([f"text {number}"])
print(time.time(), cached.stats.save_failures)
"""


def fill(path: Path, first: int, last: int, **environment: str) -> tuple[float, int]:
    """Fill a cache in another process; return its time of day and how often it could not store."""
    command = [sys.executable, "-c", FILL, str(path), str(first), str(last)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    now, failures = done.stdout.split()
    return float(now), int(failures)


@pytest.mark.parametrize("hours", [2, -2, 24 * 365])
def test_a_host_whose_clock_is_wrong_removes_nothing_that_another_is_writing(
    hours: int, tmp_path: Path, clock: Path
) -> None:
    fill(tmp_path / "cache", 0, 1)
    (space,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    being_written, left_behind = space / ".a.arrow.1-00.tmp", space / ".b.arrow.1-00.tmp"
    for path in (being_written, left_behind):
        path.write_bytes(b"half")
    os.utime(left_behind, (time.time() - 2 * HOUR, time.time() - 2 * HOUR))
    now, failures = fill(tmp_path / "cache", 1, 20, LD_PRELOAD=str(clock), SHIFTED_SECONDS=str(hours * HOUR))
    assert abs(now - time.time() - hours * HOUR) < HOUR / 2
    assert failures == 0
    assert being_written.exists()
    assert not left_behind.exists()
    assert fill(tmp_path / "cache", 20, 40)[1] == 0
    model = CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path / "cache")
    assert model.missing(texts_of(*range(40))) == []


@formats
def test_a_writer_whose_temporary_is_removed_under_its_hands_stores_all_the_same(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), STORES[way](tmp_path / "cache"))
    cached.embed_sync(["first"])
    replace, removed = Path.replace, list[Path]()

    def removed_before(self: Path, target: Path) -> Path:
        if not removed:
            removed.append(self)
            shutil.rmtree(self) if self.is_dir() else self.unlink()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", removed_before)
    cached.embed_sync(["second"])
    assert removed
    assert cached.stats.save_failures == 0
    assert (
        CachedEmbeddingModel(FakeEmbeddingModel(), STORES[way](tmp_path / "cache")).missing(["second"]) == []
    )


# Copies of a cache that is in use


WRITE = """
import sys
from kura_cache_adapters import CachedEmbeddingModel, CacheOptions
from kura_cache_adapters.testing import FakeEmbeddingModel
cached = CachedEmbeddingModel(FakeEmbeddingModel(), sys.argv[1], options=CacheOptions(durable=False))
for number in range(1_000_000):
    cached.embed_sync([f"text {number}"])
    print(number, flush=True)
"""
COPIES = {
    "cp": 'cp -r "$SPACE" "$COPY"/',
    "tar": 'tar -cf - -C "$(dirname "$SPACE")" "$(basename "$SPACE")" | tar -xf - -C "$COPY"',
}


@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock, of util-linux")
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_that_is_made_under_the_lock_has_all_that_was_acknowledged_before(
    how: str, tmp_path: Path
) -> None:
    """As docs/stores.md says: no merge removes a file meanwhile."""
    said, lost = tmp_path / "said", 0
    with said.open("w") as output:
        command = [sys.executable, "-c", WRITE, str(tmp_path / "cache")]
        writer = subprocess.Popen(command, cwd=ROOT, stdout=output)
    try:
        while len(said.read_text().split()) < 30:
            assert writer.poll() is None
            time.sleep(0.01)
        (space,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
        for at in range(15):
            known = len(said.read_text().splitlines()) - 1
            copy = tmp_path / f"copy {at}"
            copy.mkdir()
            environment = os.environ | {"SPACE": str(space), "COPY": str(copy)}
            command = ["flock", str(space), "sh", "-c", COPIES[how]]
            # It may complain of a temporary file that was there and is not.
            subprocess.run(command, env=environment, check=False, stderr=subprocess.DEVNULL)
            lost += len(CachedEmbeddingModel(FakeEmbeddingModel(), copy).missing(texts_of(*range(known))))
    finally:
        writer.kill()
        writer.wait()
    assert lost == 0
