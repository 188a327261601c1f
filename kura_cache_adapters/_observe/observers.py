"""The seam: each event of a cached model goes through here to all who observe it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kura_cache_adapters._observe.counters import Counters
from kura_cache_adapters._observe.log import Log, OnceLog, describe
from kura_cache_adapters._observe.progress import Progress
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import pass_on_signals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kura_cache_adapters._observe.counters import CacheStats
    from kura_cache_adapters._observe.events import Event, Observer

_logger = logger_of("observers")


class Observers:
    """The counters and the log of a cached model, and whoever else observes it."""

    def __init__(self, others: Iterable[Observer] = (), *, progress: bool = False) -> None:
        """Take further observers; `progress` adds the bar."""
        self._counters, self._log = Counters(), Log()
        self._others: tuple[Observer, ...] = (*others, *[Progress()] * progress)
        self._broken = OnceLog(_logger)

    def __call__(self, event: Event) -> None:
        """Tell all; an observer that fails is reported once and costs nothing else."""
        self._counters(event)
        self._log(event)
        for observer in self._others:
            try:
                observer(event)
            except Exception as error:  # noqa: BLE001 - an observer's own trouble is not the caller's
                pass_on_signals(error)
                self._broken.report(repr(observer), "The observer %r failed: %s", observer, describe(error))

    def stats_over(self, store: object) -> CacheStats:
        """Return what has been counted so far, with what the store tells of its tiers."""
        return self._counters.stats_over(store)
