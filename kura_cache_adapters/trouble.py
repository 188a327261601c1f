"""Warnings that do not repeat themselves."""

from __future__ import annotations

import logging


class Trouble:
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
