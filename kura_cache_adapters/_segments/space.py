"""SegmentSpace: the vectors of one model as a directory of immutable sorted files, without locks.

Writers only ever add whole segments, and a merge removes those whose rows another segment holds by
then; so any number of processes and hosts can read and write one directory. docs/format.md is the
specification.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import locks, reading
from kura_cache_adapters._runtime.signals import suppressed
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
from kura_cache_adapters._segments.reader import Reader
from kura_cache_adapters._segments.rows import Rows
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
    from kura_cache_adapters._segments.format import SegmentFormat
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import Vectors
    from kura_cache_adapters.receipts import Forgotten, SpaceReport
    from kura_cache_adapters.spaces import Part


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
        self._reader = Reader(path, self._listing)
        self._as_quiet = partial(SegmentSpace, path, identity, segment_format, upkeep, quiet=True)
        self._quiet: SegmentSpace | None = None
        self._writer = Writer(path, identity, segment_format)
        self._merger = Merger(self._listing, self._writer, Bounds() if upkeep is None else upkeep.bounds)
        self.use_record: UseRecord | None = None if quiet else uses_of(path, shared=segment_format.shared)
        self._claims = Claims(path, shared=segment_format.shared)
        self._announced = False
        self.merges: bool = True  # as segments come together

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Look keys up: first in the open segments, then in those that have appeared since."""
        return self._reader.get_many(list(keys))

    def glance(self, keys: list[bytes]) -> Hits | None:
        """Find all keys in the open segments, if these are at hand; None otherwise."""
        return self._reader.glance(keys)

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
        rows = Rows.build(matrix, vectors)
        anew = self._listing.tombstones.keys and self._forgotten_among({*map(bytes, matrix)})
        name = self._write_anew(rows, anew, durable) if anew else self._write(rows, durable)
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
        self._reader.recheck()
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

    def _write(self, rows: Rows, durable: bool) -> str:  # noqa: FBT001 - as the writer has it
        name = self._writer.write(rows, durable=durable)
        self._listing.add(name, rows.vectors.shape[1])
        return name

    def _forgotten_among(self, keys: set[bytes]) -> frozenset[bytes]:
        with suppressed(OSError):
            self._listing.refresh()
        return self._listing.tombstones.keys & keys

    def _write_anew(self, rows: Rows, keys: frozenset[bytes], durable: bool) -> str:  # noqa: FBT001 - as the writer has it
        """Write and take keys off the tombstones; what another process has forgotten meanwhile stays so.

        Whoever rewrites what holds forgotten rows waits: else he would leave these out before they count.
        """
        with locks.patient_lock(self.path):
            name = self._write(rows, durable)
            self._listing.refresh()
            self._listing.tombstones.lift(keys)
        self._listing.refresh()
        return name
