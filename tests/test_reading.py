"""Segments that cannot be read, not yet or no more: a miss and a warning, never a signal, never for ever."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import open_store
from kura_cache_adapters._disk import filesystems, reading
from kura_cache_adapters._segments.read_segment import ReadSegment
from kura_cache_adapters._segments.search import ArraySegment
from kura_cache_adapters.stores import ArrowStore
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of
from tests.test_forgetting import found, opened, put, url

if TYPE_CHECKING:
    from kura_cache_adapters._segments.space import SegmentSpace

__all__ = ["url"]


def read(url: str) -> SegmentSpace:
    return opened(f"{url}?mapped=no")


def files(space: SegmentSpace) -> list[Path]:
    """Return the files of the segments; of a dataset, the one with the vectors."""
    return [path for path in space.path.rglob("*") if path.suffix in {".arrow", ".parquet", ".jsonl"}]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_read_is_what_is_mapped(url: str, dtype: Any) -> None:
    space, numbers = read(url), [*range(3000)]
    vectors = vectors_of(numbers, 7, dtype)
    space.put_many(map(key_of, numbers), vectors, durable=False)
    for at in ([5], [2999, 3, 4, 5, 1000], numbers, numbers[::3], numbers[::-1]):
        for each in (space, read(url), opened(url)):
            hits = each.get_many([*map(key_of, at), key_of(-1)])
            assert np.array_equal(hits.vectors, vectors[at])
    kinds = {type(part).__name__ for part in read(url)._listing.refresh().values()}
    assert kinds == {"_LineSegment" if url.startswith("jsonl") else "ReadSegment"}


def test_what_is_read_is_not_held_in_memory(tmp_path: Path) -> None:
    """Of a segment with vectors of 64 MB, the keys and checksums alone."""
    space = ArrowStore(tmp_path, mapped=False).space(IDENTITY)
    keys = [*map(key_of, range(4000))]
    space.put_many(keys, np.ones((4000, 4000), np.float32), durable=False)
    fresh = ArrowStore(tmp_path, mapped=False).space(IDENTITY)
    before = _resident()
    assert len(fresh.get_many(keys[::400]).positions) == 10
    (part,) = fresh._listing.open.values()
    assert isinstance(part, ReadSegment)
    assert _resident() - before < 8 << 20


def _resident() -> int:
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is counted in /proc")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_file_that_is_cut_while_it_is_read_is_a_miss(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Mapped, it would end the process, had the look-up not seen its size first."""
    space = read(url)
    put(space, range(10))
    put(space, range(10, 20))
    assert found(space, range(20)) == [*range(20)]
    (victim, *_) = files(space)
    os.truncate(victim, 100)
    there = found(space, range(20))
    if not url.startswith("jsonl"):  # which is in memory
        assert there in ([*range(10)], [*range(10, 20)])
        assert "segment" in caplog.text
    put(space, range(20, 30))
    assert found(space, range(20, 30)) == [*range(20, 30)]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT])
def test_a_read_that_fails_is_a_miss_and_a_warning_until_it_works_again(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    space = ArrowStore(tmp_path, mapped=False).space(IDENTITY)
    put(space, range(10))
    assert found(space, range(10)) == [*range(10)]

    def fail(self: object, out: object, start: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(reading.Reader, "read_into", fail)
        assert found(space, range(10)) == []
        assert found(space, range(1)) == []
    assert os.strerror(code) in caplog.text
    assert found(space, range(10)) == [*range(10)]


@pytest.mark.parametrize("numbers", [range(1), range(10)])
def test_a_stale_handle_is_opened_anew(
    numbers: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """NFS says ESTALE of the open file that another host has removed: its rows are in a new one by then."""
    space = ArrowStore(tmp_path).space(IDENTITY)
    put(space, range(10))
    assert found(space, numbers) == [*numbers]
    stale = {id(part) for part in space._listing.open.values()}
    kept, intact = [*space._listing.open.values()], ArraySegment.intact

    def fstat(self: ArraySegment) -> bool:
        if id(self) in stale:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return intact(self)

    monkeypatch.setattr(ArraySegment, "intact", fstat)
    for _ in range(3):
        assert found(space, numbers) == [*numbers]
    put(space, range(10, 20))
    assert found(space, range(20)) == [*range(20)]
    assert not caplog.records
    assert kept


def test_a_segment_that_was_seen_half_copied_is_found_when_it_is_whole(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    origin = opened(f"{url}-origin")
    put(origin, range(10))
    space = opened(url)
    put(space, range(10, 20))
    (whole,) = (path for path in origin.path.iterdir() if path.name.startswith("0"))
    (victim,) = files(origin)
    content = victim.read_bytes()
    for size in (1, len(content) // 3, len(content) // 2):
        victim.write_bytes(content[:size])
        copied(whole, space.path)
        assert found(space, range(20)) == [*range(10, 20)]
    assert "Ignored the segment" in caplog.text
    victim.write_bytes(content)
    copied(whole, space.path)
    assert found(space, range(20)) == [*range(20)]


def copied(source: Path, directory: Path) -> None:
    time.sleep(0.01)  # file systems tell times apart by their ticks
    if source.is_dir():
        shutil.copytree(source, directory / source.name, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, directory / source.name)


def test_what_stays_damaged_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    space = ArrowStore(tmp_path).space(IDENTITY)
    put(space, range(10))
    (file,) = files(space)
    file.with_name(f"{file.name[:10]}{'0' * 16}.arrow").write_bytes(b"damaged")
    for _ in range(5):
        assert found(space, range(11)) == [*range(10)]
        space._listing.refresh()
    assert len(caplog.records) == 1


def test_where_files_are_decides_how_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(url: str) -> str:
        (part,) = opened(url)._listing.refresh().values()
        return type(part).__name__

    put(opened(f"arrow://{tmp_path}"), range(10))
    assert kind(f"arrow://{tmp_path}") == "ArraySegment"
    monkeypatch.setattr(reading, "is_local", lambda _: False)
    assert kind(f"arrow://{tmp_path}") == "ReadSegment"
    assert kind(f"arrow://{tmp_path}?mapped=yes") == "ArraySegment"


def test_this_machines_own_file_systems_are_local(tmp_path: Path) -> None:
    for path, local in ((tmp_path, True), (Path("/proc/self/status"), False)):
        if path.exists():
            descriptor = os.open(path, os.O_RDONLY)
            assert filesystems.is_local(descriptor) is local
            os.close(descriptor)


def test_a_store_says_how_it_may_be_read() -> None:
    with pytest.raises(ValueError, match="mapped="):
        open_store("arrow://x?mapped=perhaps")
