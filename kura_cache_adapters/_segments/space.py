"""SegmentSpace: the vectors of one model as a directory of immutable sorted files, without locks.

Writers only ever add whole segments, and a merge removes those whose rows another segment holds by
then; so any number of processes and hosts can read and write one directory. docs/format.md is the
specification.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._disk import reading
from kura_cache_adapters._observe.log import OnceLog
from kura_cache_adapters._runtime.signals import let_through
from kura_cache_adapters._segments import marks
from kura_cache_adapters._segments.format import row_count
from kura_cache_adapters._segments.listing import Listing
from kura_cache_adapters._segments.merge import Merger, as_bytes
from kura_cache_adapters._segments.rows import Rows
from kura_cache_adapters._segments.search import Search, find_one
from kura_cache_adapters._segments.writer import Writer
from kura_cache_adapters.checks import check_dimension, check_shapes, key_matrix
from kura_cache_adapters.protocols import Hits, SpaceStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from kura_cache_adapters._segments.format import Segment, SegmentFormat
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import Vectors

logger = logging.getLogger("kura_cache_adapters.store")


class SegmentSpace:
    """The segments of one model identity in one directory."""

    def __init__(self, path: Path, identity: ModelIdentity, segment_format: SegmentFormat) -> None:
        """Name the directory; nothing is read before the first look-up."""
        self.path = path
        self._listing = Listing(path, segment_format)
        self._writer = Writer(path, identity, segment_format)
        self._merger = Merger(self._listing, self._writer)
        self._log = OnceLog(logger)

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Look keys up: first in the open segments, then in those that have appeared since."""
        wanted = list(keys)
        listing = self._listing
        known = listing.open  # once: another thread may replace it
        if len(wanted) == 1 and (row := find_one(wanted[0], known.values())) is not None:
            listing.dimension = row.shape[1]
            return Hits(np.zeros(1, np.intp), row)
        search = Search(key_matrix(wanted))
        search.visit(known.values())
        if not search.finished:
            self._look_further(search, known)
        if search.invalid:
            self._log.report("rows", "Ignored %d damaged entries in %s", search.invalid, self.path)
        hits = search.hits()
        if len(hits.positions):
            listing.dimension = hits.vectors.shape[1]
        return hits

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:
        """Write one new segment; merge segments when enough have come together."""
        matrix = key_matrix(keys)
        check_shapes(matrix, vectors)
        if not len(matrix):
            return
        if not self._listing.names:
            self._listing.refresh()
        check_dimension(self._listing.dimension, vectors, str(self.path))
        name = self._writer.write(Rows.build(matrix, vectors), durable=durable)
        self._listing.add(name, vectors.shape[1])
        self._merger.written(name, durable=durable)

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Rewrite the segments that hold any of the keys; a merge elsewhere may undo it."""
        doomed = set(keys)
        self._listing.refresh()
        found: set[bytes] = set()
        for name, segment in self._listing.open.items():
            if segment.intact():
                found |= self._merger.drop(name, segment, doomed)
        self._listing.refresh()
        return len(found)

    def keys(self) -> Iterator[bytes]:
        """Iterate over the distinct keys, in no order."""
        self._listing.refresh()
        segments = [segment for segment in self._listing.open.values() if segment.intact()]
        return iter({key for segment in segments for key in as_bytes(segment)})

    def stats(self) -> SpaceStats:
        """Count rows, bytes and segments; no row is read."""
        self._listing.refresh()
        parts = self._listing.open
        return SpaceStats(
            rows=sum(map(row_count, parts)),
            nbytes=sum(reading.size(self.path / name) for name in parts),
            parts=len(parts),
            dimension=self._listing.dimension or next((part.dimension for part in parts.values()), None),
        )

    def answerer(self) -> str:
        """Return the name under which a server has answered for this space; empty if none is noted."""
        return marks.answerer(self.path)

    def note_answerer(self, name: str) -> None:
        """Note under which name a server answers for this space."""
        self._writer.note_answerer(name)

    def close(self) -> None:
        """Forget the open segments."""
        self._listing.close()

    def _look_further(self, search: Search, known: dict[str, Segment]) -> None:
        try:
            self._listing.refresh()
        except OSError as error:
            let_through(error)
            if not search.found.any():
                raise
            logger.warning("Could not look for new segments in %s: %s", self.path, error)
            return
        search.visit(segment for name, segment in self._listing.open.items() if name not in known)
