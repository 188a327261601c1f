"""Calls of a remote store that end in time and raise nothing: its deadlines, circuits and counters."""

from __future__ import annotations

from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable
from weakref import WeakSet

from kura_cache_adapters._guard.breaker import Circuit
from kura_cache_adapters._observe.events import Guarded
from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters._observe.tiers import TierStats
from kura_cache_adapters._runtime.fork import ForkLock, forget_in_child
from kura_cache_adapters._runtime.greenlets import patched
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.members import members
from kura_cache_adapters._runtime.signals import pass_on_signals, suppressed
from kura_cache_adapters._runtime.threads import DaemonThreads
from kura_cache_adapters.errors import DimensionMismatchError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from kura_cache_adapters._guard.breaker import Breaker
    from kura_cache_adapters._observe.events import Observer
    from kura_cache_adapters.protocols import EmbeddingStore

_T = TypeVar("_T")
_logger = logger_of("store")
_A_KEY = 50e-6  # seconds of a deadline
_THREADS = 16  # those that hang are among them: when all do, nothing more is asked
IDLE = 2.0  # seconds that a thread waits for its next call
_all: WeakSet[Guard] = WeakSet()


@runtime_checkable
class KeepsConnections(Protocol):
    """A store that knows whether its next call has to connect first."""

    @property
    def connected(self) -> bool:
        """Whether a connection lies idle."""
        ...

    def disconnect(self, before: float) -> object:
        """Close those that lie idle, and have not answered since a moment of `time.monotonic`."""
        ...


class Guard:
    """What calls one store, for all its spaces."""

    def __init__(
        self, store: EmbeddingStore, breaker: Breaker, *, read_timeout: float, connect_timeout: float
    ) -> None:
        """Name the store in messages; nothing is asked yet. The time-outs are in seconds."""
        self.name: str = repr(store)
        self._connections = store if isinstance(store, KeepsConnections) else None
        self.circuits: dict[str, Circuit] = {"read": Circuit(breaker), "write": Circuit(breaker)}
        self.watchers: WeakSet[Observer] = WeakSet()
        self._read_timeout, self._connect_timeout = read_timeout, connect_timeout
        self._counts: dict[str, Any] = dict.fromkeys(("hits", "misses", "errors", "timeouts", "dropped"), 0)
        self.backlog = 0  # entries that wait to be written
        self._log = OnceLog(_logger)
        self._lock = ForkLock()
        self.begin_anew()
        _all.add(self)

    def begin_anew(self) -> None:
        """Forget the threads and connections that a fork has left behind."""
        self._connected = False
        self._threads = DaemonThreads("kura-cache-remote", _THREADS, idle=IDLE)

    def within(self, seconds: float, call: Callable[[], _T]) -> _T:
        """Call in a thread that is left to itself when the time is over; raise TimeoutError then."""
        if patched():
            return call()
        done: SimpleQueue[Future[_T]] = SimpleQueue()
        future = self._threads.submit(partial(copy_context().run, call))
        future.add_done_callback(done.put)
        with suppress(Empty):  # a queue is where Ctrl-C does no harm, see `_runtime.loop.outcome`
            return done.get(timeout=seconds).result()
        future.cancel()
        message = f"no answer in {seconds:.3g} s"
        raise TimeoutError(message)

    def ask(self, action: Literal["read", "write"], call: Callable[[], _T], count: int) -> _T | None:
        """Call about so many keys; None where that fails, or nothing is asked now.

        While the circuit is open, the caller does not wait: what it would have asked is the probe.
        """
        circuit, seconds = self.circuits[action], self._seconds(count)
        if circuit.closed:
            return self._try(action, call, seconds)
        if circuit.probe(seconds) and not patched():
            self._threads.submit(partial(self._try, action, call, seconds, probe=True))
        return None

    def probe(self, action: Literal["read", "write"], call: Callable[[], _T], count: int) -> _T | None:
        """Call about so many keys and wait, whatever the circuit says; None where that fails."""
        circuit, seconds = self.circuits[action], self._read_timeout + _A_KEY * count + self._connect_timeout
        probing = not circuit.closed and circuit.probe(seconds, anyway=True)
        return self._try(action, call, seconds, probe=probing)

    def require(self, call: Callable[[], _T], count: int) -> _T:
        """Call about so many keys for someone who has to know; raise UnreachableError where that fails."""
        try:
            return self.within(self._seconds(count) + self._connect_timeout, call)
        except TimeoutError as error:
            message = f"{self.name} did not answer: {error}"
            raise UnreachableError(message) from error

    def count(self, **more: int) -> None:
        """Add to counters, by their names in `TierStats`."""
        self._lock.refuse_reentry()
        with self._lock:
            for name, number in more.items():
                self._counts[name] += number

    def stats(self) -> TierStats:
        """Return what has been counted so far."""
        seconds = sum(circuit.open_seconds for circuit in self.circuits.values())
        return TierStats(self.name, **self._counts, open_seconds=seconds, backlog=self.backlog, remote=True)

    def tell(
        self, action: Literal["read", "write"], change: Literal["open", "closed", "dropped"], reason: str
    ) -> None:
        """Tell who watches of a change."""
        _logger.info("%s: %s for %s %s", self.name, change, action, reason)
        for observer in members(self.watchers):
            observer(Guarded(action, change, reason, self.stats()))

    def _seconds(self, count: int) -> float:
        connects = self._connections is not None and not self._connections.connected
        connecting = 0.0 if self._connected and not connects else self._connect_timeout
        return self._read_timeout + _A_KEY * count + connecting

    def _try(
        self, action: Literal["read", "write"], call: Callable[[], _T], seconds: float, *, probe: bool = False
    ) -> _T | None:
        """Call within a deadline; DimensionMismatchError alone is the caller's."""
        circuit, begun = self.circuits[action], monotonic()
        try:
            answer = self.within(seconds, call)
        except DimensionMismatchError:
            circuit.worked(probe=probe)
            raise
        except Exception as error:  # noqa: BLE001 - a foreign store's any trouble: it is left alone for a while
            pass_on_signals(error)
            self._failed(action, error, monotonic() - begun, seconds)
            return None
        self._connected = True
        if self._log.known:
            self._log.over(action)
        if circuit.worked(probe=probe):
            self.tell(action, "closed", "")
        return answer

    def _failed(
        self, action: Literal["read", "write"], error: Exception, took: float, seconds: float
    ) -> None:
        self._connected = False
        late = isinstance(error, TimeoutError) or took >= seconds
        self.count(**{"timeouts" if late else "errors": 1})
        if late and self._connections is not None:  # the others may lead nowhere, too
            with suppressed(Exception):
                self._connections.disconnect(monotonic() - took)
        reason = str(error) if type(error) is TimeoutError else describe(error)
        self._log.report(action, "%s: could not %s: %s; going on without", self.name, action, reason)
        _logger.debug("That was because of this", exc_info=error)
        if self.circuits[action].failed(seconds if late else took, seconds):
            self.tell(action, "open", reason)


def _begin_anew() -> None:
    for guard in list(_all):
        guard.begin_anew()


forget_in_child(_begin_anew)
