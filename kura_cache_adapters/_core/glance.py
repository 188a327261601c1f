"""Answers at once, on the caller's loop: what is small and at hand is found sooner than a thread is."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kura_cache_adapters.protocols import Hits, VectorSpace

FEW = 32  # texts
_CHARACTERS = 64 << 10  # hashing them takes a tenth of a millisecond
_LONG = 0.005  # seconds: something was not at hand, a page had to be read from a disk
_REST = 100.0  # times as long as a long one
_MOST_REST = 2.0  # seconds: it may have been a pass of the garbage collector
_TURN = 0.002  # seconds of glances without a pause, then it is the others' turn


def small(texts: object) -> bool:
    """Tell whether these are so few that a glance is worth its while."""
    return type(texts) in {list, tuple} and len(texts) <= FEW  # type: ignore[arg-type]


def short(texts: Sequence[str]) -> bool:
    """Tell whether their keys are computed in no time."""
    return sum(map(len, texts)) <= _CHARACTERS


def glance_of(space: VectorSpace) -> Callable[[list[bytes]], Hits | None] | None:
    """Return a space's `glance`; None where it has none, or another `get_many` than that glance knows of."""
    own: Any = space
    for names in (getattr(space, "__dict__", {}), *map(vars, type(space).__mro__)):
        if "glance" in names:
            glance: Callable[[list[bytes]], Hits | None] = own.glance
            return glance
        if "get_many" in names:
            return None
    return None


class Pace:
    """How much of a loop's time glances take: one that took long is followed by a rest."""

    def __init__(self) -> None:
        """Start with nothing taken."""
        self._again = self._taken = 0.0

    def ready(self) -> bool:
        """Tell whether the next glance may be taken."""
        return perf_counter() >= self._again

    def took(self, begun: float) -> None:
        """Note that a glance has ended that was begun then."""
        now = perf_counter()
        self._taken += now - begun
        if now - begun > _LONG:
            self._again = now + min(_MOST_REST, _REST * (now - begun))

    def turn_is_over(self) -> bool:
        """Tell whether others on the loop should have a turn now."""
        if self._taken < _TURN:
            return False
        self._taken = 0.0
        return True
