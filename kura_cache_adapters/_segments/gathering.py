"""Gathers the rows of segments for a merge: sorted, verified, each key once."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters._segments.rows import Rows, checksums_of, chunk_rows, prefixes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kura_cache_adapters._segments.format import Positions, Segment
    from kura_cache_adapters.protocols import Vectors


def intact_rows(
    segments: list[Segment], forgotten: frozenset[bytes] = frozenset()
) -> tuple[Rows, list[bool]]:
    """Read and verify all rows but forgotten ones; tell for each segment whether some were damaged."""
    counts = [len(segment.prefixes) for segment in segments]
    dtype = np.result_type(*(segment.dtype for segment in segments))
    keys = np.concatenate(
        [segment.keys_at(np.arange(n)) for segment, n in zip(segments, counts, strict=True)]
    )
    order = np.argsort(prefixes_of(keys), kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    keys = keys[order]
    vectors = _scratch(len(keys), segments[0].dimension, dtype)
    intact, damaged = np.empty(len(keys), bool), []
    for segment, here in zip(segments, np.split(places, np.cumsum(counts)[:-1]), strict=True):
        _gather(segment, here, keys, vectors, intact)
        damaged.append(not intact[here].all())
    if forgotten:
        intact &= [key not in forgotten for key in map(bytes, keys)]
    if not intact.all():
        keys, vectors = keys[intact], vectors[intact]
    kept = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)])[: len(keys)]
    if len(kept) < len(keys):
        keys, vectors = keys[kept], vectors[kept]
    return Rows(keys, checksums_of(keys, vectors), vectors), damaged


def _gather(
    segment: Segment,
    places: Positions,
    keys: NDArray[np.uint8],
    vectors: Vectors,
    intact: NDArray[np.bool_],
) -> None:
    """Put a segment's rows in their places, some at a time, and note which are intact."""
    step = chunk_rows(segment.dimension * segment.dtype.itemsize)
    for start in range(0, len(places), step):
        here = places[start : start + step]
        at = np.arange(start, start + len(here))
        part: Vectors = np.empty((len(here), segment.dimension), segment.dtype)
        segment.vectors_at(at, part)
        intact[here] = checksums_of(keys[here], part) == segment.checksums_at(at)
        vectors[here] = part


def _scratch(count: int, dimension: int, dtype: np.dtype[Any]) -> Vectors:
    """Return room for vectors that the system has back at once: an allocator keeps up to 32 MB a thread."""
    room = mmap.mmap(-1, max(1, count * dimension * dtype.itemsize), access=mmap.ACCESS_COPY)
    return np.frombuffer(room, dtype, count * dimension).reshape(count, dimension)


def as_bytes(segment: Segment) -> list[bytes]:
    """Return the keys of a segment, one by one."""
    joined = segment.keys_at(np.arange(len(segment.prefixes))).tobytes()
    return [joined[start : start + 32] for start in range(0, len(joined), 32)]
