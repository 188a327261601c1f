"""The segment engine: look-up, write and merge over immutable sorted files, without locks.

A space is a directory of segments. Writers only ever add whole segments, and a merge removes
those whose rows another segment holds by then; so any number of processes and hosts can read and
write one directory. docs/format.md is the specification.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kura_cache_adapters._disk import atomic, locks, reading
from kura_cache_adapters._observe.log import OnceLog
from kura_cache_adapters._runtime.fork import ForkLock
from kura_cache_adapters._segments import marks
from kura_cache_adapters._segments.merge import as_bytes, intact_rows, row_count, segments_due
from kura_cache_adapters._segments.rows import Rows
from kura_cache_adapters._segments.search import Search, Segment, find_one
from kura_cache_adapters.checks import check_dimension, check_shapes, key_matrix
from kura_cache_adapters.errors import DamagedSegmentError
from kura_cache_adapters.protocols import Hits, SpaceStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import Vectors

logger = logging.getLogger("kura_cache_adapters.store")

_MERGE_PAUSE = 60.0  # seconds without merges after a failed one: a full disk stays full a while
_LISTINGS = 100  # how often a directory may change under a listing before it is taken as it is


class SegmentFormat(Protocol):
    """How one segment is written and read: all that a file format has to say."""

    @property
    def suffix(self) -> str:
        """The ending of a segment's name, with its dot."""

    @property
    def shared(self) -> bool:
        """Whether the umask decides who may read what is written, or only its owner may."""

    def write(self, path: Path, rows: Rows) -> None:
        """Write rows to a new file or directory at `path`."""

    def read(self, path: Path) -> Segment:
        """Open a segment without reading its rows; raise DamagedSegmentError if it is none."""


