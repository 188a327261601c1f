"""Tokens on their way from a source, which hears of them, to the call that they are billed for."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Bill:
    """What one call of a source has been billed so far."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._tokens: int | None = None

    def add(self, tokens: int) -> None:
        """Add tokens."""
        self._tokens = (self._tokens or 0) + tokens

    def take(self) -> int | None:
        """Return what has been added since it was taken last; None if nothing was."""
        taken, self._tokens = self._tokens, None
        return taken


_bill: ContextVar[Bill | None] = ContextVar("kura_cache_bill", default=None)


@contextmanager
def bill() -> Iterator[Bill]:
    """Give the bill of what the current context asks for meanwhile."""
    opened = Bill()
    token = _bill.set(opened)
    try:
        yield opened
    finally:
        with suppress(ValueError):  # a task that nobody finished is collected in another context
            _bill.reset(token)


def note_billed(tokens: int) -> None:
    """Put tokens on the bill of the call that is being answered; none counts as not told."""
    opened = _bill.get()
    if opened is not None and tokens:
        opened.add(tokens)
