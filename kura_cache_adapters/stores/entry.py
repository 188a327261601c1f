"""A single entry as bytes, for stores that keep one value per key. docs/format.md is the specification."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._segments.rows import checksums_of
from kura_cache_adapters.checks import check_shapes, key_matrix
from kura_cache_adapters.protocols import Hits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kura_cache_adapters.protocols import Vectors

_VERSION = 1
_START = struct.Struct("<BBHI")  # version, bytes of a number, zero, D
_HEAD = _START.size + 8  # bytes, with the checksum
_ITEMSIZES = (4, 8)  # float32, float64


def encode(key: bytes, vector: Vectors, /) -> bytes:
    """Return a vector, shape (D,), float32 or float64, as the bytes that are kept under its key.

    Raises ValueError for a key of another length than 32, and for another shape or dtype.
    """
    return encode_many([key], vector[np.newaxis])[0]


def encode_many(keys: Sequence[bytes], vectors: Vectors, /) -> list[bytes]:
    """Return vectors, shape (N, D), as `encode` does each, with their checksums computed in one pass."""
    matrix = key_matrix(keys)
    check_shapes(keys, vectors)
    return joined(_VERSION, checksums_of(matrix, vectors).astype("<u8"), vectors)


def decode(key: bytes, value: bytes, /) -> Vectors:
    """Return the vector, shape (D,), that `encode` made these bytes of, bit for bit.

    Raises ValueError for bytes that are damaged, another key's, of another version, or something else.
    """
    vectors = decode_many([key], [value]).vectors
    if not len(vectors):
        message = f"the entry of {len(value)} bytes is damaged, another key's, or not of version {_VERSION}"
        raise ValueError(message)
    vector: Vectors = vectors[0]
    return vector


def decode_many(keys: Sequence[bytes], values: Sequence[bytes], /, *, dimension: int | None = None) -> Hits:
    """Find what `encode_many` made of vectors, in one pass: positions in `keys`, vectors, and the rest.

    Args:
        keys: 32 bytes each.
        values: one for each key.
        dimension: of the vectors; None takes that of the first value that is intact.

    Returns:
        Hits, bit for bit; `invalid` counts what is damaged, another key's, of another version or dimension.

    """
    parts = []
    for at, itemsize, rows in alike(_VERSION, _HEAD, values):
        vectors = vectors_in(rows, _HEAD, itemsize)
        checksums = np.ascontiguousarray(rows[:, _START.size : _HEAD]).view("<u8")[:, 0]
        asked = keys if len(at) == len(keys) else [keys[each] for each in at.tolist()]
        intact = checksums_of(key_matrix(asked), vectors) == checksums
        parts.append((at, vectors) if intact.all() else (at[intact], vectors[intact]))
    return gathered(parts, len(values), dimension)


def joined(version: int, seals: NDArray[np.generic], vectors: Vectors) -> list[bytes]:
    """Return entries: what all begin with, then each one's seal, then its vector."""
    count, itemsize = len(vectors), vectors.itemsize
    start = _START.pack(version, itemsize, 0, vectors.shape[1])
    content = np.ascontiguousarray(vectors, f"<f{itemsize}").view(np.uint8)
    seals = seals.view(np.uint8).reshape(count, -1)
    at = len(start) + seals.shape[1]
    rows = np.empty((count, at + content.shape[1]), np.uint8)
    rows[:, : len(start)] = np.frombuffer(start, np.uint8)
    rows[:, len(start) : at], rows[:, at:] = seals, content
    entries: list[bytes] = rows.view(f"V{rows.shape[1]}")[:, 0].tolist()
    return entries


def alike(
    version: int, head: int, values: Sequence[bytes]
) -> list[tuple[NDArray[np.intp], int, NDArray[np.uint8]]]:
    """Gather values that begin alike: positions, bytes of a number, rows; without those that begin wrong."""
    lengths = {*map(len, values)}
    groups: list[tuple[NDArray[np.intp], int, NDArray[np.uint8]]] = []
    for length in sorted(each for each in lengths if each > head):
        at = np.arange(len(values))
        if len(lengths) > 1:  # which is rare
            at = np.array([each for each in at.tolist() if len(values[each]) == length])
        content = b"".join(values if len(at) == len(values) else [values[each] for each in at.tolist()])
        rows = np.frombuffer(content, np.uint8).reshape(-1, length)
        groups += _by_number(version, head, at, rows)
    return groups


def _by_number(
    version: int, head: int, at: NDArray[np.intp], rows: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.intp], int, NDArray[np.uint8]]]:
    """Divide values of one length by the bytes of a number that they begin with."""
    starts = np.ascontiguousarray(rows[:, : _START.size]).view("<u8")[:, 0]
    for itemsize in _ITEMSIZES:
        dimension, rest = divmod(rows.shape[1] - head, itemsize)
        fit = starts == int.from_bytes(_START.pack(version, itemsize, 0, dimension), "little")
        if not rest and fit.all():
            yield at, itemsize, rows
            return
        if not rest and fit.any():
            yield at[fit], itemsize, rows[fit]


def vectors_in(rows: NDArray[np.uint8], head: int, itemsize: int) -> Vectors:
    """Copy out the vectors of entries that begin alike, shape (N, D), C-contiguous."""
    vectors: Vectors = rows[:, head:].copy().view(f"<f{itemsize}")
    return vectors.astype(f"f{itemsize}", copy=False)


def gathered(parts: list[tuple[NDArray[np.intp], Vectors]], there: int, dimension: int | None = None) -> Hits:
    """Return parts (positions, vectors) of one dimension as hits; what else was there is invalid."""
    parts = [part for part in parts if len(part[0])]
    if dimension is None and parts:
        dimension = min(parts, key=lambda part: int(part[0][0]))[1].shape[1]
    parts = [part for part in parts if part[1].shape[1] == dimension]
    if not parts:
        return Hits.none(there)
    if len(parts) == 1:
        return Hits(*parts[0], there - len(parts[0][0]))
    at = np.concatenate([part[0] for part in parts])
    vectors: Vectors = np.concatenate([part[1] for part in parts])
    if (at[1:] < at[:-1]).any():
        order = np.argsort(at)
        at, vectors = at[order], vectors[order]
    return Hits(at, vectors, there - len(at))
