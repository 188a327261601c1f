"""One matrix for an answer that comes in parts: put together as they come, it is not needed a second time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kura_cache_adapters.protocols import Vectors


class Room:
    """Room for so many vectors, made when the first of them come."""

    def __init__(self, total: int) -> None:
        """Take how many there will be."""
        self._total = total
        self._taken = 0
        self._matrix: Vectors | None = None

    def take(self, part: Vectors | Sequence[Any]) -> Vectors | Sequence[Any]:
        """Copy the next vectors in and return them as they lie here; those that do not fit as they are."""
        if not isinstance(part, np.ndarray) or len(part) == self._total:
            return part
        if self._matrix is None:
            self._matrix = np.empty((self._total, part.shape[1]), part.dtype)
        if (self._matrix.shape[1], self._matrix.dtype) != (part.shape[1], part.dtype):
            return part
        place = self._matrix[self._taken : self._taken + len(part)]
        place[...] = part
        self._taken += len(part)
        return place


def whole_of(total: int, parts: Sequence[tuple[Sequence[int], Any]]) -> Vectors | None:
    """Return the room that parts, each (positions, vectors), lie in, if they are all of it, in order."""
    room: Any = getattr(parts[0][1], "base", None) if parts else None
    if not isinstance(room, np.ndarray) or room.ndim != 2 or len(room) != total:  # noqa: PLR2004 - a matrix
        return None
    at = 0
    for positions, vectors in parts:
        here = range(at, at + len(vectors))
        if getattr(vectors, "base", None) is not room or [*positions] != [*here]:
            return None
        at = here.stop
    return room if at == total else None
