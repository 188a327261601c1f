"""How old a segment is: when its newest row was written, and when one was last used.

These are its file's own times, of modification and of access: no row is touched to keep them. What copies a
file without its times makes it younger, never older.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from kura_cache_adapters._runtime.signals import suppressed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_DAY = 86_400.0  # seconds
_TIERS = [7 * _DAY, 30 * _DAY, 90 * _DAY, 365 * _DAY]


class Age(NamedTuple):
    """When a segment was last used, and when its newest row was written: seconds since 1970."""

    used: float
    written: float


def age_of(path: Path) -> Age:
    """Read a segment's times; one that is gone is as young as can be."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return Age(time.time(), time.time())
    return Age(status.st_atime, status.st_mtime)


def youngest(ages: Iterable[Age]) -> Age:
    """Return the age of what several segments become."""
    used, written = zip(*ages, strict=True)
    return Age(max(used), max(written))


def note_use(path: Path) -> None:
    """Note that a segment is in use, at most once a day, where that is permitted."""
    with suppressed(OSError):
        status = path.stat()
        if time.time() - status.st_atime > _DAY:
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))


def apart(names: Iterable[str], written: Mapping[str, float], *, ttl: float | None = None) -> list[set[str]]:
    """Part segments by their ages, youngest first, so that a merge makes nothing old younger.

    What lives for so many seconds only is parted at a quarter of them, too.
    """
    bounds = sorted([*_TIERS, *([] if ttl is None else [ttl / 4])])
    now, tiers = time.time(), [set[str]() for _ in range(len(bounds) + 1)]
    for name in names:
        tiers[bisect_left(bounds, now - written.get(name, now))].add(name)
    return tiers
