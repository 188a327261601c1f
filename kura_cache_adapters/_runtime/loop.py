"""One event loop and a few thread pools per process, on which sources and stores run.

Clients of async SDKs are bound to the loop that they first ran on. Here every async source runs
on the same one, whichever loop or thread calls, so that one client serves them all.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from kura_cache_adapters._runtime.detached import own_detached, settle, stop_if_left
from kura_cache_adapters._runtime.fork import ForkLock, forget_in_child
from kura_cache_adapters._runtime.greenlets import patched
from kura_cache_adapters._runtime.home import Home, leave_home

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_P = ParamSpec("_P")
_T = TypeVar("_T")
_CORES = os.cpu_count() or 1
_WORKERS = min(32, _CORES + 4)
_MODELS = 128  # calls of models at once, at each depth of calls inside calls
_NO_LOOP = (
    "the cache was awaited without a running asyncio loop: its async methods are asyncio's. Under trio, "
    "call the sync ones: await trio.to_thread.run_sync(cached.embed_sync, texts)"
)
_depth: contextvars.ContextVar[int] = contextvars.ContextVar("kura_cache_depth", default=0)


def _pool(name: str, workers: int = _WORKERS) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix=f"kura-cache-{name}")


class _ModelThreads:
    """Threads that end with the process: after Ctrl-C nobody waits ten minutes for a model's call.

    (The interpreter joins the threads of a ThreadPoolExecutor, which suits stores.)
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        future: Future[_T] = Future()
        if self._count >= _MODELS or self._idle.acquire(blocking=False):
            self._calls.put((future, call))
            return future
        thread = threading.Thread(target=self._serve, args=(future, call), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread can be started: one that is there does it, when it can
            if not self._count:
                raise
            self._calls.put((future, call))
            return future
        self._count += 1
        return future

    def _serve(self, future: Future[Any], call: Callable[[], Any]) -> None:
        while True:
            _fulfil(future, call)
            del future, call  # what it returned belongs to its caller, while this thread waits
            try:
                future, call = self._calls.get_nowait()
            except Empty:
                self._idle.release()
                future, call = self._calls.get()


@dataclass(slots=True)
class _Runtime:
    """The loop with its thread, and a pool for each kind of blocking work.

    Slow models must not starve look-ups, and look-ups wait for slices: so each has its own. A model
    may call another one and wait for it: so each depth of such calls has its own, too.
    """

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    models: dict[int, _ModelThreads] = field(default_factory=dict)
    store: ThreadPoolExecutor = field(default_factory=partial(_pool, "store"))
    slices: ThreadPoolExecutor = field(default_factory=partial(_pool, "slices", _CORES))

    def __post_init__(self) -> None:
        threading.Thread(target=self._serve, name="kura-cache-loop", daemon=True).start()
        atexit.register(settle)

    def model(self, depth: int) -> _ModelThreads:
        """Return the threads for models that are called from so many models."""
        if depth not in self.models:
            self.models.setdefault(depth, _ModelThreads(f"kura-cache-model-{depth}"))
        return self.models[depth]

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
            except (KeyboardInterrupt, SystemExit):
                # A model raised it in a task: asyncio stops the loop before the task's waiter
                # has heard of it. Serve on, so that the exception reaches the caller.
                continue


_runtime: _Runtime | None = None
_starting = ForkLock()


def _forget_threads() -> None:
    global _runtime  # noqa: PLW0603 - a fork leaves all threads behind
    _runtime = None


forget_in_child(_forget_threads)


def _current() -> _Runtime:
    global _runtime  # noqa: PLW0603 - started lazily: importing must start no thread
    if message := patched():
        raise RuntimeError(message)
    runtime = _runtime
    if runtime is None:
        with _starting:
            runtime = _runtime = _runtime or _Runtime()
    return runtime


def _loop_for(work: Coroutine[Any, Any, Any]) -> asyncio.AbstractEventLoop:
    try:
        return _current().loop
    except RuntimeError:
        work.close()
        raise


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on the background loop from sync code; a running loop may be around."""
    loop = _loop_for(work)
    if _running_loop() is loop:
        work.close()
        message = (
            "a sync embedding method was called on the cache's own event loop, which would wait "
            "for itself; await the async method, or call it from a worker thread."
        )
        raise RuntimeError(message)
    context = contextvars.copy_context()
    context.run(leave_home)
    future = context.run(asyncio.run_coroutine_threadsafe, work, loop)
    done: SimpleQueue[object] = SimpleQueue()
    future.add_done_callback(done.put)
    try:
        done.get()  # where Ctrl-C does no harm: in the midst of a future's own waiting, two of them do
        return future.result()
    except BaseException:  # Ctrl-C above all: the work is told, and it goes on its way
        future.cancel()
        raise


async def hop(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on the background loop from any loop; cancellation travels with it.

    What it wants done at home is done in this task meanwhile.
    """
    loop = _loop_for(work)
    if _running_loop() is loop:
        return await work
    home, context = Home(), contextvars.copy_context()
    context.run(home.settle_in)
    return await home.serve(context.run(asyncio.run_coroutine_threadsafe, work, loop))


async def in_thread(
    pool: Literal["model", "store"],
    function: Callable[_P, _T],
    /,
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> _T:
    """Run a blocking function in a pool of this package, with the caller's context variables."""
    runtime = _current()
    if _running_loop() is None:
        raise RuntimeError(_NO_LOOP)
    context, depth = contextvars.copy_context(), _depth.get()
    workers: ThreadPoolExecutor | _ModelThreads = runtime.store
    if pool == "model":
        stop_if_left()
        context.run(_depth.set, depth + 1)
        context.run(leave_home)
        workers = runtime.model(depth)
    call = partial(context.run, _no_stop, function, *args, **kwargs)
    answer, own = asyncio.wrap_future(_submit(workers, call)), own_detached()
    return await (answer if own is None else own.wait(answer))


def in_slices(function: Callable[[slice], None], count: int, *, least: int) -> None:
    """Call a function with slices of `range(count)` on all cores at once, `least` in each.

    It must be one that releases the GIL, and must itself wait for nothing.
    """
    parts = 1 if patched() else max(1, min(_CORES, count // least))
    ends = [count * part // parts for part in range(parts + 1)]
    mine, *others = (slice(*ends[part : part + 2]) for part in range(parts))
    running = [_submit(_current().slices, partial(function, other)) for other in others]
    try:
        function(mine)
    finally:
        wait(running)
    for other in running:
        other.result()


def _submit(pool: ThreadPoolExecutor | _ModelThreads, call: Callable[[], _T]) -> Future[_T]:
    """Submit a call; once the interpreter shuts down, pools take none, and it runs here."""
    try:
        return pool.submit(call)
    except RuntimeError:
        future: Future[_T] = Future()
        _fulfil(future, call)
        return future


def _fulfil(future: Future[_T], call: Callable[[], _T]) -> None:
    """Call, unless nobody wants it any more; the future carries the answer to its waiter."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        answer = call()
    except BaseException as error:  # noqa: BLE001 - and the failure, as a pool's would
        future.set_exception(error)
    else:
        future.set_result(answer)


def _no_stop(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        # A future cannot carry it: its waiter would wait for ever.
        message = f"{getattr(function, '__qualname__', type(function).__name__)} raised StopIteration"
        raise RuntimeError(message) from error
