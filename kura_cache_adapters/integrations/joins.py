"""intact: the checksums of rows that another engine has read out of segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kura_cache_adapters._segments.rows import checksums_of
from kura_cache_adapters.checks import key_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kura_cache_adapters.protocols import Vectors


def intact(rows: Any, *, vector: str = "vector") -> NDArray[np.bool_]:  # noqa: ANN401 - of pyarrow, without types
    """Tell which rows have the vector that was stored under their key, shape (N,); none with a null.

    Args:
        rows: an Arrow table or record batch with the columns `key`, `checksum` and the vectors, as segments
            have them (docs/format.md); vectors may be lists of any kind, all of one length.
        vector: the column of the vectors.

    Raises:
        ValueError: vectors of several dimensions, or of none; keys that are not of 32 bytes.

    """
    valid = [np.array(rows[column].is_valid(), bool) for column in ("key", "checksum", vector)]
    sound: NDArray[np.bool_] = np.logical_and.reduce(valid)
    found = rows if sound.all() else rows.filter(pa.array(sound))
    if not len(found):
        return sound
    keys, vectors = key_matrix(found["key"].to_pylist()), _matrix(found[vector])
    sums = np.asarray(found["checksum"].to_numpy(zero_copy_only=False), np.uint64)
    right = checksums_of(keys, vectors) == sums
    if vectors.dtype == np.float64 and not right.all():
        right |= _right_as_float32(keys, vectors, sums)
    sound[sound] = right
    return sound


def _right_as_float32(
    keys: NDArray[np.uint8], vectors: Vectors, sums: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Tell which rows are of a segment in float32, which an engine has made float64 beside others."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        narrow = vectors.astype(np.float32)
    right: NDArray[np.bool_] = (narrow == vectors).all(axis=1)
    right &= checksums_of(keys, narrow) == sums
    return right


def _matrix(vectors: Any) -> Vectors:  # noqa: ANN401 - as above
    lengths = pc.unique(pc.list_value_length(vectors)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        message = f"the vectors are not of one dimension, but of {lengths}: join one space at a time"
        raise ValueError(message)
    matrix: Vectors = pc.list_flatten(vectors).to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
    return matrix
