"""A loop in the caller's own thread, for a process that can start no other one."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from kura_cache_adapters._runtime.fork import forget_in_child

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

_T = TypeVar("_T")


class _Loop:
    """A loop that is closed with its last use."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def __del__(self) -> None:
        if not self.loop.is_running():
            self.loop.close()


class _OfThread(threading.local):
    """The loop of each thread: it stays, for clients are bound to the loop that they first ran on."""

    def __init__(self) -> None:
        self.kept = _Loop()


_of_thread = _OfThread()
_of_parents: list[_OfThread] = []  # not closed here: what their loops wait for is the parent's, too


def _forget_loops() -> None:
    global _of_thread  # noqa: PLW0603 - a fork copies the loop of its thread
    _of_parents.append(_of_thread)
    _of_thread = _OfThread()


forget_in_child(_forget_loops)


def run_here(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in this thread, whether a loop runs in it or not."""
    kept = _of_thread.kept
    if kept.loop.is_running():  # asked by what runs on it
        kept = _Loop()
    with _no_loop_around():
        try:
            return kept.loop.run_until_complete(work)
        except BaseException:
            _end_tasks(kept.loop)
            raise


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what Ctrl-C has left behind, and wait for it."""
    if tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))


@contextmanager
def _no_loop_around() -> Iterator[None]:
    """Let a loop run inside another one's callback: that one stands still meanwhile."""
    around = asyncio._get_running_loop()  # noqa: SLF001 - asyncio exports them, for other loops and tasks
    task = None if around is None else asyncio.current_task(around)
    if around is None:
        yield
        return
    if task is not None:
        asyncio.tasks._leave_task(around, task)  # noqa: SLF001
    asyncio._set_running_loop(None)  # noqa: SLF001
    try:
        yield
    finally:
        asyncio._set_running_loop(around)  # noqa: SLF001
        if task is not None:
            asyncio.tasks._enter_task(around, task)  # noqa: SLF001
