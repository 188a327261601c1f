"""The rows of a segment: keys, checksums and vectors, side by side and sorted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters.checks import KEY_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kura_cache_adapters.protocols import Vectors

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
    scratch = np.empty((min(step, len(keys)), words), np.uint64)
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
    words = chunk.view("<u8")
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
