"""A circuit breaker: a store that fails is left alone for a while, then probed by one call at a time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import monotonic

from kura_cache_adapters._runtime.fork import ForkLock


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """When a remote store is left alone, and for how long.

    Attributes:
        errors: so many within `window` seconds open the circuit; a time-out does so at once, and so do
            errors that have cost as much time as one.
        window: in seconds.
        rest: for how many seconds it is left alone at first; each probe that fails doubles that.
        longest: the most of it.

    """

    errors: int = 5
    window: float = 10.0
    rest: float = 2.0
    longest: float = 60.0


class Circuit:
    """Whether a store is asked: closed, it is; open, it is not; half-open, one probe asks it."""

    def __init__(self, breaker: Breaker) -> None:
        """Begin closed."""
        self.closed = True
        self._breaker = breaker
        self._rest = breaker.rest
        self._again = 0.0  # when the next probe may begin, or the present one has failed
        self._probing = False
        self._failures: deque[tuple[float, float]] = deque(maxlen=breaker.errors)
        self._opened = self._open_seconds = 0.0
        self._lock = ForkLock()

    @property
    def open_seconds(self) -> float:
        """For how long it has been open, in all."""
        return self._open_seconds + (0.0 if self.closed else monotonic() - self._opened)

    @property
    def waits(self) -> float:
        """For how many seconds nothing is to be tried."""
        return 0.0 if self.closed else max(0.0, self._again - monotonic())

    def probe(self, seconds: float, *, anyway: bool = False) -> bool:
        """Tell whether the caller is the one to probe, in so many seconds; `anyway`, without waiting."""
        if self.waits and not anyway:
            return False
        with self._locked():
            if self.closed or (self.waits and not anyway):
                return False
            if self._probing and not anyway:  # it has not come back
                self._double()
                return False
            self._probing, self._again = True, monotonic() + seconds
            return True

    def worked(self, *, probe: bool = False) -> bool:
        """Close it; tell whether that is news. What a probe has found is not yet what a call will find."""
        if self.closed and self._rest == self._breaker.rest and not self._failures:
            return False
        with self._locked():
            news, self.closed = not self.closed, True
            self._open_seconds += (monotonic() - self._opened) if news else 0.0
            self._probing = False
            if not probe:
                self._rest = self._breaker.rest
            if news:
                self._failures.clear()
            return news

    def failed(self, seconds: float, deadline: float) -> bool:
        """Count a failure that took so long; tell whether that has opened it."""
        with self._locked():
            now = monotonic()
            if not self.closed:
                if self._probing:
                    self._double()
                return False
            self._failures.append((now, seconds / deadline))
            recent = [cost for at, cost in self._failures if now - at < self._breaker.window]
            if len(recent) < self._breaker.errors and sum(recent) < 1:
                return False
            self.closed, self._opened, self._again = False, now, now + self._rest
            self._rest = min(2 * self._rest, self._breaker.longest)
            return True

    def _double(self) -> None:
        self._probing = False
        self._again = monotonic() + self._rest
        self._rest = min(2 * self._rest, self._breaker.longest)

    def _locked(self) -> ForkLock:
        self._lock.refuse_reentry()
        return self._lock
