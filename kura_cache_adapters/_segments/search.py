"""Find keys in open segments: one sorted search, one verified gather, a whole batch at a time."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._disk import reading
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters._runtime.threads import in_slices
from kura_cache_adapters._segments.prefix_index import IndexOnce, slots_of
from kura_cache_adapters._segments.rows import checksum_of, checksums_of, chunk_rows, prefixes_of
from kura_cache_adapters.protocols import Hits

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from kura_cache_adapters._segments.format import Positions, Segment
    from kura_cache_adapters._segments.prefix_index import PrefixIndex
    from kura_cache_adapters.protocols import Vectors

_MOST_ALIKE = 64  # rows of one prefix, of 64 bits: a file with more was made by hand
_MANY_BYTES = 32 << 20  # of vectors read from a segment: then its pages are let go


@dataclass(frozen=True, slots=True, eq=False)
class ArraySegment:
    """A segment whose columns are arrays, mapped or in memory.

    The vectors' bytes, shape (N, D * itemsize), need no alignment; a file may put them anywhere.
    """

    prefixes: NDArray[np.uint64]
    keys: NDArray[np.uint8]
    checksums: NDArray[np.uint64]
    vector_bytes: NDArray[np.uint8]
    dtype: np.dtype[np.float32] | np.dtype[np.float64]
    map: mmap.mmap | None = None
    index_once: IndexOnce = field(default_factory=IndexOnce, init=False)

    def __len__(self) -> int:
        """Return N."""
        return len(self.keys)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.vector_bytes.shape[1] // self.dtype.itemsize)

    @property
    def at_hand(self) -> bool:
        """Whether the columns are mapped."""
        return self.map is not None

    def intact(self) -> bool:
        """Tell whether the mapped file still has its size."""
        return self.map is None or self.map.size() == len(self.map)

    def keys_at(self, at: Positions) -> NDArray[np.uint8]:
        """Read keys, shape (k, 32)."""
        return self.keys[at]

    def checksums_at(self, at: Positions) -> NDArray[np.uint64]:
        """Read checksums, shape (k,)."""
        return self.checksums[at]

    def vectors_at(self, at: Positions, out: Vectors) -> None:
        """Read vectors into `out`."""
        # Without mode="clip", take buffers `out` and is four times slower.
        np.take(self.vector_bytes, at, axis=0, out=out.view(np.uint8), mode="clip")

    def row(self, at: int) -> tuple[bytes, int, bytes]:
        """Read one row: key, checksum, and the vector's bytes."""
        return self.keys[at].tobytes(), int(self.checksums[at]), self.vector_bytes[at].tobytes()

    def release(self) -> None:
        """Let go of the memory that mapped rows take; reading them takes it again."""
        reading.release(self.map)


