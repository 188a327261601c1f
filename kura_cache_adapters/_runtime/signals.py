"""Which exceptions a signal handler raised: they are the program's, whatever was at work when they came."""

from __future__ import annotations

from inspect import CO_VARARGS
from itertools import pairwise
from typing import TYPE_CHECKING

from kura_cache_adapters._runtime.fork import ReentryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType


def let_through(error: BaseException) -> None:
    """Raise what a signal handler raised or was refused, if it is the error or its cause; else return."""
    if isinstance(error, ReentryError):
        raise error  # as a miss it would wait for a write that waits for the interrupted thread's lock
    cause: BaseException | None = error
    while cause is not None:
        if any(map(_is_handler, _frames(cause.__traceback__))):
            raise cause
        cause = cause.__cause__


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
