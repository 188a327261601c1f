"""The segments of a directory as far as they are known: what look-ups go through."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import reading
from kura_cache_adapters._observe.log import OnceLog
from kura_cache_adapters._runtime.fork import ForkLock
from kura_cache_adapters._runtime.signals import let_through
from kura_cache_adapters._segments.format import ending_of, row_count
from kura_cache_adapters.errors import DamagedSegmentError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from kura_cache_adapters._segments.format import Segment, SegmentFormat

logger = logging.getLogger("kura_cache_adapters.store")

_LISTINGS = 100  # how often a directory may change under a listing before it is taken as it is


class Listing:
    """The segments that are open, and the names of those that can be merged.

    `open` and `names` are replaced whole, never changed: readers take no lock. `dimension` is that of what
    was found or stored here, since a file may be another model's; None while that is nothing.
    """

    def __init__(self, path: Path, segment_format: SegmentFormat) -> None:
        """Name the directory; it is listed by the first `refresh`."""
        self.path = path
        self.open: dict[str, Segment] = {}
        self.names: frozenset[str] = frozenset()  # of what could be opened, or was written here
        self.dimension: int | None = None
        self.itemsize = 8  # of the widest number seen
        self._format = segment_format
        self._unusable: set[str] = set()
        self._lock = ForkLock()
        self._log = OnceLog(logger)

    def refresh(self) -> None:
        """Open the segments that have appeared and drop those that are gone, largest first."""
        with self._lock.alone():
            for _ in range(_LISTINGS):
                names = sorted(self._list() - self._unusable, reverse=True)
                self.dimension = self.dimension if names else None
                try:
                    opened = {name: self.open.get(name) or self._try(name) for name in names}
                except FileNotFoundError:  # merged away since it was listed
                    continue
                self.open = {name: part for name, part in opened.items() if part is not None}
                self.names = frozenset(name for name, part in self.open.items() if self._mergeable(part))
                self.itemsize = max((part.dtype.itemsize for part in self.open.values()), default=8)
                return
        message = f"{self.path} changes faster than it can be listed"
        raise BlockingIOError(message)

    def add(self, name: str, dimension: int) -> None:
        """Take in a segment that was written here; it is opened when something is looked for in vain."""
        with self._lock.alone():
            self.dimension = dimension
            self.names |= {name}

    def exchange(self, merged: Collection[str], name: str) -> None:
        """Put the segment in which others were merged in their place."""
        with self._lock.alone():
            self.names = self.names - set(merged) | {name}
            self.open = {name: part for name, part in self.open.items() if name not in merged}

    def close(self) -> None:
        """Forget the open segments."""
        with self._lock.alone():
            self.open = {}

    def _list(self) -> set[str]:
        """List segment names. A name may move during a listing: two must agree."""
        reading.refuse_link(self.path)
        names: set[str] = set()
        for _ in range(_LISTINGS):
            before = names
            try:
                found = (path.name for path in self.path.iterdir())
                names = {name for name in found if ending_of(name) == self._format.suffix}
            except FileNotFoundError:
                return set()
            if names == before:
                break
        return names

    def _try(self, name: str) -> Segment | None:
        """Open a segment; set a damaged or foreign one aside, in memory only."""
        try:
            segment = self._format.read(self.path / name)
            _check_count(segment, name)
        except DamagedSegmentError as error:
            let_through(error)
            self._unusable.add(name)
            logger.warning("Ignored the segment %s: %s", self.path / name, error)
            return None
        except FileNotFoundError:
            if not os.path.lexists(self.path / name):
                raise
            self._unusable.add(name)
            logger.warning("Ignored the segment %s: its data is gone", self.path / name)
            return None
        except OSError as error:  # no file descriptor left, no permission: it may work next time
            let_through(error)
            self._log.report("open", "Could not open the segment %s: %s", self.path / name, error)
            return None
        return segment

    def _mergeable(self, segment: Segment) -> bool:
        return segment.intact() and self.dimension in {None, segment.dimension}


def _check_count(segment: Segment, name: str) -> None:
    """Refuse a name that lies about its rows: what a merge may read is decided by names."""
    if len(segment) != row_count(name):
        message = f"it has {len(segment)} rows"
        raise DamagedSegmentError(message)
