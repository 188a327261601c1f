"""Which segments are to be merged, and the rows that a merge keeps."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._segments.rows import Rows, checksums_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kura_cache_adapters._segments.search import Segment
    from kura_cache_adapters.protocols import Vectors

MERGE_FACTOR = 8
"""Segments are merged where each of them becomes part of one that is so many times larger."""

MAX_MERGED_ROWS = 20 * 1024
"""The largest segment that a merge writes, in rows: the `put_many` that merges waits for it."""

MAX_MERGED_BYTES = 240 << 20
"""The same in bytes of vectors, which a merge holds in memory: 20,480 rows of 1,536 float64."""

_ENOUGH = 12 * MAX_MERGED_ROWS
"""So many rows bound the cube of the number of segments times the smallest.

With rows of segments of 1 row, 62 of them may lie about; of 32, 21; of 256 and more, 10 to 16. Then each
row is rewritten three times, whatever the size of what is put: n segments and three rewritings hold n cubed
over 6 (Bentley and Saxe, *Decomposable searching problems I*, 1980).
"""


def segments_due(names: Iterable[str], dimension: int | None, *, itemsize: int = 8) -> list[str]:
    """Return the segments to merge into one, smallest first; none while they are few.

    They fit together. Either they make a full segment, of which no row is written again, or each of
    them becomes part of one that is at least eight times larger: so a row is rewritten at most once per
    factor of eight, and once more.
    """
    full = min(MAX_MERGED_ROWS, MAX_MERGED_BYTES // ((dimension or 1) * itemsize))
    small = sorted((rows, name) for name in names if 2 * (rows := row_count(name)) <= full)
    sums = [*accumulate(rows for rows, _ in small)]
    if len(small) > 1 and sums[-1] + small[0][0] > full:
        return [name for _, name in small[: bisect_right(sums, full)]]
    if len(small) < MERGE_FACTOR or len(small) ** 3 * small[0][0] < min(40 * sums[-1], _ENOUGH):
        return []
    halves = bisect_right(sums, full // 2)  # what is larger than half waits until it can be full
    growths = [together / rows for together, (rows, _) in zip(sums[:halves], small[:halves], strict=True)]
    best = max(growths)
    last = halves - growths[::-1].index(best)
    return [name for _, name in small[:last]] if best >= MERGE_FACTOR else []


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
