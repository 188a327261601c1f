"""Readers that trust no file: they follow no link, wait for no writer and believe no hole."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, cast

from kura_cache_adapters.errors import DamagedSegmentError

if TYPE_CHECKING:
    from pathlib import Path

_SMALL = 1 << 30  # bytes
_RATIO = 64
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_BLOCK = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not wait for its writer
_NO_ACCESS = getattr(os, "O_NOATIME", 0)  # the time of access tells of hits, not of opening


def map_file(path: Path) -> mmap.mmap:
    """Map a regular file for reading.

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
        return mmap.mmap(file.fileno(), status.st_size, access=mmap.ACCESS_READ)


def read_file(path: Path, *, most: int | None = None) -> bytes:
    """Read a regular file; raise as `map_file` does, but not for an empty one.

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
        inside = [child.stat().st_size for child in path.iterdir()] if path.is_dir() else []
        return sum(inside) or path.stat().st_size
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


def refuse_link(path: Path) -> None:
    """Raise OSError for a symbolic link: what it leads to is not part of the cache."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "a symbolic link is not followed", str(path))


def release(mapped: mmap.mmap | None) -> None:
    """Let go of the memory that a map's pages take, where there is a call for it."""
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        with suppress(OSError):  # pages that are locked stay
            mapped.madvise(mmap.MADV_DONTNEED)


def _open_regular(path: Path) -> BinaryIO:
    refuse_link(path)
    flags = os.O_RDONLY | _NO_BLOCK | _NO_FOLLOW
    try:
        descriptor = os.open(path, flags | _NO_ACCESS)
    except PermissionError:  # another user's: the system sets the time
        descriptor = os.open(path, flags)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return cast("BinaryIO", os.fdopen(descriptor, "rb", buffering=0))
    os.close(descriptor)
    message = f"{path} is not a regular file"
    raise DamagedSegmentError(message)
