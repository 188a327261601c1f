"""What a fork does to this package: the child's locks are free, and what its parent ran is forgotten."""

from __future__ import annotations

import os
import sys
from _thread import RLock
from collections import deque
from itertools import dropwhile, repeat, starmap
from operator import methodcaller
from typing import TYPE_CHECKING, ClassVar, TypeVar
from weakref import WeakSet

from kura_cache_adapters._runtime.members import members
from kura_cache_adapters.errors import ReentryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_T = TypeVar("_T")
_at_once = methodcaller("acquire", blocking=False)
_known: WeakSet[ForkLock] = WeakSet()
_taken: list[ForkLock] = []
_forgetting: list[Callable[[], object]] = []


class ForkLock(RLock):  # type: ignore[misc]  # final in the stubs alone
    """A lock that no fork leaves held in the child: a fork waits for it and both sides free it.

    The thread that holds it may take it again, and may fork: its child has it free. It is C's own, for
    `with` to call: between a Python function's taking of a lock and its return there is a place where
    Ctrl-C would leave it taken.
    """

    waited_for: ClassVar[bool] = True

    def __init__(self) -> None:
        """Make a free lock."""
        _known.add(self)

    def refuse_reentry(self) -> None:
        """Raise ReentryError in a signal handler that has interrupted this thread under the lock.

        What it guards is half changed then, and the handler's call came through the same module.
        """
        if self._is_owned() and _came_before(sys._getframe(1)):  # type: ignore[attr-defined] # noqa: SLF001
            message = "A signal handler uses the cache in the middle of the use that it interrupted"
            raise ReentryError(message)

    def __reduce__(self) -> tuple[type[ForkLock], tuple[()]]:
        """Pickle as a new, free lock."""
        return type(self), ()


class ModelLock(ForkLock):  # type: ignore[misc]  # as above
    """A lock that is held for as long as a model computes: no fork waits, and the child's is free."""

    waited_for = False


def _came_before(frame: FrameType | None) -> bool:
    """Tell whether a frame's module is at work further down this thread, beneath frames of others."""
    here = "" if frame is None else frame.f_code.co_filename
    files = [each.f_code.co_filename for each in _below(frame)]
    return here in dropwhile(here.__eq__, files)


def _below(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def if_free(lock: ForkLock, call: Callable[[], _T]) -> _T | None:
    """Call under a lock; None, at once, where another thread holds it."""
    held: list[ForkLock] = []
    try:
        held += filter(_at_once, (lock,))  # in C: Ctrl-C does not come between taking it and knowing that
        return call() if held else None
    finally:
        for each in held:
            each.release()


def forget_in_child(forget: Callable[[], object]) -> None:
    """Have a function called in each forked child: it forgets what only the parent has threads for."""
    _forgetting.append(forget)


# Each of these takes, or frees, in one call of C's: Ctrl-C may end the waiting, and the fork goes on, but
# what was taken is known to be, and is freed.


def _take() -> None:
    _taken.extend(filter(RLock.acquire, [lock for lock in members(_known) if lock.waited_for]))


def _free() -> None:
    deque(map(RLock.release, starmap(_taken.pop, repeat((), len(_taken)))), maxlen=0)


def _start_anew() -> None:
    _taken.clear()
    for lock in members(_known):
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001 - as threading's own locks
    for forget in _forgetting:
        forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take)
    for _ in range(2):  # Ctrl-C that came during the fork ends the first function that is called after it
        os.register_at_fork(after_in_parent=_free, after_in_child=_start_anew)