class Search:
    """A batch of keys on its way through segments; `remaining` shrinks as they are found."""

    def __init__(self, wanted: NDArray[np.uint8]) -> None:
        """Take the wanted keys, shape (N, 32)."""
        self.wanted = wanted
        self.found = np.zeros(len(wanted), bool)
        self.invalid = 0
        self.used: list[Segment] = []
        self.failed: list[tuple[Segment, OSError]] = []
        prefixes = prefixes_of(wanted)
        # Searching in sorted order walks each segment once, instead of jumping all over it.
        self._remaining = np.argsort(prefixes)
        self._sought = prefixes[self._remaining]
        self._slots: dict[int, tuple[Positions, NDArray[np.uint8]]] = {}  # of what remains, by their shift
        self._left = len(prefixes)  # of the remaining ones, not found yet
        self._vectors: Vectors | None = None

    @property
    def dimension(self) -> int | None:
        """The dimension of what was found, which the rest must have; None when nothing was."""
        return self._vectors.shape[1] if self._vectors is not None and self.found.any() else None

    @property
    def finished(self) -> bool:
        """Tell whether every key has been found."""
        return not self._left

    def leave_out(self, which: list[bool]) -> None:
        """Look no further for some of the keys."""
        self._keep(~np.array(which, bool)[self._remaining])

    def rows_in(self, segment: Segment) -> Positions:
        """Return the rows of a segment that hold remaining keys."""
        return self._matches(segment)[0]

    def visit(self, segments: Iterable[Segment]) -> None:
        """Look for what remains in segments, one after the other; note those that cannot be read."""
        for segment in segments:
            if self.finished:
                return
            try:
                if segment.intact() and segment.dimension == (self.dimension or segment.dimension):
                    self._visit(segment)
            except OSError as error:
                pass_on_signals(error)
                self.failed.append((segment, error))

    def hits(self) -> Hits:
        """Return what was found, in the order of the keys."""
        positions = np.flatnonzero(self.found)
        if self._vectors is None or not len(positions):
            return Hits.none(self.invalid)
        if len(positions) == len(self.found):
            return Hits(positions, self._vectors, self.invalid)
        return Hits(positions, self._vectors[positions], self.invalid)

    def _visit(self, segment: Segment) -> None:
        at, which = self._matches(segment)
        if not len(at):
            return
        found = self._gather(segment, at, which)
        self.used.append(segment)
        self.invalid += len(at) - len(found)
        self.found[found] = True
        self._left -= len(found)
        if 2 * self._left < len(self._remaining):  # not for each segment: that would be many passes
            self._keep(~self.found[self._remaining])

    def _keep(self, which: NDArray[np.bool_]) -> None:
        self._remaining, self._sought = self._remaining[which], self._sought[which]
        self._left = len(self._remaining)
        self._slots.clear()

    def _possible(self, segment: Segment) -> tuple[Positions, NDArray[np.uint64], Positions]:
        """Return the keys to look for in a segment, their prefixes, rising, and where to look."""
        which, sought, prefixes = self._remaining, self._sought, segment.prefixes
        index = segment.index_once.asked(prefixes, len(which))
        if len(which) > 4 * len(prefixes):  # then it is cheaper to look for the rows among the keys
            index, possible = None, _places(sought, prefixes)
            which, sought = which[possible], sought[possible]
        elif index is not None:
            possible = self._passing(index)
            which, sought = which[possible], sought[possible]
        if self._left < len(self._remaining):
            absent = ~self.found[which]
            which, sought = which[absent], sought[absent]
        return which, sought, np.searchsorted(prefixes, sought) if index is None else index.places(sought)

    def _passing(self, index: PrefixIndex) -> Positions:
        """Return which of the remaining ones pass an index's filter."""
        if index.shift not in self._slots:
            self._slots[index.shift] = slots_of(self._sought, index.shift)
        at, bit = self._slots[index.shift]
        return np.flatnonzero(index.bits.take(at, mode="clip") & bit)

    def _matches(self, segment: Segment) -> tuple[Positions, Positions]:
        """Return the segment's rows that hold remaining keys, and which keys, in their order."""
        prefixes = segment.prefixes
        which, sought, at = self._possible(segment)
        if not len(which):
            return which, which
        rows, keys = [at[:0]], [which[:0]]
        for _ in range(_MOST_ALIKE):
            if not len(which):
                break
            inside = at < len(prefixes)
            same = inside & (prefixes[np.where(inside, at, 0)] == sought)
            if not same.all():
                which, at, sought = which[same], at[same], sought[same]
            equal = _same_keys(segment.keys_at(at), self.wanted[which])
            rows.append(at[equal])
            keys.append(which[equal])
            # Keys that share a prefix lie side by side: step to the next.
            which, at, sought = which[~equal], at[~equal] + 1, sought[~equal]
        found = np.concatenate(keys)
        order = np.argsort(found)
        return np.concatenate(rows)[order], found[order]

    def _gather(self, segment: Segment, at: Positions, which: Positions) -> Positions:
        """Copy and verify rows, chunk by chunk; return for which keys they are intact."""
        out = self._room_for(segment)
        row_bytes = segment.dimension * segment.dtype.itemsize
        step, many = chunk_rows(row_bytes), 1 + max(_MANY_BYTES, out.nbytes // 16) // row_bytes
        in_place = out.dtype == segment.dtype and which[-1] - which[0] + 1 == len(which)
        if len(at) > many:  # in the file's order, so that what has been read can be let go
            order, in_place = np.argsort(at), False
            at, which = at[order], which[order]
        intact = np.empty(len(at), bool)

        def gather(part: slice) -> None:
            scratch = np.empty((0 if in_place else step, segment.dimension), segment.dtype)
            for start in range(part.start, part.stop, step):
                here = slice(start, min(start + step, part.stop))
                rows, keys = at[here], which[here]
                chunk = out[keys[0] : keys[0] + len(keys)] if in_place else scratch[: len(keys)]
                segment.vectors_at(rows, chunk)
                sums = checksums_of(self.wanted[keys], chunk)
                intact[here] = sums == segment.checksums_at(rows)
                if not in_place:
                    out[keys] = chunk
                if (start - part.start) % many >= many - step:
                    segment.release()

        in_slices(gather, len(at), least=8 * step)
        if len(at) * row_bytes > _MANY_BYTES:
            segment.release()
        return which[intact]

    def _room_for(self, segment: Segment) -> Vectors:
        if self._vectors is None or self._vectors.shape[1] != segment.dimension:
            self._vectors = np.empty((len(self.wanted), segment.dimension), segment.dtype)
        elif self._vectors.dtype.itemsize < segment.dtype.itemsize:
            with np.errstate(invalid="ignore"):  # where nothing is yet there may be any bits
                self._vectors = self._vectors.astype(np.float64)
        return self._vectors


def find_one(key: bytes, segments: Iterable[Segment]) -> tuple[Segment, Vectors] | None:
    """Find one key, without the set-up that a batch costs; return where, and its vector as shape (1, D).

    Raises OSError where a segment cannot be read.
    """
    prefix = int.from_bytes(key[:8], "big")
    for segment in segments:
        index = segment.index_once.index
        if (index is not None and not index.may_have(prefix)) or not segment.intact():
            continue
        segment.index_once.asked(segment.prefixes, 1)
        prefixes = segment.prefixes.data
        row = bisect_left(prefixes, prefix)
        last = min(len(prefixes), row + _MOST_ALIKE)
        while row < last and prefixes[row] == prefix:
            found, checksum, vector = segment.row(row)
            if found == key and checksum_of(key, vector, segment.dtype.itemsize) == checksum:
                one: Vectors = np.array([np.frombuffer(vector, segment.dtype)])
                return segment, one
            row += 1
    return None


def _places(sought: NDArray[np.uint64], rows: NDArray[np.uint64]) -> Positions:
    """Return which of many rising prefixes are among fewer rising ones, rising."""
    first = np.searchsorted(sought, rows)
    first = first[sought[np.minimum(first, len(sought) - 1)] == rows]
    first = first[np.diff(first, prepend=-1) > 0]
    after = np.minimum(first + 1, len(sought) - 1)
    several = first[(sought[after] == sought[first]) & (after > first)]
    last = np.searchsorted(sought, sought[several], side="right")  # keys of one prefix, or one several times
    more = [np.arange(*both) for both in zip(several + 1, last, strict=True)]
    places: Positions = np.sort(np.concatenate([first, *more])) if more else first
    return places


def _same_keys(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (_words(left) == _words(right)).all(axis=1)
    return same


def _words(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys).view(np.uint64)
