"""A segment of a file that is not mapped: its keys are in memory, vectors are read as they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters._segments.prefix_index import IndexOnce

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kura_cache_adapters._disk.reading import Reader, View
    from kura_cache_adapters._segments.format import Positions, Segment
    from kura_cache_adapters._segments.search import ArraySegment
    from kura_cache_adapters.protocols import Vectors


@dataclass(frozen=True, slots=True, eq=False)
class ReadSegment:
    """A segment whose vectors, shape (N, D), begin at a place in a file and lie there row by row."""

    prefixes: NDArray[np.uint64]
    keys: NDArray[np.uint8]
    checksums: NDArray[np.uint64]
    dimension: int
    dtype: np.dtype[np.float32] | np.dtype[np.float64]
    reader: Reader
    start: int
    at_hand: bool = False
    index_once: IndexOnce = field(default_factory=IndexOnce, init=False)

    def __len__(self) -> int:
        """Return N."""
        return len(self.keys)

    def intact(self) -> bool:
        """Tell whether it may be read: a read that fails is no signal."""
        return True

    def keys_at(self, at: Positions) -> NDArray[np.uint8]:
        """Read keys, shape (k, 32)."""
        return self.keys[at]

    def checksums_at(self, at: Positions) -> NDArray[np.uint64]:
        """Read checksums, shape (k,)."""
        return self.checksums[at]

    def vectors_at(self, at: Positions, out: Vectors) -> None:
        """Read vectors into `out`, rows that lie together at once; raise OSError where one cannot be read."""
        width = self.dimension * self.dtype.itemsize
        ends = np.append(np.flatnonzero(np.diff(at) != 1) + 1, len(at)) if len(at) else at
        with out.view(np.uint8).reshape(-1).data as whole:
            begin = 0
            for end in ends.tolist():
                self.reader.read_into(whole[begin * width : end * width], self.start + int(at[begin]) * width)
                begin = end

    def row(self, at: int) -> tuple[bytes, int, bytes]:
        """Read one row: key, checksum, and the vector's bytes; raise OSError where it cannot be read."""
        vector = bytearray(self.dimension * self.dtype.itemsize)
        self.reader.read_into(memoryview(vector), self.start + at * len(vector))
        return self.keys[at].tobytes(), int(self.checksums[at]), bytes(vector)

    def release(self) -> None:
        """Let go of nothing: what was read was copied."""


def as_read(segment: ArraySegment, view: View) -> Segment:
    """Return a segment in a view as one that may be read: itself where it is mapped, or decoded into memory.

    Raises OSError where its small columns cannot be read.
    """
    start = _place(segment.vector_bytes, view)
    if view.reader is None or start is None:
        return segment
    _load(segment.prefixes, view)
    _load(segment.keys, view)
    _load(segment.checksums, view)
    return ReadSegment(
        segment.prefixes.copy(),
        segment.keys.copy(),
        segment.checksums.copy(),
        segment.dimension,
        segment.dtype,
        view.reader,
        start,
    )


def _load(column: NDArray[Any], view: View) -> None:
    if (start := _place(column, view)) is not None:
        view.load(start, start + column.nbytes)


def _place(column: NDArray[Any], view: View) -> int | None:
    """Return where a column is in the file; None for one that lies elsewhere in memory."""
    place = column.ctypes.data - np.frombuffer(view.content, np.uint8).ctypes.data
    return place if 0 <= place < len(view.content) else None
