"""PrefixIndex: where a segment's key prefixes are, in a few bytes a row of memory that is always at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SLOTS = 16  # of the range of prefixes for each row, at least: so few of those that are not there pass
_STEP = 8  # rows from one post of the fence to the next: their prefixes are a line of the processor's cache
_FEWEST = 2048  # rows: less is searched as fast without
_WORTH = 8  # making it costs as much as looking an eighth of its rows up

_BLOCK = np.arange(_STEP + 1)


class PrefixIndex:
    """A bit for each slot of the range of prefixes, eight in a byte, and a fence of every eighth prefix.

    Keys are hashes, and spread evenly: the upper bits of a prefix are its slot. The bits are a Bloom filter
    (Bloom 1970) of one hash function. Where keys are spread otherwise, more of them pass.
    """

    __slots__ = ("_fence", "_prefixes", "_view", "bits", "shift")

    def __init__(self, prefixes: NDArray[np.uint64]) -> None:
        """Read the prefixes, shape (N,), rising."""
        self.shift: int = 64 - (_SLOTS * len(prefixes) - 1).bit_length()
        self.bits: NDArray[np.uint8] = np.zeros(1 << (61 - self.shift), np.uint8)
        at, bit = slots_of(prefixes, self.shift)
        first = np.flatnonzero(np.diff(at, prepend=-1))
        self.bits[at[first]] = np.bitwise_or.reduceat(bit, first)
        self._view = self.bits.data
        self._prefixes, self._fence = prefixes, prefixes[::_STEP].copy()

    def may_have(self, prefix: int) -> bool:
        """Tell whether one prefix may be there."""
        slot = prefix >> self.shift
        return bool(self._view[slot >> 3] >> (slot & 7) & 1)

    def places(self, sought: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Return what `np.searchsorted` does; it reads a line or two of the rows for each that is sought."""
        if len(sought) > len(self._fence):
            return np.searchsorted(self._prefixes, sought)
        at = np.maximum(np.searchsorted(self._fence, sought) - 1, 0) * _STEP
        block = self._prefixes.take(at[:, np.newaxis] + _BLOCK, mode="clip")
        at += np.count_nonzero(block < sought[:, np.newaxis], axis=1)
        places: NDArray[np.intp] = np.minimum(at, len(self._prefixes))
        return places


class IndexOnce:
    """The index of a segment, made when so much was looked up in it that it is worth it."""

    __slots__ = ("_asked", "index")

    def __init__(self) -> None:
        """Make none yet."""
        self._asked = 0
        self.index: PrefixIndex | None = None

    def asked(self, prefixes: NDArray[np.uint64], count: int) -> PrefixIndex | None:
        """Note that so many are looked for among its prefixes; return the index, if there is one by now."""
        if self.index is None and len(prefixes) >= _FEWEST:
            self._asked += count
            if _WORTH * self._asked > len(prefixes):
                self.index = PrefixIndex(prefixes)
        return self.index


def slots_of(prefixes: NDArray[np.uint64], shift: int) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Return where the slots of prefixes are: in which byte, and as which bit of it."""
    slots = (prefixes >> np.uint64(shift)).astype(np.intp)
    return slots >> 3, np.left_shift(1, slots & 7, dtype=np.uint8, casting="unsafe")
