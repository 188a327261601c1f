"""Tasks that outlive a cancelled caller for as long as a thread works for them."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import TYPE_CHECKING, Any, TypeVar

from kura_cache_adapters._runtime.fork import forget_in_child

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

_T = TypeVar("_T")
_LAST_WAIT = 2.0  # seconds that an ending process waits for models whose callers have left
_alive: set[asyncio.Task[Any]] = set()
_detached: contextvars.ContextVar[Detached | None] = contextvars.ContextVar(
    "kura_cache_detached", default=None
)


class Detached:
    """A task that is cancelled only while no thread works for it.

    A thread's work cannot be cancelled: its answer is waited for, and may be stored.
    """

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self.leaving = False
        self._busy = self._cancelled = False
        token = _detached.set(self)
        self.task = asyncio.ensure_future(work)
        _detached.reset(token)
        _alive.add(self.task)
        self.task.add_done_callback(_alive.discard)

    def leave(self) -> None:
        """Cancel the task once, as soon as no thread works for it."""
        self.leaving = True
        self.task.add_done_callback(_ignore_outcome)
        self._cancel()

    def _cancel(self) -> None:
        if not self._busy and not self._cancelled:
            self._cancelled = True
            self.task.cancel()

    async def wait(self, answer: Awaitable[_T]) -> _T:
        """Wait for a thread, or for the caller's own task, which is cancelled by itself."""
        self._busy = True
        try:
            return await answer
        finally:
            self._busy = False
            if self.leaving:
                asyncio.get_running_loop().call_soon(self._cancel)


def _ignore_outcome(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # nobody is there to hear of it


def own_detached() -> Detached | None:
    """Return the detached task that the current task is, not one that it was started by."""
    own = _detached.get()
    return own if own is not None and own.task is asyncio.current_task() else None


async def detached(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end, or until the caller is cancelled and no thread works for it.

    The cancelled caller does not wait for that.
    """
    running = Detached(work)
    try:
        await asyncio.wait([running.task])
    except asyncio.CancelledError:
        running.leave()
        raise
    answer: _T = running.task.result()
    return answer


def stop_if_left() -> None:
    """Raise CancelledError in a detached task whose caller has left: nothing more is to be asked for."""
    if (own := own_detached()) is not None and own.leaving:
        raise asyncio.CancelledError


def settle() -> None:
    """Wait a moment, as the process ends, for what has been paid for and is not stored yet."""
    end = time.monotonic() + _LAST_WAIT
    while _alive and time.monotonic() < end:
        time.sleep(0.01)


forget_in_child(_alive.clear)
