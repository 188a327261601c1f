"""Advisory locks on directories, which the kernel frees when their holder dies."""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TRIES = 1000  # a millisecond apart

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def patient_lock(directory: Path) -> Iterator[None]:
    """Hold the directory's lock while names are exchanged; wait a second for it, not for ever."""
    with waiting_lock(directory, _TRIES):
        yield


@contextmanager
def waiting_lock(directory: Path, tries: int) -> Iterator[bool]:
    """Hold the directory's lock, for which so many milliseconds are waited; tell whether it was had."""
    for _ in range(tries):
        with try_lock(directory) as alone:
            if alone:
                yield True
                return
        time.sleep(0.001)
    yield False


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


def lock_file(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file for as long as it is open, and tell whether it was free; never wait.

    Raises OSError where there are no such locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, "this system has no such locks")
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock_file(descriptor: int) -> None:
    """Free an open file, also where a forked child holds it open."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
