"""What a cached model has done so far, counted from any thread."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from kura_cache_adapters._observe.events import Embedded, LookedUp, Stored
from kura_cache_adapters._runtime.fork import ForkLock

if TYPE_CHECKING:
    from kura_cache_adapters._observe.events import Event


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cached model has done so far, in texts unless said otherwise.

    `hits` were found in the cache; `misses` were answered by the model; `duplicates` were answered
    by the same text elsewhere in the call, or by another call's embedding of it; `stored` were
    saved. `load_failures` and `save_failures` count batches that the cache could not read or
    write, `invalid_entries` what was in the cache and not fit to use. `adopted` texts were found in the
    `fallback`, and the model was not asked for them.
    """

    hits: int = 0
    misses: int = 0
    duplicates: int = 0
    stored: int = 0
    load_failures: int = 0
    save_failures: int = 0
    invalid_entries: int = 0
    adopted: int = 0


class Counters:
    """An observer that adds events up."""

    def __init__(self) -> None:
        """Start at zero."""
        self._lock = ForkLock()
        self._counts = asdict(CacheStats())

    def __call__(self, event: Event) -> None:
        """Count an event."""
        counts = self._counts
        with self._lock:
            if isinstance(event, LookedUp):
                counts["hits"] += event.hits
                if event.repeated or event.invalid:
                    counts["duplicates"] += event.repeated
                    counts["invalid_entries"] += event.invalid
            elif isinstance(event, Embedded):
                counts["misses"] += event.texts
                counts["duplicates"] += event.shared
                counts["adopted"] += event.adopted
            elif isinstance(event, Stored):
                counts["stored"] += event.entries
            elif event.action != "embed":
                counts["load_failures" if event.action == "read" else "save_failures"] += 1

    @property
    def stats(self) -> CacheStats:
        """What has been counted so far."""
        return CacheStats(**self._counts)
