"""SegmentSpace: the vectors of one model as a directory of immutable sorted files, without locks.

Writers only ever add whole segments, and a merge removes those whose rows another segment holds by
then; so any number of processes and hosts can read and write one directory. docs/format.md is the
specification.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._disk import locks, reading
from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import pass_on_signals, suppressed
from kura_cache_adapters._segments import cleaning, marks
from kura_cache_adapters._segments.beside import announce, endings_in
from kura_cache_adapters._segments.bounds import Bounds
from kura_cache_adapters._segments.claims import Claims
from kura_cache_adapters._segments.forget import forget
from kura_cache_adapters._segments.format import row_count
from kura_cache_adapters._segments.gathering import as_bytes
from kura_cache_adapters._segments.listing import Listing
from kura_cache_adapters._segments.merge import Merger
from kura_cache_adapters._segments.parts import parts_in
from kura_cache_adapters._segments.rows import Rows
from kura_cache_adapters._segments.search import Search, find_one
from kura_cache_adapters._segments.uses import uses_of
from kura_cache_adapters._segments.verify import verify
from kura_cache_adapters._segments.writer import Writer
from kura_cache_adapters.checks import check_dimension, check_shapes, key_matrix
from kura_cache_adapters.protocols import Hits, SpaceStats
from kura_cache_adapters.receipts import KEPT_DAYS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from kura_cache_adapters._observe.uses import UseRecord
    from kura_cache_adapters._segments.bounds import Upkeep
    from kura_cache_adapters._segments.claims import FileClaim
    from kura_cache_adapters._segments.format import Segment, SegmentFormat
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import Vectors
    from kura_cache_adapters.receipts import Forgotten, SpaceReport
    from kura_cache_adapters.spaces import Part

logger = logger_of("store")


class SegmentSpace:
    """The segments of one model identity in one directory."""

    def __init__(
        self,
        path: Path,
        identity: ModelIdentity | None,
        segment_format: SegmentFormat,
        upkeep: Upkeep | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        """Name the directory, and what keeps the one above it; nothing is read before the first look-up.

        Without an identity, which may be damaged, nothing but its rows is written anew. `quiet` notes no use
        of anything.
        """
        self.path = path
        self.identity: ModelIdentity | None = identity
        self._suffix = segment_format.suffix
        self._upkeep = upkeep
        self._listing = Listing(path, segment_format, quiet=quiet)
        self._as_quiet = partial(SegmentSpace, path, identity, segment_format, upkeep, quiet=True)
        self._quiet: SegmentSpace | None = None
        self._writer = Writer(path, identity, segment_format)
        self._merger = Merger(self._listing, self._writer, Bounds() if upkeep is None else upkeep.bounds)
        self.use_record: UseRecord | None = None if quiet else uses_of(path, shared=segment_format.shared)
        self._claims = Claims(path, shared=segment_format.shared)
        self._log = OnceLog(logger)
        self._announced = False
        self.merges: bool = True  # as segments come together

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Look keys up: first in the open segments, then in those that have appeared since."""
        return self._found(list(keys), once_more=True)

    def glance(self, keys: list[bytes]) -> Hits | None:
        """Find all keys in the open segments, if these are at hand; None otherwise."""
        listing = self._listing
        known, forgotten = listing.open, listing.tombstones.keys
        if not listing.fresh or not all(segment.at_hand for segment in known.values()):
            return None
        if forgotten and not forgotten.isdisjoint(keys):
            return None
        if len(keys) == 1:
            return self._one(keys[0], known)
        search = Search(key_matrix(keys))
        search.visit(known.values())
        return None if search.invalid or search.failed or not search.finished else self._hits(search)

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:
        """Write one new segment; merge segments when enough have come together."""
        matrix = key_matrix(keys)
        check_shapes(matrix, vectors)
        if not len(matrix):
            return
        if self._listing.dimension is None:
            self._listing.refresh()
        check_dimension(self._listing.prevailing(vectors.shape[1]), vectors, str(self.path))
        if self.identity is not None and not self._announced:
            self._announced = True
            announce(self.path, self.identity, self._suffix)
        name = self._writer.write(Rows.build(matrix, vectors), durable=durable)
        self._listing.add(name, vectors.shape[1])
        if self._listing.tombstones.keys:
            self._lift({*map(bytes, matrix)})
        if self.merges:
            self._merger.written(name, durable=durable)
        if self._upkeep is not None:
            self._upkeep.written(vectors.nbytes)

    def merge_due(self, among: Collection[str]) -> bool:
        """Merge what has come together of some segments, as writing does of all; tell whether any has."""
        self._listing.refresh()
        return self._merger.catch_up(among)

    def sweep(self) -> None:
        """Rewrite what holds forgotten rows, as they are hidden already."""
        with locks.patient_lock(self.path):
            self._merger.drop(self._listing.refresh(), self._listing.tombstones.keys)
        self._listing.refresh()

    def join(self, names: Collection[str]) -> None:
        """Merge segments into one, whatever their size, unless others merge here just now."""
        with locks.try_lock(self.path) as alone:
            found = self._listing.refresh().keys() & {*names}
            if alone and len(found) > 1:
                self._merger.merge(sorted(found))

    def delete_many(self, keys: Iterable[bytes], *, days: float = KEPT_DAYS) -> int:
        """Forget keys, in every process within two seconds; return how many of them were there.

        A tombstone of theirs stands for so many days: what a copy, a backup or a machine that was away
        brings back until then is not found. Storing a key anew takes it off. Raises OSError where the
        tombstone cannot be written; rows that cannot be rewritten are hidden by it.
        """
        doomed = {*map(bytes, key_matrix(keys))}
        if not doomed or not self.path.is_dir():
            return 0
        listing = self._listing
        there = self._merger.keys_among(doomed, listing.refresh()) - listing.tombstones.keys
        listing.tombstones.add(doomed, days)
        with locks.patient_lock(self.path):  # a merge would write the rows of before again
            self._merger.drop(listing.refresh(), listing.tombstones.keys)
            listing.tombstones.tidy()
        listing.refresh()
        return len(there)

    def forget(self, keys: Collection[bytes], *, days: float = KEPT_DAYS) -> Forgotten:
        """Do `delete_many`, wait for who is writing, remove what was set aside, and tell what was done."""
        return forget(self._listing, self._merger, keys, days=days)

    def verify(self, *, repair: bool = False) -> SpaceReport:
        """Read every checksum; with `repair`, leave only what is intact."""
        return verify(self._listing, self._merger, self._writer, repair=repair)

    @property
    def fresh(self) -> bool:
        """Whether `forgotten` needs no listing of the directory now."""
        return self._listing.fresh

    def forgotten(self) -> frozenset[bytes]:
        """Return the keys that are forgotten, as known a second ago or later."""
        self._recheck()
        return self._listing.tombstones.keys

    def keys(self) -> Iterator[bytes]:
        """Iterate over the distinct keys, in no order."""
        segments = [segment for segment in self._listing.refresh().values() if segment.intact()]
        found = {key for segment in segments for key in as_bytes(segment)}
        return iter(found - self._listing.tombstones.keys)

    def stats(self) -> SpaceStats:
        """Count rows, bytes and segments; no row is read."""
        parts = self._listing.refresh()
        return SpaceStats(
            rows=sum(map(row_count, parts)),
            nbytes=sum(reading.size(self.path / name) for name in parts),
            parts=len(parts),
            dimension=self._listing.prevailing(),
        )

    def other_formats(self) -> list[str]:
        """Name the other formats that have segments of this model here, by their endings."""
        return sorted(endings_in(self.path).keys() - {self._suffix})

    def parts(self) -> list[Part]:
        """List the segments, and those that are put aside, oldest first; nothing is opened or locked."""
        return parts_in(self.path, self._suffix)

    def drop_parts(self, names: Collection[str]) -> list[Part]:
        """Remove parts, which no merge brings back, and return those that went."""
        return cleaning.drop(self.path, self._suffix, names)

    def compact(self) -> tuple[list[Part], list[Part]]:
        """Merge all that fit together, without forgotten rows; return what went, and what it became."""
        return cleaning.compact(self._listing, self._merger, self._suffix)

    def remove(self) -> list[Part]:
        """Remove the directory and return the parts that went; its tombstones stay, where it has any."""
        return cleaning.remove(self.path, self._suffix)

    def answerer(self) -> str:
        """Return the name under which a server has answered for this space; empty if none is noted."""
        return marks.answerer(self.path)

    def note_answerer(self, name: str) -> None:
        """Note under which name a server answers for this space."""
        self._writer.note_answerer(name)

    def claim(self, keys: Collection[bytes], *, durable: bool = True) -> FileClaim | None:
        """Claim the keys that nobody else is embedding; None where the directory takes no claims."""
        with suppressed(OSError):
            return self._claims.claim(keys, durable=durable)
        return None

    def quiet(self) -> SegmentSpace:
        """Return this space as one whose look-ups stamp no file as used, the same object each time."""
        if self._quiet is None:
            self._quiet = self._as_quiet()
        return self._quiet

    def close(self) -> None:
        """Forget the open segments, when merges have ended, and write down what was counted."""
        self._merger.settle()
        if self.use_record is not None:
            self.use_record.write()
        self._listing.close()
        if self._quiet is not None:
            self._quiet.close()

    def __repr__(self) -> str:
        """Name the directory."""
        return f"<the space {str(self.path)!r}>"

    def _found(self, wanted: list[bytes], *, once_more: bool) -> Hits:
        listed = self._recheck()
        listing = self._listing
        known, forgotten = listing.open, listing.tombstones.keys  # once: another thread may replace them
        if len(wanted) == 1 and wanted[0] not in forgotten and (one := self._one(wanted[0], known)):
            return one
        search = Search(key_matrix(wanted))
        if forgotten:
            search.leave_out([key in forgotten for key in wanted])
        search.visit(known.values())
        if not listed and not search.found.all():
            self._look_further(search, known)
            if listing.tombstones.keys is not forgotten:
                return self._found(wanted, once_more=once_more)
        if search.failed and self._failed(search, once_more=once_more):
            return self._found(wanted, once_more=False)
        if search.invalid:
            self._log.report("rows", "Ignored %d damaged entries in %s", search.invalid, self.path)
        return self._hits(search)

    def _one(self, key: bytes, known: dict[str, Segment]) -> Hits | None:
        try:
            found = find_one(key, known.values())
        except OSError as error:  # a batch of one goes on without the segment, and tells
            pass_on_signals(error)
            return None
        if found is None:
            return None
        segment, row = found
        self._listing.note_use(segment)
        self._listing.dimension = row.shape[1]
        return Hits(np.zeros(1, np.intp), row)

    def _failed(self, search: Search, *, once_more: bool) -> bool:
        """Tell whether to look again, with files that are opened anew; if not, say what cannot be read."""
        if once_more and self._listing.let_go([segment for segment, _ in search.failed]):
            return True
        error = search.failed[0][1]
        self._log.report("read", "Could not read segments in %s: %s", self.path, describe(error))
        return False

    def _hits(self, search: Search) -> Hits:
        for segment in search.used:
            self._listing.note_use(segment)
        hits = search.hits()
        if len(hits.positions):
            self._listing.dimension = hits.vectors.shape[1]
        return hits

    def _recheck(self) -> bool:
        try:
            return self._listing.recheck()
        except OSError as error:  # what is open still answers; a miss tries again, and raises
            pass_on_signals(error)
            self._log.report("list", "Could not list %s: %s", self.path, error)
            return False

    def _lift(self, keys: set[bytes]) -> None:
        """Take keys off the tombstones; what another process has forgotten meanwhile stays so."""
        if anew := keys & self._listing.tombstones.keys:
            with locks.patient_lock(self.path):
                self._listing.refresh()
                self._listing.tombstones.lift(anew)
            self._listing.refresh()

    def _look_further(self, search: Search, known: dict[str, Segment]) -> None:
        try:
            opened = self._listing.refresh()
        except OSError as error:
            pass_on_signals(error)
            if not search.found.any():
                raise
            logger.warning("Could not look for new segments in %s: %s", self.path, error)
            return
        search.visit(segment for name, segment in opened.items() if name not in known)