class SegmentSpace:
    """The segments of one model identity in one directory."""

    def __init__(self, path: Path, identity: ModelIdentity, segment_format: SegmentFormat) -> None:
        """Name the directory; nothing is read before the first look-up."""
        self.path = path
        self.identity = identity
        self._description = identity.to_json().encode()
        self._format = segment_format
        self._pattern = re.compile(rf"\d{{9}}-[0-9a-f]{{16}}{re.escape(segment_format.suffix)}")
        self._lock = ForkLock()
        self._open: dict[str, Segment] = {}  # replaced whole, never changed: readers take no lock
        self._names: frozenset[str] = frozenset()  # of what could be opened, or was written here
        self._unusable: set[str] = set()
        self._volatile: set[str] = set()
        self._merged: set[str] = set()  # but not removed: merging them again would only fill the disk
        self._anchored = False
        self._dimension: int | None = None  # of what was found or stored here: a file may be another model's
        self._itemsize = 8  # of the widest number seen
        self._merge_after = 0.0
        self._log = OnceLog(logger)

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Look keys up: first in the open segments, then in those that have appeared since."""
        wanted = list(keys)
        known = self._open  # once: another thread may replace it
        if len(wanted) == 1 and (row := find_one(wanted[0], known.values())) is not None:
            self._dimension = row.shape[1]
            return Hits(np.zeros(1, np.intp), row)
        search = Search(key_matrix(wanted))
        search.visit(known.values())
        if not search.finished:
            self._look_further(search, known)
        if search.invalid:
            self._log.report("rows", "Ignored %d damaged entries in %s", search.invalid, self.path)
        hits = search.hits()
        if len(hits.positions):
            self._dimension = hits.vectors.shape[1]
        return hits

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:
        """Write one new segment; merge segments when enough have come together."""
        matrix = key_matrix(keys)
        check_shapes(matrix, vectors)
        if not len(matrix):
            return
        if not self._names:
            self._refresh()
        check_dimension(self._dimension, vectors, str(self.path))
        name = self._write(Rows.build(matrix, vectors), durable=durable)
        with self._lock:
            self._dimension = vectors.shape[1]
            self._names |= {name}
            self._volatile |= set() if durable else {name}
        self._merge(durable=durable)

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Rewrite the segments that hold any of the keys; a merge elsewhere may undo it."""
        doomed = set(keys)
        self._refresh()
        found: set[bytes] = set()
        for name, segment in self._open.items():
            if not segment.intact():
                continue
            rows, (broken,) = intact_rows([segment])
            stays = np.array([key not in doomed for key in as_bytes(rows)], bool)
            if not stays.all():
                found |= doomed & set(as_bytes(rows))
                if stays.any():
                    self._write(Rows.build(rows.keys[stays], rows.vectors[stays]), durable=True)
                self._retire(name, broken=broken)
        self._refresh()
        return len(found)

    def keys(self) -> Iterator[bytes]:
        """Iterate over the distinct keys, in no order."""
        self._refresh()
        segments = [segment for segment in self._open.values() if segment.intact()]
        return iter({key for segment in segments for key in as_bytes(segment)})

    def stats(self) -> SpaceStats:
        """Count rows, bytes and segments; no row is read."""
        self._refresh()
        return SpaceStats(
            rows=sum(row_count(name) for name in self._open),
            nbytes=sum(reading.size(self.path / name) for name in self._open),
            parts=len(self._open),
            dimension=self._dimension or next((part.dimension for part in self._open.values()), None),
        )

    def answerer(self) -> str:
        """Return the name under which a server has answered for this space; empty if none is noted."""
        return marks.answerer(self.path)

    def note_answerer(self, name: str) -> None:
        """Note under which name a server answers for this space."""
        marks.note_answerer(self.path, name, shared=self._format.shared)

    def close(self) -> None:
        """Forget the open segments."""
        with self._lock:
            self._open = {}

    def _look_further(self, search: Search, known: dict[str, Segment]) -> None:
        try:
            self._refresh()
        except OSError as error:
            if not search.found.any():
                raise
            logger.warning("Could not look for new segments in %s: %s", self.path, error)
            return
        search.visit(segment for name, segment in self._open.items() if name not in known)

    def _refresh(self) -> None:
        """Open the segments that have appeared and drop those that are gone, largest first."""
        with self._lock:
            for _ in range(_LISTINGS):
                names = sorted(self._list() - self._unusable, reverse=True)
                self._dimension = self._dimension if names else None
                try:
                    opened = {name: self._open.get(name) or self._try(name) for name in names}
                except FileNotFoundError:  # merged away since it was listed
                    continue
                self._open = {name: part for name, part in opened.items() if part is not None}
                self._names = frozenset(name for name, part in self._open.items() if self._mergeable(part))
                self._itemsize = max((part.dtype.itemsize for part in self._open.values()), default=8)
                return
        message = f"{self.path} changes faster than it can be listed"
        raise BlockingIOError(message)

    def _list(self) -> set[str]:
        """List segment names. A name may move during a listing: two must agree."""
        reading.refuse_link(self.path)
        names: set[str] = set()
        for _ in range(_LISTINGS):
            before = names
            try:
                found = (path.name for path in self.path.iterdir())
                names = {name for name in found if self._pattern.fullmatch(name)}
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
            self._log.report("open", "Could not open the segment %s: %s", self.path / name, error)
            return None
        return segment

    def _write(self, rows: Rows, *, durable: bool) -> str:
        name = f"{len(rows):09d}-{secrets.token_hex(8)}{self._format.suffix}"
        shared = self._format.shared
        if marks.make_space(self.path, durable=durable, shared=shared):
            self._anchored = False
        reading.refuse_link(self.path)
        if durable and not self._anchored:
            atomic.anchor(self.path)
            self._anchored = True
        marks.write_identity(self.path, self._description, durable=durable, shared=shared)
        with atomic.published(self.path / name, durable=durable) as temporary:
            self._format.write(temporary, rows)
        return name

    def _merge(self, *, durable: bool) -> None:
        """Merge the segments of a size that has come together; a failure only postpones it."""
        if not self._due(durable=durable) or time.monotonic() < self._merge_after:
            return
        try:
            with locks.try_lock(self.path) as alone:
                if alone:
                    self._refresh()
                    self._merge_into_one(self._due(durable=durable), durable=durable)
        except OSError as error:
            self._merge_after = time.monotonic() + _MERGE_PAUSE
            logger.warning("Could not merge segments in %s: %s", self.path, error)

    def _due(self, *, durable: bool) -> list[str]:
        names = self._names if durable else self._names & self._volatile
        return segments_due(names - self._merged, self._dimension, itemsize=self._itemsize)

    def _mergeable(self, segment: Segment) -> bool:
        return segment.intact() and self._dimension in {None, segment.dimension}

    def _merge_into_one(self, names: list[str], *, durable: bool) -> None:
        parts = {name: self._open[name] for name in names}
        if not parts:
            return
        rows, damaged = intact_rows(list(parts.values()))
        merged = self._write(rows, durable=durable)
        if not durable:
            self._volatile.add(merged)
        for name, broken in zip(parts, damaged, strict=True):
            try:
                self._retire(name, broken=broken)
            except OSError as error:
                self._merged.add(name)
                self._log.report("retire", "Could not remove %s: %s", self.path / name, error)
        atomic.remove_stale_temporaries(self.path)
        with self._lock:
            self._names = self._names - set(parts) | {merged}
            self._volatile &= self._names
            self._open = {name: part for name, part in self._open.items() if name not in parts}

    def _retire(self, name: str, *, broken: bool) -> None:
        """Remove a merged segment; one with damaged rows is kept under another name."""
        path = self.path / name
        if broken:
            path.rename(path.with_name(f"_{name}.damaged"))
        else:
            atomic.remove(path)


def _check_count(segment: Segment, name: str) -> None:
    """Refuse a name that lies about its rows: what a merge may read is decided by names."""
    if len(segment) != row_count(name):
        message = f"it has {len(segment)} rows"
        raise DamagedSegmentError(message)
