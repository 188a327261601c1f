"""Exceptions of the program's own signal handlers: they come out of whatever ran, and must pass.

A time limit (Celery's, pytest-timeout's, one's own for SIGALRM) is raised inside whatever function happens to
run: who catches what a store, a file or an observer may raise lets these pass.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from inspect import CO_VARARGS
from itertools import pairwise
from typing import TYPE_CHECKING

from kura_cache_adapters.errors import ReentryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType


_PACKAGE = "kura_cache_adapters."


def pass_on_signals(error: BaseException) -> None:
    """Raise what a signal handler has raised, or was refused, if that is what an exception is or came of."""
    if isinstance(error, ReentryError):
        raise error  # as a miss it would wait for a write that waits for the interrupted thread's lock
    cause: BaseException | None = error  # not its context: that may be what the caller is dealing with
    while cause is not None:
        if any(map(_is_handler, _frames(cause.__traceback__))):
            raise cause
        cause = cause.__cause__


def refuse_to_wait() -> None:
    """Raise ReentryError in a signal handler that has interrupted this package at work.

    What it would wait for may wait for the lock that the interrupted thread holds: ours, or a library's.
    """
    if threading.get_ident() != threading.main_thread().ident:  # handlers run in that one alone
        return
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - there is no other way to look down
    handled = False
    while frame is not None:
        ours = frame.f_globals.get("__name__", "").startswith(_PACKAGE)
        if ours and handled:
            message = (
                "A signal handler would wait for what waits for the use of the cache that it interrupted"
            )
            raise ReentryError(message)
        handled = handled or (not ours and _is_handler(frame))
        frame = frame.f_back


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


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _is_handler(frame: FrameType) -> bool:
    """Tell a signal handler by its arguments: a number, and the very frame that it was called from.

    `signal.getsignal` would not know those that put the former handler back before they raise.
    """
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount]
    given = [frame.f_locals.get(name) for name in names]
    if code.co_flags & CO_VARARGS:
        given += frame.f_locals.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
    return any(isinstance(a, int) and b is not None and b is frame.f_back for a, b in pairwise(given))
