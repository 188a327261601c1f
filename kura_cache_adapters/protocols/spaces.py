"""Where the vectors of one model are: what a space answers, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray


Vectors: TypeAlias = "NDArray[np.float32] | NDArray[np.float64]"
"""A matrix of vectors, shape (N, D), C-contiguous, float32 or float64."""


@dataclass(frozen=True, slots=True)
class Hits:
    """The found part of a look-up.

    `positions` has shape (k,) and rises: which of the keys asked for were found. `vectors` has
    shape (k, D), float32 or float64, and belongs to the caller. `invalid` counts entries that
    were there and were not fit to use (damaged, foreign); they are misses. `tiers` says how many were
    found in each tier of a store that has tiers.
    """

    positions: NDArray[np.intp]
    vectors: Vectors
    invalid: int = 0
    tiers: tuple[int, ...] = ()

    @classmethod
    def none(cls, invalid: int = 0) -> Hits:
        """Return the look-up that found nothing: shapes (0,) and (0, 0)."""
        return cls(np.empty(0, np.intp), np.empty((0, 0), np.float32), invalid)

    def checked(self, asked: int) -> Hits:
        """Return these hits; raise ValueError if they are no answer to `asked` keys."""
        at, vectors = self.positions, self.vectors
        matrix = vectors.ndim == 2 and vectors.dtype.char in "fd" and len(vectors) == len(at)  # noqa: PLR2004
        inside = not len(at) or (at.dtype.kind == "i" and at[0] >= 0 and at[-1] < asked)
        if matrix and inside and (len(at) < 2 or (at[1:] > at[:-1]).all()):  # noqa: PLR2004
            return self
        message = f"hits at {at!r:.80} with {vectors.dtype} vectors {vectors.shape} answer no {asked} keys"
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class SpaceStats:
    """What a space holds: rows (duplicates included), bytes stored, parts, and D (None: empty)."""

    rows: int
    nbytes: int
    parts: int
    dimension: int | None


@runtime_checkable
class VectorSpace(Protocol):
    """The vectors of one model identity: one dimension, immutable entries, thread-safe, batched.

    Keys are 32 bytes each. An entry never changes: putting a key again may keep either vector.
    A space whose entries end with this process says so by the attribute `volatile = True`, one that
    cannot list its keys by `countable = False`, and one that drops what is old or too much by rules of its
    own says how in `evicts`, a sentence for people: pruning leaves it to them.
    """

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Look all keys up in one batch."""

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:
        """Store one vector per key, shape (N, D); return when they outlive this process.

        With durable, they outlive a power cut too. Raises DimensionMismatchError for another D
        than the space has, ValueError for keys or shapes that do not fit.
        """

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Forget the keys; return how many of them were there."""

    def keys(self) -> Iterator[bytes]:
        """Iterate over the distinct keys, in no order."""

    def stats(self) -> SpaceStats:
        """Count what the space holds."""
