"""Counts what went between a store and its mirror in this process, and tells when that begins to fail."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal
from weakref import WeakSet

from kura_cache_adapters._observe.events import Guarded
from kura_cache_adapters._observe.tiers import MirrorStats, TierStats
from kura_cache_adapters._runtime.fork import ForkLock

if TYPE_CHECKING:
    from kura_cache_adapters._observe.events import Observer
    from kura_cache_adapters.receipts import SpaceSync


class Counts:
    """The counters of one store, over all its spaces."""

    def __init__(self, name: str) -> None:
        """Start at zero; `name` is the store's."""
        self.stats: MirrorStats = MirrorStats()
        self.watchers: WeakSet[Observer] = WeakSet()
        self._name = name
        self._lock = ForkLock()

    def tier(self) -> TierStats:
        """Return what has been counted so far as that of a tier."""
        return TierStats(self._name, mirror=self.stats)

    def add(self, moved: SpaceSync, action: Literal["read", "write"]) -> None:
        """Add what one sync has moved."""
        with self._lock:
            old = self.stats
            self.stats = MirrorStats(
                old.pushed + moved.pushed,
                old.pulled + moved.pulled,
                old.pushed_bytes + moved.pushed_bytes,
                old.pulled_bytes + moved.pulled_bytes,
                old.refused + len(moved.refused),
                old.errors,
            )
        if old.error:
            self._tell(Guarded(action, "closed", "", self.tier()))

    def failed(self, action: Literal["read", "write"], why: str) -> None:
        """Count a failure."""
        with self._lock:
            old = self.stats
            self.stats = replace(old, errors=old.errors + 1, error=why)
        if not old.error:
            self._tell(Guarded(action, "open", why, self.tier()))

    def __reduce__(self) -> tuple[type[Counts], tuple[str]]:
        """Pickle as counters at zero: another process has moved nothing yet."""
        return type(self), (self._name,)

    def _tell(self, event: Guarded) -> None:
        for observer in list(self.watchers):
            observer(event)
