"""One event loop per process, and the ways there and into threads.

Clients of async SDKs are bound to the loop that they first ran on. Sync callers, and sources that
say so, use this one, whichever loop or thread calls, so that one client serves them all.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from kura_cache_adapters._runtime.detached import own_detached, settle, stop_if_left
from kura_cache_adapters._runtime.ending import at_end
from kura_cache_adapters._runtime.fork import ForkLock, forget_in_child
from kura_cache_adapters._runtime.greenlets import patched
from kura_cache_adapters._runtime.here import run_here
from kura_cache_adapters._runtime.home import Home, leave_home
from kura_cache_adapters._runtime.signals import refuse_to_wait
from kura_cache_adapters._runtime.threads import submit_to_model, submit_to_store, warn_of_no_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_P = ParamSpec("_P")
_T = TypeVar("_T")
_NO_LOOP = (
    "the cache was awaited without a running asyncio loop: its async methods are asyncio's. Under trio, "
    "call the sync ones: await trio.to_thread.run_sync(cached.embed_sync, texts)"
)
_depth: contextvars.ContextVar[int] = contextvars.ContextVar("kura_cache_depth", default=0)
_loop: asyncio.AbstractEventLoop | None = None
_starting = ForkLock()


def _forget_loop() -> None:
    global _loop  # noqa: PLW0603 - a fork leaves its thread behind
    _loop = None


forget_in_child(_forget_loop)


def _started() -> asyncio.AbstractEventLoop | None:
    loop = asyncio.new_event_loop()
    try:
        threading.Thread(target=_serve, args=(loop,), name="kura-cache-loop", daemon=True).start()
    except RuntimeError as error:
        loop.close()
        warn_of_no_thread(error)
        return None
    at_end(settle)
    return loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
        except (KeyboardInterrupt, SystemExit):
            # A model raised it in a task: asyncio stops the loop before the task's waiter
            # has heard of it. Serve on, so that the exception reaches the caller.
            continue


def _background_loop() -> asyncio.AbstractEventLoop | None:
    """Return the one loop; None where no thread can be started for it, now."""
    global _loop  # noqa: PLW0603 - started lazily: importing must start no thread
    loop = _loop
    if loop is None:
        with _starting:
            loop = _loop = _loop or _started()
    return loop


def _refuse_greenlets() -> None:
    if message := patched():
        raise RuntimeError(message)


def _loop_for(work: Coroutine[Any, Any, Any]) -> asyncio.AbstractEventLoop | None:
    try:
        _refuse_greenlets()
        return _background_loop()
    except RuntimeError:
        work.close()
        raise


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def on_a_loop() -> bool:
    """Tell whether this is asyncio's loop, in a process whose threads are real."""
    return _running_loop() is not None and not patched()


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on the background loop from sync code; a running loop may be around.

    Raises ReentryError in a signal handler that has interrupted this package at work.
    """
    try:
        refuse_to_wait()
    except BaseException:
        work.close()
        raise
    loop, context = _loop_for(work), contextvars.copy_context()
    context.run(leave_home)
    if loop is None:
        return context.run(run_here, work)
    if _running_loop() is loop:
        work.close()
        message = (
            "a sync embedding method was called on the cache's own event loop, which would wait "
            "for itself; await the async method, or call it from a worker thread."
        )
        raise RuntimeError(message)
    future = context.run(asyncio.run_coroutine_threadsafe, work, loop)
    try:
        return outcome(future)
    except BaseException:  # Ctrl-C above all: the work is told, and it goes on its way
        future.cancel()
        raise


def outcome(future: Future[_T]) -> _T:
    """Wait for a future; return or raise what comes of it."""
    done: SimpleQueue[object] = SimpleQueue()
    future.add_done_callback(done.put)
    done.get()  # where Ctrl-C does no harm: in the midst of a future's own waiting, two of them do
    return future.result()


def begin(call: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
    """Begin a sync call that may wait for a model, in a thread; without threads it is over at once.

    Raises ReentryError as `run` does.
    """
    refuse_to_wait()
    context, depth = contextvars.copy_context(), _depth.get()
    context.run(leave_home)
    if patched():
        return _over(partial(context.run, call, *args, **kwargs))
    context.run(_depth.set, depth + 1)
    return submit_to_model(partial(context.run, _no_stop, call, *args, **kwargs), depth)


def _over(call: Callable[[], _T]) -> Future[_T]:
    future: Future[_T] = Future()
    future.set_result(call())
    return future


async def hop(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on the background loop from any loop; cancellation travels with it.

    What it wants done at home is done in this task meanwhile.
    """
    loop, own = _loop_for(work), asyncio.get_running_loop()
    if own is loop:
        return await work
    home, context = Home(), contextvars.copy_context()
    context.run(home.settle_in)
    return await home.serve(context.run(asyncio.run_coroutine_threadsafe, work, loop or own))


async def in_thread(
    pool: Literal["model", "store"],
    function: Callable[_P, _T],
    /,
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> _T:
    """Run a blocking function in a thread of this package, with the caller's context variables."""
    _refuse_greenlets()
    if _running_loop() is None:
        raise RuntimeError(_NO_LOOP)
    context, depth = contextvars.copy_context(), _depth.get()
    call = partial(context.run, _no_stop, function, *args, **kwargs)
    if pool == "model":
        stop_if_left()
        context.run(_depth.set, depth + 1)
        context.run(leave_home)
        future = submit_to_model(call, depth)
    else:
        future = submit_to_store(call)
    answer, own = asyncio.wrap_future(future), own_detached()
    return await (answer if own is None else own.wait(answer))


def _no_stop(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        # A future cannot carry it: its waiter would wait for ever.
        message = f"{getattr(function, '__qualname__', type(function).__name__)} raised StopIteration"
        raise RuntimeError(message) from error
