"""A single entry as bytes, for stores that keep one value per key. docs/format.md is the specification."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._segments.rows import checksum_of
from kura_cache_adapters.checks import check_shapes, key_matrix

if TYPE_CHECKING:
    from kura_cache_adapters.protocols import Vectors

_VERSION = 1
_HEAD = struct.Struct("<BBHIQ")  # version, bytes of a number, zero, D, checksum
_ITEMSIZES = {4, 8}  # float32, float64


def encode(key: bytes, vector: Vectors, /) -> bytes:
    """Return a vector, shape (D,), float32 or float64, as the bytes that are kept under its key.

    Raises ValueError for a key of another length than 32, and for another shape or dtype.
    """
    key_matrix([key])
    check_shapes([key], vector[np.newaxis])
    content = vector.astype(vector.dtype.newbyteorder("<")).tobytes()
    checksum = checksum_of(key, content, vector.itemsize)
    return _HEAD.pack(_VERSION, vector.itemsize, 0, len(vector), checksum) + content


def decode(key: bytes, value: bytes, /) -> Vectors:
    """Return the vector, shape (D,), read-only, that `encode` made these bytes of, bit for bit.

    Raises ValueError for bytes that are damaged, another key's, of another version, or something else.
    """
    if len(value) <= _HEAD.size:
        message = f"{len(value)} bytes are too few for an entry"
        raise ValueError(message)
    version, itemsize, zero, dimension, checksum = _HEAD.unpack_from(value)
    if (version, zero) != (_VERSION, 0) or itemsize not in _ITEMSIZES:
        message = f"an entry of version {_VERSION} does not begin with {value[:4]!r}"
        raise ValueError(message)
    content = value[_HEAD.size :]
    if len(content) != dimension * itemsize or checksum_of(key, content, itemsize) != checksum:
        message = "the entry is damaged, or that of another key"
        raise ValueError(message)
    vector: Vectors = np.frombuffer(content, f"<f{itemsize}").astype(f"f{itemsize}", copy=False)
    return vector
