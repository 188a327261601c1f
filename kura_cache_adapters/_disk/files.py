"""Files that appear whole or not at all, and maps of files that may have been damaged."""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, cast

from kura_cache_adapters.errors import DamagedSegmentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = ".tmp"
_PREVIOUS = ".previous"
_STALE_SECONDS = 3600
_SMALL = 1 << 30  # bytes
_RATIO = 64
_NO_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EROFS}  # what fsync says where it has nothing to do
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_BLOCK = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not wait for its writer


def make_directory(path: Path, *, shared: bool = False) -> bool:
    """Make a directory and its parents, readable by their owner alone; tell whether it was missing.

    With shared the umask decides who may read and write them.
    """
    made = [directory for directory in (path, *path.parents) if not directory.exists()]
    for directory in reversed(made):
        directory.mkdir(mode=0o777 if shared else 0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)  # raises where something else has the name
    return bool(made)


def anchor(path: Path) -> None:
    """Put a directory's name on disk, and its parents' names: another may have just made any of them."""
    for directory in path.parents:
        with suppress(PermissionError):  # not ours to read, so not ours to have been made
            _sync(directory)


def create(path: Path, *, shared: bool = False) -> BinaryIO:
    """Open a new file for writing; it must not exist. Only its owner may read it, see `make_directory`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW
    return cast("BinaryIO", os.fdopen(os.open(path, flags, 0o666 if shared else 0o600), "wb"))


def refuse_link(path: Path) -> None:
    """Raise OSError for a symbolic link: what it leads to is not part of the cache."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "a symbolic link is not followed", str(path))


@contextmanager
def published(path: Path, *, durable: bool) -> Iterator[Path]:
    """Give a temporary path to write a file or directory at; move it to `path` when done.

    With durable, content and name are on disk before this returns. On any error the temporary
    is removed and `path` is what it was.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        if durable:
            _sync_tree(temporary)
        _replace(temporary, path)
    except BaseException:  # Ctrl-C, too, leaves nothing behind
        discard(temporary)
        remove_stale_temporaries(path.parent)  # they may be what fills the disk
        raise
    if durable:
        _sync(path.parent)


def size(path: Path) -> int:
    """Count the bytes of a file, or of the files in a directory; 0 when it is gone."""
    try:
        inside = [child.stat().st_size for child in path.iterdir()] if path.is_dir() else []
        return sum(inside) or path.stat().st_size
    except FileNotFoundError:
        return 0


def restore_previous(directory: Path) -> None:
    """Put back directories that a killed writer had moved aside without finishing."""
    if not any(directory.glob(f".*{_PREVIOUS}")):
        return
    with _patient_lock(directory):
        for aside in directory.glob(f".*{_PREVIOUS}"):
            path = aside.with_name(aside.name[1:].removesuffix(_PREVIOUS))
            discard(aside) if path.exists() else aside.replace(path)


@contextmanager
def _patient_lock(directory: Path) -> Iterator[None]:
    """Hold the directory's lock while names are exchanged; wait a second for it, not for ever."""
    for _ in range(1000):
        with try_lock(directory) as alone:
            if alone:
                yield
                return
        time.sleep(0.001)
    yield


@contextmanager
def try_lock(directory: Path) -> Iterator[bool]:
    """Hold an advisory lock on a directory; yield False at once when another holds it.

    The kernel frees it when its holder dies. Where there is no such lock, everyone gets it.
    """
    if fcntl is None:
        yield True
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        yield False
        return
    except OSError:  # a file system without locks
        os.close(descriptor)
        yield True
        return
    try:
        yield True
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # also where a forked child holds it open
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a whole directory at once, so that a crash leaves no half; a missing one is fine."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
        temporary = _temporary(path)
        path.rename(temporary)
        discard(temporary)


def discard(path: Path) -> None:
    """Remove what nobody reads any more, as far as it can be removed."""
    with suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def remove_stale_temporaries(directory: Path) -> None:
    """Remove what killed writers left behind an hour ago or earlier, as far as it can be removed."""
    old = time.time() - _STALE_SECONDS
    with suppress(OSError):
        for path in directory.glob(f".*{_TEMPORARY}"):
            if path.lstat().st_mtime < old:
                discard(path)


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


def _open_regular(path: Path) -> BinaryIO:
    refuse_link(path)
    descriptor = os.open(path, os.O_RDONLY | _NO_BLOCK | _NO_FOLLOW)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return cast("BinaryIO", os.fdopen(descriptor, "rb", buffering=0))
    os.close(descriptor)
    message = f"{path} is not a regular file"
    raise DamagedSegmentError(message)


def release(mapped: mmap.mmap | None) -> None:
    """Let go of the memory that a map's pages take, where there is a call for it."""
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        with suppress(OSError):  # pages that are locked stay
            mapped.madvise(mmap.MADV_DONTNEED)


def _replace(temporary: Path, path: Path) -> None:
    if not path.is_dir() and not (temporary.is_dir() and os.path.lexists(path)):
        temporary.replace(path)
        return
    # No call replaces a full directory, or anything by a directory: between the two renames a crash
    # leaves only the one aside.
    aside = path.with_name(f".{path.name}{_PREVIOUS}")
    with _patient_lock(path.parent):
        discard(aside)
        path.replace(aside)
        temporary.replace(path)
        discard(aside)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY}")


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _sync_tree(child)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
    finally:
        os.close(descriptor)
