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
    sums = checksums_of(key_matrix(found["key"].to_pylist()), _matrix(found[vector]))
    sound[sound] = sums == np.asarray(found["checksum"].to_numpy(zero_copy_only=False), np.uint64)
    return sound


def _matrix(vectors: Any) -> Vectors:  # noqa: ANN401 - as above
    lengths = pc.unique(pc.list_value_length(vectors)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        message = f"the vectors are not of one dimension, but of {lengths}: join one space at a time"
        raise ValueError(message)
    matrix: Vectors = pc.list_flatten(vectors).to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
    return matrix
