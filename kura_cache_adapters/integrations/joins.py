"""intact: the checksums of rows that another engine has read out of segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters._segments.rows import checksums_of
from kura_cache_adapters.checks import key_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray


def intact(rows: Any, *, vector: str = "vector") -> NDArray[np.bool_]:  # noqa: ANN401 - of pyarrow, without types
    """Tell which rows have the vector that was stored under their key, shape (N,); none without a vector.

    Args:
        rows: an Arrow table or record batch with the columns `key`, `checksum` and the vectors, as segments
            have them (docs/format.md); vectors may be lists of any kind, all of one length.
        vector: the column of the vectors.

    """
    sound: NDArray[np.bool_] = np.array(rows[vector].is_valid()) & np.array(rows["checksum"].is_valid())
    found = rows.filter(sound)
    if not len(found):
        return sound
    matrix = np.stack(found[vector].to_numpy(zero_copy_only=False))
    sums = checksums_of(key_matrix(found["key"].to_pylist()), matrix)
    sound[sound] = sums == np.asarray(found["checksum"].to_numpy(zero_copy_only=False), np.uint64)
    return sound
