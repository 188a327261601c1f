"""Warnings that do not repeat themselves, and the log of a cached model."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kura_cache_adapters._observe.events import Failed, LookedUp, Stored
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters.errors import KuraCacheError

if TYPE_CHECKING:
    from kura_cache_adapters._observe.events import Event

_cache = logger_of("cache")
_store = logger_of("store")


class OnceLog:
    """Report trouble: a warning the first time, a debug line after that, until it is over."""

    def __init__(self, logger: logging.Logger) -> None:
        """Report to a logger."""
        self._logger = logger
        self.known: set[str] = set()

    def report(self, kind: str, message: str, *args: object) -> None:
        """Log a message about a kind of trouble."""
        level = logging.DEBUG if kind in self.known else logging.WARNING
        self.known.add(kind)
        self._logger.log(level, message, *args)

    def over(self, kind: str) -> None:
        """Note that it works again: the next failure is news."""
        self.known.discard(kind)


class Log:
    """An observer that logs what was found, and once what a store could not do, until it can again."""

    def __init__(self) -> None:
        """Start with no trouble known."""
        self._once = OnceLog(_store)

    def __call__(self, event: Event) -> None:
        """Log an event, if it is worth a line."""
        if isinstance(event, LookedUp):
            if self._once.known and event.readable:
                self._once.over("read")
            if _cache.isEnabledFor(logging.INFO):
                _cache.info("Found %d cached embeddings, %d need embedding", event.hits, event.missing)
        elif isinstance(event, Stored) and event.entries:
            self._once.over("write")
        elif isinstance(event, Failed) and event.action != "embed":
            message = "Could not %s the cache %s: %s; going on without"
            self._once.report(event.action, message, event.action, event.cache, event.reason)
            _store.debug("That was because of this", exc_info=event.error)


def describe(error: BaseException) -> str:
    """Say what went wrong, without what was read or embedded: a foreign message may quote it."""
    name = type(error).__name__
    if isinstance(error, KuraCacheError):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}: {error.filename!r}"
    system = error.__context__  # its words, or those of TLS: a client says only that it could not connect
    return f"{name}: {system.strerror}" if isinstance(system, OSError) and system.strerror else name
