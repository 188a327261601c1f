"""Readers that trust no file: they follow no link, wait for no writer and believe no hole."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, cast

from kura_cache_adapters._disk.filesystems import is_local
from kura_cache_adapters._runtime.signals import suppressed
from kura_cache_adapters.errors import DamagedSegmentError

if TYPE_CHECKING:
    from pathlib import Path

_LASTING = {None, errno.ELOOP, errno.ENXIO, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_SMALL = 1 << 30  # bytes
_RATIO = 64
_AT_ONCE = 1 << 20  # bytes of one read
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_BLOCK = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not wait for its writer
_NO_ACCESS = getattr(os, "O_NOATIME", 0)  # the time of access tells of hits, not of opening


class Reader:
    """An open file that is read where it is asked for, not mapped."""

    def __init__(self, file: BinaryIO) -> None:
        """Open a file once more; it is closed with this object."""
        self._name = file.name
        self._descriptor = os.dup(file.fileno())

    def read_into(self, out: memoryview, start: int) -> None:
        """Fill `out` with the bytes from `start` on; raise OSError where they cannot be read."""
        done = 0
        while done < len(out):
            read = os.preadv(self._descriptor, [out[done : done + _AT_ONCE]], start + done)
            if not read:
                raise OSError(errno.EIO, "the file is shorter than it was", self._name)
            done += read

    def __del__(self) -> None:
        """Close the file."""
        with suppress(AttributeError, OSError):  # it could not be opened
            os.close(self._descriptor)


class View:
    """A file's bytes: mapped, or room for them in which only what was asked for has been read.

    A map's page that cannot be read is a signal that ends the process, so it is for local files; a read
    that fails is an OSError.
    """

    def __init__(self, file: BinaryIO, length: int, *, mapped: bool | None) -> None:
        """Map a file, or make room for so many bytes of it; None decides by where the file is."""
        self.map: mmap.mmap | None = None
        if is_local(file.fileno()) if mapped is None else mapped:
            with suppressed(OSError):  # some file systems have no maps, or not of all files
                self.map = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
        self.reader = Reader(file) if self.map is None else None
        self.content: mmap.mmap = _room(length) if self.map is None else self.map

    def load(self, start: int, stop: int) -> None:
        """Have bytes in `content`; raise OSError where they cannot be read."""
        if self.reader is not None:
            with memoryview(self.content) as content, content[start:stop] as part:
                self.reader.read_into(part, start)


def view_file(path: Path, *, mapped: bool | None = None) -> View:
    """View a regular file.

    Raises DamagedSegmentError when it is empty, no regular file, or hardly more than a hole; OSError as
    `open` does, and for a symbolic link.
    """
    with _open_regular(path) as file:
        status = os.fstat(file.fileno())
        if not status.st_size:
            message = f"{path} is empty"
            raise DamagedSegmentError(message)
        if on_disk(status):  # some file systems count blocks later; a mere hole is damaged anyway
            check_size(status.st_size, on_disk(status))
        return View(file, status.st_size, mapped=mapped)


def read_file(path: Path, *, most: int | None = None) -> bytes:
    """Read a regular file; raise as `view_file` does, but not for an empty one.

    With `most`, no more bytes than that are read.
    """
    with _open_regular(path) as file:
        status = os.fstat(file.fileno())
        if most is None:
            check_size(status.st_size, on_disk(status))
        return file.read(-1 if most is None else most)


def size(path: Path) -> int:
    """Count the bytes of a file, or of the files in a directory; 0 when it is gone."""
    try:
        return (_inside(path) if path.is_dir() else 0) or path.stat().st_size
    except FileNotFoundError:
        return 0


def on_disk(status: os.stat_result) -> int:
    """Return how many bytes of a file are on disk: its holes do not count."""
    blocks: int | None = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else min(status.st_size, 512 * blocks)


def check_size(claimed: int, stored: int) -> None:
    """Raise DamagedSegmentError where so few stored bytes claim to be so many: that is a bomb.

    Up to 1 GiB is believed, and whatever is at most 64 times what is stored.
    """
    if claimed > max(_SMALL, _RATIO * stored):
        message = f"its {stored} bytes claim to be {claimed}"
        raise DamagedSegmentError(message)


def lasts(error: OSError) -> bool:
    """Tell damage, or something else in a file's place, from what may be over: a server that is away."""
    return error.errno in _LASTING


def refuse_link(path: Path) -> None:
    """Raise OSError for a symbolic link: what it leads to is not part of the cache."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "a symbolic link is not followed", str(path))


def release(mapped: mmap.mmap | None) -> None:
    """Let go of the memory that a map's pages take, where there is a call for it."""
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        with suppressed(OSError):  # pages that are locked stay
            mapped.madvise(mmap.MADV_DONTNEED)


def _room(length: int) -> mmap.mmap:
    """Return memory that is taken page by page, as it is written to."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, length)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(-1, length, flags=flags)


def _inside(directory: Path) -> int:
    """Count the bytes of the files in a directory, without its time of access."""
    descriptor = _open_quietly(directory)
    try:
        with os.scandir(descriptor) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    finally:
        os.close(descriptor)


def _open_quietly(path: Path) -> int:
    flags = os.O_RDONLY | _NO_BLOCK | _NO_FOLLOW
    with suppressed(PermissionError):  # another user's: the system sets the time
        return os.open(path, flags | _NO_ACCESS)
    return os.open(path, flags)


def _open_regular(path: Path) -> BinaryIO:
    refuse_link(path)
    descriptor = _open_quietly(path)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return cast("BinaryIO", os.fdopen(descriptor, "rb", buffering=0))
    os.close(descriptor)
    message = f"{path} is not a regular file"
    raise DamagedSegmentError(message)
