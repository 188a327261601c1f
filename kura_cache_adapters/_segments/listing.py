"""The segments of a directory as far as they are known: what look-ups go through."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from kura_cache_adapters._disk import reading
from kura_cache_adapters._observe.log import OnceLog
from kura_cache_adapters._runtime.fork import ForkLock
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters._segments import ages, pool
from kura_cache_adapters._segments.format import ending_of, row_count
from kura_cache_adapters._segments.tombstones import Tombstones, is_tombstone
from kura_cache_adapters.errors import DamagedSegmentError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from kura_cache_adapters._segments.format import Segment, SegmentFormat

logger = logger_of("store")

_FRESH = 1.0  # seconds: what another process has forgotten is found no longer than this, and what it takes
_LISTINGS = 100  # how often a directory may change under a listing before it is taken as it is


class Listing:
    """The segments that are open, and the names of those that can be merged.

    `open` and `names` are replaced whole, never changed: readers take no lock. `dimension` is that of what
    was found or stored here, since a file may be another model's; None while that is nothing.
    """

    def __init__(self, path: Path, segment_format: SegmentFormat, *, quiet: bool = False) -> None:
        """Name the directory; it is listed by the first `refresh`. `quiet` notes no use."""
        self.path = path
        self._quiet = quiet
        self.open: dict[str, Segment] = {}
        self.written: dict[str, float] = {}  # when, of what is open
        self.names: frozenset[str] = frozenset()  # of what could be opened, or was written here
        self.dimension: int | None = None
        self.itemsize = 8  # of the widest number seen
        self.tombstones = Tombstones(path, shared=segment_format.shared)
        self.format = segment_format
        self._stamps: dict[str, Stamp] = {}
        self._aside: set[str] = set()  # damaged or foreign, until they change
        self._again_at = 0.0
        self._in_use: set[int] = set()  # segments that were said to be, since the last listing
        self._stale_at = 0.0
        self._lock = ForkLock()
        self._log = OnceLog(logger)
        pool.join(self)

    @property
    def fresh(self) -> bool:
        """Whether the directory was listed a moment ago."""
        return time.monotonic() < self._stale_at

    def recheck(self) -> bool:
        """Do `refresh`, unless that was done a moment ago; tell whether it was done."""
        if self.fresh:
            return False
        self.refresh()
        return True

    @property
    def last_used(self) -> float:
        """When this was last listed: what is looked into is listed each second."""
        return self._stale_at

    def refresh(self) -> dict[str, Segment]:
        """Open the segments that have appeared, drop those that are gone; return them, largest first."""
        with self._lock:
            opened = self._refreshed()
        pool.make_room(self)
        return opened

    def _refreshed(self) -> dict[str, Segment]:
        self._stale_at = time.monotonic() + _FRESH  # also where this fails: not again at every look-up
        for _ in range(_LISTINGS):
            listed = self._list()
            tombstones = {*filter(is_tombstone, listed)}
            names = sorted(listed - tombstones, reverse=True)
            try:
                self.tombstones.read(tombstones)
                opened = {name: self._opened(name) for name in names}
            except FileNotFoundError:  # merged away since it was listed
                continue
            self.open = found = {name: part for name, part in opened.items() if part is not None}
            self.dimension = self.dimension if found else None
            self._stamps = {name: self._stamps[name] for name in names if name in self._stamps}
            self._aside.intersection_update(self._stamps)
            self.written = {name: self._stamps[name].written for name in found}
            self._in_use = set()
            self.names = frozenset(name for name, part in found.items() if self._mergeable(part))
            self.itemsize = max((part.dtype.itemsize for part in found.values()), default=8)
            return found
        message = f"{self.path} changes faster than it can be listed"
        raise BlockingIOError(message)

    def segments(self) -> set[str]:
        """List the names of the segments that are there, whether or not they can be read."""
        return {name for name in self._list() if not is_tombstone(name)}

    def unreadable(self) -> Iterator[tuple[str, OSError]]:
        """Yield the segments that are there and cannot be read, and why."""
        for name in sorted(self.segments() - self.open.keys()):
            try:
                _check_count(self._read(name), name)
            except OSError as error:
                pass_on_signals(error)
                if os.path.lexists(self.path / name):
                    yield name, error

    def prevailing(self, wanted: int | None = None) -> int | None:
        """Return the dimension that vectors have here: as found or stored, else as most rows on disk have.

        The wanted one, if any on disk have it: a file beside it may be another model's.
        """
        if self.dimension is not None:
            return self.dimension
        rows = Counter[int]()
        for name, part in self.open.items():
            rows[part.dimension] += row_count(name)
        return wanted if wanted in rows else max(rows, key=rows.__getitem__, default=None)

    def let_go(self, segments: Collection[Segment]) -> bool:
        """Open anew, and list again, what could not be read; tell whether that is due, once in a second."""
        now = time.monotonic()
        if now < self._again_at:
            return False
        self._again_at, self._stale_at = now + _FRESH, 0.0
        self.open = {name: part for name, part in self.open.items() if part not in segments}
        return True

    def add(self, name: str, dimension: int) -> None:
        """Take in a segment that was written here; it is opened when something is looked for in vain."""
        with self._lock:
            self.dimension = dimension
            self.names |= {name}

    def exchange(self, merged: Collection[str], names: Collection[str]) -> None:
        """Put the segment in which others were merged in their place; none where all was forgotten."""
        with self._lock:
            self.names = self.names - set(merged) | set(names)
            self.open = {name: part for name, part in self.open.items() if name not in merged}

    def note_use(self, segment: Segment) -> None:
        """Note that rows of a segment were found, at most once a day."""
        if id(segment) in self._in_use:
            return
        self._in_use.add(id(segment))
        for name in [name for name, part in self.open.items() if part is segment and not self._quiet]:
            ages.note_use(self.path / name)

    def close(self) -> None:
        """Forget the open segments. No lock: who looks into others may have to close these."""
        self.open = {}

    def _list(self) -> set[str]:
        """List segments and tombstones. A name may move during a listing: two must agree."""
        reading.refuse_link(self.path)
        names: set[str] = set()
        for _ in range(_LISTINGS):
            before = names
            try:
                names = {path.name for path in self.path.iterdir() if self._is_ours(path.name)}
            except FileNotFoundError:
                return set()
            if names == before:
                break
        return names

    def _is_ours(self, name: str) -> bool:
        return ending_of(name) == self.format.suffix or is_tombstone(name)

    def _opened(self, name: str) -> Segment | None:
        """Open a segment, unless it is open, or set aside, as it is now."""
        try:
            stamp = Stamp.of(self.path / name)
        except FileNotFoundError:
            raise
        except OSError as error:
            pass_on_signals(error)
            self._log.report("open", "Could not open the segment %s: %s", self.path / name, error)
            return None
        known, self._stamps[name] = self._stamps.get(name), stamp
        part = self.open.get(name)
        if known == stamp and (name in self._aside or (part is not None and _is_intact(part))):
            return part
        self._aside.discard(name)
        return self._try(name)

    def _try(self, name: str) -> Segment | None:
        """Open a segment; set a damaged or foreign one aside, in memory only."""
        try:
            segment = self._read(name)
            _check_count(segment, name)
        except DamagedSegmentError as error:
            pass_on_signals(error)
            self._aside.add(name)
            logger.warning("Ignored the segment %s: %s", self.path / name, error)
            return None
        except FileNotFoundError:
            if not os.path.lexists(self.path / name):
                raise
            self._aside.add(name)
            logger.warning("Ignored the segment %s: its data is gone", self.path / name)
            return None
        except OSError as error:  # no file descriptor left, no permission: it may work next time
            pass_on_signals(error)
            self._log.report("open", "Could not open the segment %s: %s", self.path / name, error)
            return None
        return segment

    def _read(self, name: str) -> Segment:
        try:
            return self.format.read(self.path / name)
        except OSError as error:
            pass_on_signals(error)
            if error.errno not in {errno.EMFILE, errno.ENFILE} or not pool.make_room(self, most=0):
                raise
            return self.format.read(self.path / name)

    def _mergeable(self, segment: Segment) -> bool:
        return _is_intact(segment) and self.dimension in {None, segment.dimension}


class Stamp(NamedTuple):
    """What changes when a segment is written to: one that was seen half copied is tried again."""

    inode: int
    nbytes: int
    written: float

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Look at a segment; raise FileNotFoundError where it is gone."""
        status = path.lstat()
        nbytes = reading.size(path) if stat.S_ISDIR(status.st_mode) else status.st_size
        return cls(status.st_ino, nbytes, status.st_mtime)


def _is_intact(segment: Segment) -> bool:
    try:
        return segment.intact()
    except OSError as error:  # ESTALE: another host has removed it
        pass_on_signals(error)
        return False


def _check_count(segment: Segment, name: str) -> None:
    """Refuse a name that lies about its rows: what a merge may read is decided by names."""
    if len(segment) != row_count(name):
        message = f"it has {len(segment)} rows"
        raise DamagedSegmentError(message)
