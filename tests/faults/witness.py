"""Witness: sees what a user may see of a cache at work."""

from __future__ import annotations

import logging
import traceback
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Witness:
    """Collects all that a user may see: log lines, warnings, exceptions, reprs, output, file names."""

    def __init__(self, caplog: Any, capfd: Any) -> None:
        self._caplog, self._capfd = caplog, capfd
        self.seen: list[str] = []

    @contextmanager
    def watching(self, *things: object) -> Iterator[None]:
        """Collect what is said meanwhile; an exception is kept, not raised."""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                yield
            except Exception as error:  # noqa: BLE001 - of whichever kind: it is read below
                self.seen += [*traceback.format_exception(error), repr(error), *map(repr, error.args)]
        self.seen += [str(warning.message) for warning in warned]
        self.seen += [f"{thing!r} {thing!s}" for thing in things]

    def said(self) -> str:
        formatter = logging.Formatter()
        lines = [formatter.format(record) for record in self.records if record.levelno >= logging.INFO]
        return "\n".join([*self.seen, *lines, *self._capfd.readouterr()])

    @property
    def records(self) -> list[logging.LogRecord]:
        """All that was logged, at any level."""
        records: list[logging.LogRecord] = self._caplog.records
        return records
