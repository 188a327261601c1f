"""The files of a space that go as a whole: its segments, and the damaged ones that merges have put aside."""

from __future__ import annotations

import os
import stat
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import atomic, reading
from kura_cache_adapters._runtime.signals import suppressed
from kura_cache_adapters._segments.format import ending_of, row_count
from kura_cache_adapters.spaces import Part

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_DAMAGED = ".damaged"
_LATEST = datetime.max.replace(tzinfo=timezone.utc).timestamp() - 86_400


def parts_in(space: Path, suffix: str) -> list[Part]:
    """List the parts of a space, oldest first; nothing is opened, locked or changed.

    Raises OSError where the directory cannot be listed, or is a symbolic link.
    """
    reading.refuse_link(space)
    with suppressed(FileNotFoundError):
        found = [_part(path, suffix) for path in space.iterdir()]
        return sorted(filter(None, found), key=lambda part: part.written)
    return []


def remove_parts(space: Path, parts: Iterable[Part]) -> list[Part]:
    """Remove parts, oldest first, and return those that were there; the caller holds the space's lock."""
    there = [part for part in parts if os.path.lexists(space / part.name)]
    for part in there:
        atomic.remove(space / part.name)
    return there


def _part(path: Path, suffix: str) -> Part | None:
    segment = path.name[1:].removesuffix(_DAMAGED) if path.name.endswith(_DAMAGED) else path.name
    if ending_of(segment) != suffix:
        return None
    with suppressed(FileNotFoundError):  # merged away since it was listed
        status = path.lstat()
        nbytes = reading.size(path) if stat.S_ISDIR(status.st_mode) else status.st_size
        rows = row_count(segment) if segment == path.name else 0
        written = _time(status.st_mtime)
        return Part(path.name, rows, nbytes, written, max(written, _time(status.st_atime)))
    return None


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LATEST), timezone.utc)
