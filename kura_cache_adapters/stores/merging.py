"""Which segments are to be merged, and the rows that a merge keeps."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters.stores.rows import Rows, checksums_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kura_cache_adapters.protocols import Vectors
    from kura_cache_adapters.stores.search import Segment

MERGE_FACTOR = 8
"""So many segments of similar size become one: each row is rewritten once per factor of 8."""

MAX_MERGED_BYTES = 256 << 20
"""The largest segment that a merge writes, in bytes of vectors as float64: bounds memory and time."""


def segments_due(names: Iterable[str], dimension: int | None) -> list[str]:
    """Return the segments to merge: all up to the largest size of which there are enough."""
    tiers: defaultdict[int, list[str]] = defaultdict(list)
    for name in sorted(names):
        if row_count(name) * (dimension or 1) * 8 <= MAX_MERGED_BYTES:
            tiers[row_count(name).bit_length() // 3].append(name)
    full = [tier for tier, members in tiers.items() if len(members) >= MERGE_FACTOR]
    return [name for tier in sorted(tiers) if full and tier <= max(full) for name in tiers[tier]]


def row_count(name: str) -> int:
    """Read a segment's rows from its name."""
    return int(name.partition("-")[0])


def intact_rows(segments: list[Segment]) -> tuple[Rows, list[bool]]:
    """Read and verify all rows of segments; tell for each whether some were damaged."""
    counts = [len(segment.prefixes) for segment in segments]
    dtype = np.result_type(*(segment.dtype for segment in segments))
    keys = np.empty((sum(counts), 32), np.uint8)
    vectors: Vectors = np.empty((len(keys), segments[0].dimension), dtype)
    sums, intact = np.empty(len(keys), np.uint64), np.empty(len(keys), bool)
    ends = np.cumsum(counts)
    for segment, end, count in zip(segments, ends, counts, strict=True):
        here = slice(end - count, end)
        at = np.arange(count)
        keys[here] = segment.keys_at(at)
        part = vectors[here] if dtype == segment.dtype else np.empty((count, vectors.shape[1]), segment.dtype)
        segment.vectors_at(at, part)
        sums[here] = checksums_of(keys[here], part)
        intact[here] = sums[here] == segment.checksums_at(at)
        vectors[here] = part
    damaged = [not intact[end - count : end].all() for end, count in zip(ends, counts, strict=True)]
    if any(damaged):
        keys, vectors, sums = keys[intact], vectors[intact], sums[intact]
    one_dtype = all(segment.dtype == dtype for segment in segments)
    return Rows.build(keys, vectors, sums if one_dtype else None), damaged


def as_bytes(rows: Rows | Segment) -> list[bytes]:
    """Return the keys of rows, one by one."""
    keys = rows.keys if isinstance(rows, Rows) else rows.keys_at(np.arange(len(rows.prefixes)))
    joined = keys.tobytes()
    return [joined[start : start + 32] for start in range(0, len(joined), 32)]
