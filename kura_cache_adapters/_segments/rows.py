"""The rows of a segment: keys, checksums and vectors, side by side and sorted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters.errors import DimensionMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sized

    from numpy.typing import NDArray

    from kura_cache_adapters.protocols import Vectors

KEY_BYTES = 32
_WORD = 8
_CHUNK_BYTES = 384 << 10  # of vectors handled at a time: a chunk stays in the processor's cache


@dataclass(frozen=True, slots=True)
class Rows:
    """N entries: keys (N, 32) uint8, checksums (N,) uint64, vectors (N, D) float32 or float64."""

    keys: NDArray[np.uint8]
    checksums: NDArray[np.uint64]
    vectors: Vectors

    @classmethod
    def build(
        cls,
        keys: NDArray[np.uint8],
        vectors: Vectors,
        checksums: NDArray[np.uint64] | None = None,
    ) -> Rows:
        """Sort entries by key, drop repeated keys, and compute the checksums unless they are given."""
        order = np.argsort(prefixes_of(keys), kind="stable")
        keys = keys[order]
        repeated = np.flatnonzero((keys[1:] == keys[:-1]).all(axis=1)) + 1
        if len(repeated):
            keys, order = np.delete(keys, repeated, axis=0), np.delete(order, repeated)
        ordered: Vectors = vectors[order]
        return cls(keys, checksums_of(keys, ordered) if checksums is None else checksums[order], ordered)

    def __len__(self) -> int:
        """Return N."""
        return len(self.keys)

    @property
    def prefixes(self) -> NDArray[np.uint64]:
        """The first 8 bytes of each key as a big-endian number: what a look-up searches."""
        return prefixes_of(self.keys)


def key_matrix(keys: Iterable[bytes]) -> NDArray[np.uint8]:
    """Join keys into a matrix of shape (N, 32); raise ValueError for a key of another length."""
    keys = list(keys)
    if lengths := {*map(len, keys)} - {KEY_BYTES}:
        message = f"a key has {KEY_BYTES} bytes; got {sorted(lengths)}"
        raise ValueError(message)
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


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


def prefixes_of(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the search prefixes of keys, shape (N,)."""
    return np.ascontiguousarray(keys).view(">u8")[:, 0].astype(np.uint64)


def chunk_rows(row_bytes: int) -> int:
    """Return how many rows to handle at a time."""
    return max(64, _CHUNK_BYTES // row_bytes)


def checksums_of(keys: NDArray[np.uint8], vectors: Vectors) -> NDArray[np.uint64]:
    """Compute a 64-bit checksum per row over its key, its vector, their dtype and dimension.

    The row is read as little-endian 64-bit words w (key first, the vector's bytes padded with
    zeros), and the sum of (w xor w >> 32) * weight is taken modulo 2**64. The weights are odd, so
    any one flipped bit changes it; the key's words bind a vector to its key. See docs/format.md.
    """
    row_bytes = vectors.shape[1] * vectors.itemsize
    words = -(-row_bytes // _WORD)
    weights = _weights(KEY_BYTES // _WORD + words)
    sums = np.empty(len(keys), np.uint64)
    step = chunk_rows(row_bytes)
    scratch = np.zeros((min(step, len(keys)), words), np.uint64)
    for start in range(0, len(keys), step):
        chunk = vectors[start : start + step]
        mixed = scratch[: len(chunk)]
        _mix(chunk, row_bytes, mixed)
        np.einsum("ij,j->i", mixed, weights[4:], out=sums[start : start + step])
    key_words = np.ascontiguousarray(keys).view("<u8")
    key_words = key_words ^ (key_words >> np.uint64(32))
    sums += key_words @ weights[:4]
    sums += np.uint64(row_bytes << 8 | vectors.itemsize)
    return sums


def checksum_of(key: bytes, vector: bytes, itemsize: int) -> int:
    """Compute one row's checksum, without the set-up that a batch costs."""
    words = np.frombuffer(key + vector + bytes(-len(vector) % _WORD), "<u8")
    mixed = words ^ (words >> np.uint64(32))
    total = int(mixed @ _weights(len(words))) + (len(vector) << 8 | itemsize)
    return total & 0xFFFFFFFFFFFFFFFF


def _mix(chunk: Vectors, row_bytes: int, mixed: NDArray[np.uint64]) -> None:
    if row_bytes % _WORD:
        padded = mixed.view(np.uint8)
        padded[:, :row_bytes] = np.ascontiguousarray(chunk).view(np.uint8)
        padded[:, row_bytes:] = 0
        mixed ^= mixed >> np.uint64(32)
        return
    words = np.ascontiguousarray(chunk).view("<u8")
    np.right_shift(words, np.uint64(32), out=mixed)
    np.bitwise_xor(mixed, words, out=mixed)


@lru_cache(maxsize=64)
def _weights(count: int) -> NDArray[np.uint64]:
    """Return odd, well-mixed constants: SplitMix64 (Steele, Lea, Flood 2014) from seed 0."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        weights: NDArray[np.uint64] = (z ^ (z >> np.uint64(31))) | np.uint64(1)
    weights.setflags(write=False)
    return weights
