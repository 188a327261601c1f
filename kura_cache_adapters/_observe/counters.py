"""What a cached model has done so far, counted from any thread."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._observe.bar import pictured
from kura_cache_adapters._observe.events import Embedded, Failed, LookedUp, Stored
from kura_cache_adapters._observe.tiers import TierStats, told
from kura_cache_adapters._runtime.fork import ForkLock

if TYPE_CHECKING:
    from kura_cache_adapters._observe.events import Event


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cached model has done so far, in texts unless said otherwise.

    `hits` were found in the cache; `misses` were answered by the model; `duplicates` were answered
    by the same text elsewhere in the call, or by another call's embedding of it; `stored` were
    saved: what only waits for a server, or was dropped, is in `tiers` alone. `load_failures` and
    `save_failures` count batches that the cache could not read or write, `invalid_entries` what was in the
    cache and not fit to use. `tokens` is what the model has
    billed, as far as it tells; None where it has told nothing. The seconds are those in look-ups, in waiting
    for the model and in storing, of all calls together: those that ran at once count each;
    where all else is equal, two of these are. `adopted` texts were found in the `fallback`, and the model was
    not asked for them. `tiers` tells the same of each tier of a tiered, remote or mirrored store.
    """

    hits: int = 0
    misses: int = 0
    duplicates: int = 0
    stored: int = 0
    load_failures: int = 0
    save_failures: int = 0
    invalid_entries: int = 0
    adopted: int = 0
    tokens: int | None = None
    lookup_seconds: float = field(default=0.0, compare=False)
    model_seconds: float = field(default=0.0, compare=False)
    store_seconds: float = field(default=0.0, compare=False)
    tiers: tuple[TierStats, ...] = field(default=(), compare=False)

    @property
    def texts(self) -> int:
        """How many texts have been answered."""
        return self.hits + self.duplicates + self.misses + self.adopted

    @property
    def hit_rate(self) -> float:
        """The share of the texts that was found in the cache; 0.0 before the first."""
        return self.hits / self.texts if self.texts else 0.0

    def __str__(self) -> str:
        """Say it in a line."""
        tokens = "" if self.tokens is None else f", tokens billed {self.tokens:,}"
        found = f"hits {self.hits:,}, duplicates {self.duplicates:,}, misses {self.misses:,}{tokens}"
        seconds = (self.lookup_seconds, self.model_seconds, self.store_seconds)
        return "{}: hit rate {:.1%}; seconds in look-up {:.3g}, model {:.3g}, store {:.3g}".format(
            found, self.hit_rate, *seconds
        )

    def _repr_html_(self) -> str:
        return pictured(type(self).__name__, str(self), self)


class Counters:
    """An observer that adds events up."""

    def __init__(self) -> None:
        """Start at zero."""
        self._lock = ForkLock()
        self._counts: dict[str, Any] = asdict(CacheStats())
        self._tiers: list[tuple[int, int]] = []  # of each tier: texts found, and asked for

    def __call__(self, event: Event) -> None:
        """Count an event."""
        counts = self._counts
        with self._lock:
            if isinstance(event, LookedUp):
                counts["hits"] += event.hits
                counts["lookup_seconds"] += event.seconds
                if event.tiers:
                    self._count_tiers(event)
                if event.repeated or event.invalid:
                    counts["duplicates"] += event.repeated
                    counts["invalid_entries"] += event.invalid
            elif isinstance(event, Embedded):
                counts["misses"] += event.texts
                counts["duplicates"] += event.shared
                counts["model_seconds"] += event.seconds
                if event.tokens is not None:
                    counts["tokens"] = event.tokens + (counts["tokens"] or 0)
                counts["adopted"] += event.adopted
            elif isinstance(event, Stored):
                counts["stored"] += event.entries
                counts["store_seconds"] += event.seconds
            elif isinstance(event, Failed) and event.action != "embed":
                counts["load_failures" if event.action == "read" else "save_failures"] += 1

    @property
    def stats(self) -> CacheStats:
        """What has been counted so far."""
        return CacheStats(**self._counts)

    def stats_over(self, store: object) -> CacheStats:
        """Return what has been counted so far, with what the store tells of its tiers."""
        stats = self.stats
        return replace(stats, tiers=told(store, self._tiers, alone=(stats.hits, stats.texts)))

    def _count_tiers(self, event: LookedUp) -> None:
        left = event.texts
        counted = [*self._tiers, *[(0, 0)] * (len(event.tiers) - len(self._tiers))]
        for at, found in enumerate(event.tiers):
            counted[at] = counted[at][0] + found, counted[at][1] + left
            left -= found
        self._tiers = counted
