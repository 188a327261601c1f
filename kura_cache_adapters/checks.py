"""The checks that every store makes of keys and vectors before it keeps them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters.errors import DimensionMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sized

    from numpy.typing import NDArray

    from kura_cache_adapters.protocols import Vectors

KEY_BYTES = 32
"""The length of every key: a SHA-256."""


def key_matrix(keys: Iterable[bytes]) -> NDArray[np.uint8]:
    """Join keys into a matrix of shape (N, 32); raise ValueError for a key of another length."""
    keys = list(keys)
    check_keys(keys)
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


def check_keys(keys: Iterable[bytes]) -> None:
    """Raise ValueError for a key of another length than 32."""
    if lengths := {*map(len, keys)} - {KEY_BYTES}:
        message = f"a key has {KEY_BYTES} bytes; got {sorted(lengths)}"
        raise ValueError(message)


def keys_of(keys: Iterable[bytes | str]) -> list[bytes]:
    """Return distinct keys as bytes; raise ValueError for what is neither 32 bytes nor 64 hex characters."""
    keys = [keys] if isinstance(keys, (bytes, str)) else keys
    return list(dict.fromkeys(map(_key_of, keys)))


def _key_of(key: bytes | str) -> bytes:
    with suppress(ValueError, TypeError):
        decoded = bytes.fromhex(key) if isinstance(key, str) else b"".join([key])
        if len(decoded) == KEY_BYTES:
            return decoded
    message = f"a key has {KEY_BYTES} bytes, or {2 * KEY_BYTES} hexadecimal characters: {key!r:.80} is none"
    raise ValueError(message)


def check_shapes(keys: Sized, vectors: Vectors) -> None:
    """Raise ValueError unless there is one float32 or float64 vector of some dimension per key."""
    shape, count = vectors.shape, len(keys)
    if vectors.dtype not in {np.dtype(np.float32), np.dtype(np.float64)}:
        message = f"vectors of keys must be float32 or float64 in this machine's order, not {vectors.dtype}"
        raise ValueError(message)
    if len(shape) != 2 or shape[0] != count or not shape[1]:  # noqa: PLR2004 - a matrix
        message = f"{count} keys need vectors of shape ({count}, D), not {shape}"
        raise ValueError(message)


def check_dimension(dimension: int | None, vectors: Vectors, where: str) -> None:
    """Raise DimensionMismatchError unless vectors have the dimension of the space (None: any)."""
    if dimension not in {None, vectors.shape[1]}:
        message = (
            f"{where} holds vectors of {dimension} dimensions; these have {vectors.shape[1]}. "
            "If the model has changed, give it another model_name or a parameter that says so."
        )
        raise DimensionMismatchError(message)
