"""Lists of floats as an exact matrix: checked and narrowed a few rows at a time, while these are in cache."""

from __future__ import annotations

from marshal import dumps
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kura_cache_adapters.protocols import Vectors

_AT_ONCE = 1 << 14  # numbers: they stay in cache, and other threads wait for no more than these
_HEAD, _FLOAT = 5, 9  # bytes that marshal writes before the items of a list, and for a float
_TAG = ord("g")  # before the eight bytes of a float, and of nothing else


def are_floats(rows: Sequence[Any]) -> bool:
    """Tell whether these are lists of Python floats, all of one length above 0."""
    return bool(len(rows)) and all(block is not None for block in _blocks(rows))


def matrix_of_floats(rows: Sequence[Any]) -> Vectors | None:
    """Return lists of Python floats as a matrix, float32 where that loses nothing; None for all else.

    Shape (N, D), N and D above 0. None means that they are to be looked at more closely.
    """
    matrix: Vectors | None = None
    start = 0
    for block in _blocks(rows):
        if block is None:
            return None
        if matrix is None:
            matrix = np.empty((len(rows), block.shape[1]), np.float32)
        matrix = _put(matrix, start, np.ascontiguousarray(block, np.float64))
        start += len(block)
    return matrix


def let_go(rows: Sequence[Any]) -> None:
    """Empty a list of lists little by little: freeing millions of numbers at once stops every thread."""
    while type(rows) is list and rows:
        del rows[-_step(rows[-1]) :]


def _step(row: Any) -> int:  # noqa: ANN401 - a row, or what stands in its place
    return max(1, _AT_ONCE // len(row)) if type(row) is list and row else 1


def _blocks(rows: Sequence[Any]) -> Iterator[NDArray[np.float64] | None]:
    """Yield some rows after the other, each time shape (k, D); None in place of what is something else."""
    rows = rows if isinstance(rows, list) else []
    first = rows[0] if rows else None
    if type(first) is not list or not first or type(first[0]) is not float:
        yield None
        return
    step = _step(first)
    for start in range(0, len(rows), step):
        yield _floats(rows[start : start + step], len(first))


def _floats(rows: list[Any], dimension: int) -> NDArray[np.float64] | None:
    """View rows as a block if they are lists of so many floats.

    marshal (of a version that refers to nothing by number) looks at each type on its way through the
    numbers: this is as fast as looking at the types alone.
    """
    try:
        packed = dumps(rows, 2)
    except ValueError:  # something that it cannot write
        return None
    count, row_bytes = len(rows), _HEAD + _FLOAT * dimension
    if len(packed) != _HEAD + count * row_bytes:
        return None
    head = np.frombuffer(b"[" + dimension.to_bytes(4, "little"), np.uint8)
    heads = np.ndarray((count, _HEAD), np.uint8, packed, _HEAD, (row_bytes, 1))
    tags = np.ndarray((count, dimension), np.uint8, packed, 2 * _HEAD, (row_bytes, _FLOAT))
    if (heads != head).any() or (tags != _TAG).any():
        return None
    shape, place = (count, dimension), 2 * _HEAD + 1
    floats: NDArray[np.float64] = np.ndarray(shape, "<f8", packed, place, (row_bytes, _FLOAT))
    return floats


def _put(matrix: Vectors, start: int, block: NDArray[np.float64]) -> Vectors:
    """Put rows in their place; return the matrix, or a wider one with what it has so far."""
    place = matrix[start : start + len(block)]
    with np.errstate(over="ignore", under="ignore"):
        place[...] = block
    if matrix.dtype == np.float64 or _same(place, block):
        return matrix
    wide = np.empty(matrix.shape, np.float64)
    wide[:start] = matrix[:start]
    wide[start : start + len(block)] = block
    return wide


def _same(narrow: NDArray[Any], wide: NDArray[Any]) -> bool:
    """Tell whether two arrays of one shape have the same numbers, and NaN in the same places."""
    return bool((narrow == wide).all()) or np.array_equal(narrow, wide, equal_nan=True)
