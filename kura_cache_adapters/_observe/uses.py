"""What a cache was good for, over all processes: how that is summed up, and which spaces keep a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from kura_cache_adapters._observe.events import Event


@dataclass(frozen=True, slots=True)
class UseStats:
    """What the entries of one model were used for, in texts, by all processes that have told.

    `hits` were found, `duplicates` answered by the same text elsewhere in a call or by another call,
    `misses` by the model, which billed `tokens` for them; None where it never told. `since` and `until` are
    when the first and the last of it was written down: seconds since 1970, 0.0 for never.
    """

    hits: int = 0
    duplicates: int = 0
    misses: int = 0
    tokens: int | None = None
    since: float = 0.0
    until: float = 0.0

    @property
    def texts(self) -> int:
        """How many texts have been answered."""
        return self.hits + self.duplicates + self.misses

    @property
    def hit_rate(self) -> float:
        """The share of the texts that was found; 0.0 before the first."""
        return self.hits / self.texts if self.texts else 0.0

    @property
    def texts_saved(self) -> int:
        """How many texts the model was not asked for."""
        return self.hits + self.duplicates

    @property
    def tokens_saved(self) -> int | None:
        """About how many tokens that would have been, by what a miss has cost; None if that is not known."""
        if self.tokens is None or not self.misses:
            return None
        return round(self.tokens / self.misses * self.texts_saved)

    def __add__(self, other: UseStats) -> UseStats:
        """Return the sum of two records."""
        told = [each.tokens for each in (self, other) if each.tokens is not None]
        return UseStats(
            self.hits + other.hits,
            self.duplicates + other.duplicates,
            self.misses + other.misses,
            sum(told) if told else None,
            min(filter(None, (self.since, other.since)), default=0.0),
            max(self.until, other.until),
        )

    def __str__(self) -> str:
        """Say it in a line."""
        about = self.tokens_saved
        tokens = "" if about is None else f", about {about:,} tokens"
        return (
            f"hit rate {self.hit_rate:.1%} of {self.texts:,} texts; saved {self.texts_saved:,} texts{tokens}"
        )


class UseRecord(Protocol):
    """An observer of one space's events that keeps them over processes."""

    def __call__(self, event: Event, /) -> object:
        """Count an event; it is written down later, and never raises."""

    def write(self) -> None:
        """Write down what has been counted since the last time; raises nothing."""

    def total(self) -> UseStats:
        """Sum up what all processes have written down, and this one has counted."""


def record_of(space: object) -> UseRecord | None:
    """Return a space's record of its use, its attribute `use_record`; None where it keeps none."""
    return cast("UseRecord | None", getattr(space, "use_record", None))
