"""Moves several files at once, and by one process of a machine at a time."""

from __future__ import annotations

import os
import time
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from kura_cache_adapters._disk import locks
from kura_cache_adapters._runtime.signals import suppressed
from kura_cache_adapters._runtime.threads import submit_transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_T = TypeVar("_T")


def each(call: Callable[[str], _T], names: Sequence[str]) -> list[_T]:
    """Call with each name, some at once; stop at the first failure, and raise it."""
    running = [submit_transfer(partial(call, name)) for name in names]
    try:
        return [one.result() for one in running]
    finally:
        wait([one for one in running if not one.cancel()])


@contextmanager
def alone_with(path: Path | None, *, shared: bool, patience: float) -> Iterator[None]:
    """Hold the lock of a file, which is made; without it after so many seconds: two do the same then."""
    if path is None:
        yield
        return
    descriptor = _locked(path, shared=shared, end=time.monotonic() + patience)
    try:
        yield
    finally:
        with suppressed(OSError):  # as below
            locks.unlock_file(descriptor)
        os.close(descriptor)


def _locked(path: Path, *, shared: bool, end: float) -> int:
    """Open and lock the file that has the name by then: another may have been put in its place."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while True:
        descriptor = os.open(path, flags, 0o666 if shared else 0o600)
        with suppressed(OSError):  # no locks here
            while not locks.lock_file(descriptor) and time.monotonic() < end:
                time.sleep(0.02)
        if time.monotonic() >= end or _is_named(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    with suppressed(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
