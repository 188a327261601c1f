"""Exceptions of the program's own signal handlers: they come out of whatever ran, and must pass.

A time limit (Celery's, pytest-timeout's, one's own for SIGALRM) is raised inside whatever function happens to
run: who catches what a store, a file or an observer may raise lets these pass.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, TracebackType


def pass_on_signals(error: BaseException) -> None:
    """Raise what a signal handler has raised, if that is what an exception is, or came of."""
    codes = _codes_of_handlers()
    for each in _chain(error) if codes else ():
        if any(code in codes for code in _codes(each.__traceback__)):
            raise each


class suppressed(suppress):  # noqa: N801 - as the one that it stands in for
    """Suppress exceptions, but none of a signal handler."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Tell whether the exception ends here."""
        if not super().__exit__(kind, error, traceback) or error is None:
            return False
        pass_on_signals(error)
        return True


def _codes_of_handlers() -> set[CodeType]:
    handlers = [_function_of(signal.getsignal(number)) for number in signal.valid_signals()]
    return {code for handler in handlers if (code := getattr(handler, "__code__", None)) is not None}


def _function_of(handler: object) -> object:
    while isinstance(handler, partial):
        handler = handler.func
    if not hasattr(handler, "__code__") and not hasattr(handler, "__func__"):
        handler = getattr(type(handler), "__call__", None)  # noqa: B004 - the function is wanted
    return getattr(handler, "__func__", handler)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__  # not its context: that may be what the caller is handling


def _codes(traceback: TracebackType | None) -> Iterator[CodeType]:
    while traceback is not None:
        yield traceback.tb_frame.f_code
        traceback = traceback.tb_next
