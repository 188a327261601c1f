"""What each tier of a store was good for: counted for one, and told for all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class MirrorStats:
    """What went between a `MirroredStore` and its object store in this process.

    Attributes:
        pushed: how many files went up.
        pulled: how many came down.
        pushed_bytes: in these.
        pulled_bytes: in those.
        refused: how many were not what their names say.
        errors: how often the object store was not reached, or has refused.
        error: why, the last time; empty where it works.

    """

    pushed: int = 0
    pulled: int = 0
    pushed_bytes: int = 0
    pulled_bytes: int = 0
    refused: int = 0
    errors: int = 0
    error: str = ""

    def __str__(self) -> str:
        """Say it in a line."""
        moved = f"pushed {self.pushed:,}, pulled {self.pulled:,}"
        return f"{moved}, refused {self.refused:,}, errors {self.errors:,}"


@dataclass(frozen=True, slots=True)
class TierStats:
    """What one tier has answered, in texts unless said otherwise.

    `hits` were found in it, `misses` were not; a text is a miss once more where it was looked for again,
    since other processes were at work. A `remote` one counts over all models of this process that use the
    same store object, and counts what it has answered: `errors` and `timeouts` are calls that failed or were
    given up, `open_seconds` the time in which it was not asked because of them, `backlog` the entries
    that wait to be written, and `dropped` those that were given up: a tier in front of it has them, and
    brings them with a later batch. `mirror` is what went between a mirrored one and its object store, over
    all models too.
    """

    name: str
    hits: int = 0
    misses: int = 0
    errors: int = 0
    timeouts: int = 0
    open_seconds: float = field(default=0.0, compare=False)
    backlog: int = 0
    dropped: int = 0
    remote: bool = field(default=False, compare=False)
    mirror: MirrorStats | None = None

    def __str__(self) -> str:
        """Say it in a line."""
        counts = f"{self.name}: hits {self.hits:,}, misses {self.misses:,}"
        if not self.remote:
            return f"{counts}; {self.mirror}" if self.mirror else counts
        trouble = f"errors {self.errors:,}, time-outs {self.timeouts:,}, open for {self.open_seconds:.3g} s"
        return f"{counts}; {trouble}; backlog {self.backlog:,}, dropped {self.dropped:,}"


@runtime_checkable
class TellsTiers(Protocol):
    """A store that tells its tiers apart: from fast to slow, or itself, where it is a remote one."""

    def tier_stats(self) -> Sequence[TierStats]:
        """Tell what each has answered, as far as the store counts it."""


def told(
    store: object, counted: Sequence[tuple[int, int]], *, alone: tuple[int, int]
) -> tuple[TierStats, ...]:
    """Return what a store tells of its tiers, and how many texts were found in others, of those asked for.

    A store that is no tiers counts none: `alone` is what was found in it, of all.
    """
    tiers = store.tier_stats() if isinstance(store, TellsTiers) else ()
    counted = [alone] if len(tiers) == 1 else counted
    counts = [*counted, *[(0, 0)] * (len(tiers) - len(counted))]
    return tuple(
        tier if tier.remote else replace(tier, hits=found, misses=asked - found)
        for tier, (found, asked) in zip(tiers, counts, strict=False)
    )
