"""Warnings that do not repeat themselves."""

from __future__ import annotations

import logging

from kura_cache_adapters.errors import KuraCacheError


class OnceLog:
    """Report trouble: a warning the first time, a debug line after that, until it is over."""

    def __init__(self, logger: logging.Logger) -> None:
        """Report to a logger."""
        self._logger = logger
        self._known: set[str] = set()

    def report(self, kind: str, message: str, *args: object) -> None:
        """Log a message about a kind of trouble."""
        level = logging.DEBUG if kind in self._known else logging.WARNING
        self._known.add(kind)
        self._logger.log(level, message, *args)

    def over(self, kind: str) -> None:
        """Note that it works again: the next failure is news."""
        self._known.discard(kind)


def describe(error: BaseException) -> str:
    """Say what went wrong, without what was read or embedded: a foreign message may quote it."""
    name = type(error).__name__
    if isinstance(error, KuraCacheError):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}: {error.filename!r}"
    return name
