"""A few threads per process: a pool for each kind of blocking work."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from kura_cache_adapters._runtime.fork import forget_in_child
from kura_cache_adapters._runtime.greenlets import patched

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    _Calls: TypeAlias = SimpleQueue[tuple[Future[Any], Callable[[], Any]]]

_T = TypeVar("_T")
_logger = logging.getLogger("kura_cache_adapters.cache")
_warned = False
_CORES = os.cpu_count() or 1
_WORKERS = min(32, _CORES + 4)
_TRANSFERS = 8  # at once, of files and entries: they wait for a server
_MODELS = 128  # calls of models at once, at each depth of calls inside calls

LONGEST = 1e9
"""Seconds, some 30 years: threads, sockets and servers are asked to wait for less."""


class DaemonThreads:
    """Threads that end with the process: after Ctrl-C nobody waits ten minutes for a model's call.

    (The interpreter joins the threads of a ThreadPoolExecutor, which suits stores.)
    """

    def __init__(self, name: str, most: int = _MODELS, *, idle: float | None = None) -> None:
        """Name them, say how many there may be, and for how many seconds one waits; None is for ever."""
        self._name, self._most, self._seconds = name, most, idle
        self._calls: _Calls = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._alive: set[object] = set()

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Call in one of them, or in the next that is free; the future has the answer."""
        future: Future[_T] = Future()
        self._calls.put((future, call))
        if not self._idle.acquire(blocking=False) and len(self._alive) < self._most:
            self._start()
        return future

    def _start(self) -> None:
        me = object()
        self._alive.add(me)
        try:
            threading.Thread(target=self._serve, args=(me,), name=self._name, daemon=True).start()
        except RuntimeError as error:  # one that is there does it when it can, or this one does it now
            self._alive.discard(me)
            warn_of_no_thread(error)
            if not self._alive:
                _fulfil_one(self._calls)

    def _serve(self, me: object) -> None:
        while (waiting := self._next()) is not None:
            _fulfil(*waiting)
            del waiting  # what it returned belongs to its caller, while this thread waits
        self._alive.discard(me)
        if not self._calls.empty():  # who has brought it saw this thread alive
            self._start()

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Wait for a call; None where none has come in time."""
        with suppress(Empty):
            return self._calls.get_nowait()
        self._idle.release()
        while True:
            with suppress(Empty):
                return self._calls.get(timeout=self._seconds)
            if self._idle.acquire(blocking=False):  # else one is on its way
                return None


class _Threads:
    """Threads that a process that ends waits for; a call for which none can be had is done by its caller."""

    def __init__(self, name: str, workers: int = _WORKERS) -> None:
        self._calls: _Calls = SimpleQueue()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"kura-cache-{name}")

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        future: Future[_T] = Future()
        self._calls.put((future, call))
        try:
            self._pool.submit(_fulfil_one, self._calls)
        except RuntimeError as error:  # the pool may have taken it all the same: it is done once
            warn_of_no_thread(error)
            _fulfil_one(self._calls)
        return future


@dataclass(slots=True)
class _Pools:
    """A pool for each kind of blocking work; none has a thread before its first call.

    Slow models must not starve look-ups, and look-ups wait for slices: so each has its own. A model
    may call another one and wait for it: so each depth of such calls has its own, too.
    """

    models: dict[int, DaemonThreads] = field(default_factory=dict)
    store: _Threads = field(default_factory=partial(_Threads, "store"))
    slices: _Threads = field(default_factory=partial(_Threads, "slices", _CORES))
    merges: _Threads = field(default_factory=partial(_Threads, "merges", 1))
    mirrors: DaemonThreads = field(default_factory=partial(DaemonThreads, "kura-cache-mirrors", 1))
    transfers: DaemonThreads = field(
        default_factory=partial(DaemonThreads, "kura-cache-transfers", _TRANSFERS)
    )


_pools = _Pools()


def _renew_pools() -> None:
    global _pools  # noqa: PLW0603 - a fork leaves all threads behind
    _pools = _Pools()


forget_in_child(_renew_pools)


def submit_to_store(call: Callable[[], _T]) -> Future[_T]:
    """Call in a thread for stores; the future has the answer."""
    return _submit(_pools.store, call)


def submit_merge(call: Callable[[], _T]) -> Future[_T]:
    """Call in the one thread for merges, whose work a process that ends waits for."""
    return _submit(_pools.merges, call)


def submit_mirroring(call: Callable[[], _T]) -> Future[_T]:
    """Call in the one thread for mirrors; a process that ends does not wait for it."""
    return _submit(_pools.mirrors, call)


def submit_transfer(call: Callable[[], _T]) -> Future[_T]:
    """Call in a thread for what waits for a server, of which a process that ends does not wait for any."""
    return _submit(_pools.transfers, call)


def submit_to_model(call: Callable[[], _T], depth: int) -> Future[_T]:
    """Call in a thread for models that are called from so many models; the future has the answer."""
    if depth not in _pools.models:
        _pools.models.setdefault(depth, DaemonThreads(f"kura-cache-model-{depth}"))
    return _submit(_pools.models[depth], call)


def in_slices(function: Callable[[slice], None], count: int, *, least: int) -> None:
    """Call a function with slices of `range(count)` on all cores at once, `least` in each.

    It must be one that releases the GIL, and must itself wait for nothing.
    """
    parts = 1 if patched() else max(1, min(_CORES, count // least))
    ends = [count * part // parts for part in range(parts + 1)]
    mine, *others = (slice(*ends[part : part + 2]) for part in range(parts))
    running = [_submit(_pools.slices, partial(function, other)) for other in others]
    try:
        function(mine)
    finally:
        wait(running)
    for other in running:
        other.result()


def _submit(pool: _Threads | DaemonThreads, call: Callable[[], _T]) -> Future[_T]:
    return pool.submit(call)


def warn_of_no_thread(error: RuntimeError) -> None:
    """Warn once of a limit on threads; that an interpreter shuts down is nobody's trouble."""
    global _warned  # noqa: PLW0603 - once
    if not _warned and "start new thread" in str(error):
        _warned = True
        message = "%s: stores and models work in their callers' threads, and loops stand still meanwhile"
        _logger.warning(message, error)


def _fulfil_one(calls: _Calls) -> None:
    """Fulfil the call that has waited longest, if one still waits: each is fulfilled once."""
    with suppress(Empty):
        _fulfil(*calls.get_nowait())


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
