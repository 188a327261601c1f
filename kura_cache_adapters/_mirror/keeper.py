"""Keeps an open space and its mirror alike in the background: what fails there is a warning, once."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import wait
from functools import partial
from typing import TYPE_CHECKING, Literal
from weakref import WeakSet

from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters._runtime.ending import at_end
from kura_cache_adapters._runtime.fork import ForkLock
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import pass_on_signals, refuse_to_wait
from kura_cache_adapters._runtime.threads import submit_mirroring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from kura_cache_adapters._mirror.counts import Counts
    from kura_cache_adapters._mirror.space import SpaceMirror

_logger = logger_of("store")

_GATHERING = 0.5  # seconds in which what is written comes together before it is pushed
_PAUSE = 30.0  # seconds without a try after a failed one
_LAST_WAIT = 5.0  # seconds that closing, and a process that ends, waits for a push

_known: WeakSet[Keeper] = WeakSet()


class Keeper:
    """Pulls at the first look-up and as look-ups go on, pushes after writes."""

    def __init__(  # noqa: PLR0913 - by name
        self,
        mirror: SpaceMirror,
        counts: Counts,
        *,
        merge: Callable[[frozenset[str]], object],
        pushes: bool,
        every: float,
        wait: float,
    ) -> None:
        """Take a space's mirror, what merges the space, whether to push, and times in seconds."""
        self._mirror, self._counts, self._merge = mirror, counts, merge
        self._pushes, self._every, self._wait = pushes, every, wait
        self._owes = True  # what an earlier process has left, or a push that has failed
        self._lock = ForkLock()
        self._log = OnceLog(_logger)
        self._due = 0.0  # when to look there again
        self._after = 0.0  # no push before
        self._first: Future[None] | None = None
        self._pulling: tuple[int, Future[None] | None] = (0, None)  # in which process, and the last pull
        self._until = 0.0  # for the first pull is waited no longer
        self._pushing: Future[None] | None = None  # the last one
        self._gathers = False  # it has not begun: what is written now is in it
        self._process = os.getpid()
        self._hurry = threading.Event()  # somebody waits for a push

    @property
    def at_hand(self) -> bool:
        """Whether a look-up now asks nobody for anything."""
        return time.monotonic() < self._due and self._arrived()

    @property
    def may_lack(self) -> bool:
        """Whether there may be rows there that are not here."""
        return bool(self._counts.stats.error) or not self._arrived() or self._mirror.lacks()

    def ready(self) -> None:
        """Start a pull where one is due; wait for the first one, not for ever."""
        if self.at_hand:
            return
        with self._lock:
            if time.monotonic() >= self._due:
                self._start_pull()
        if not self._arrived():
            refuse_to_wait()
            wait([self._first] if self._first else [], timeout=max(0.0, self._until - time.monotonic()))
            if not self._arrived():
                message = "Still pulling from %s after %.0f s: going on without"
                self._log.report("wait", message, self._mirror.bucket.url, self._wait)
                self._until = 0.0

    def written(self) -> None:
        """Push soon what was written here."""
        if not self._pushes:
            return
        _settle_at_exit(self)
        with self._lock:
            if not self._gathers or self._process != os.getpid():
                self._gathers, self._process = True, os.getpid()
                self._pushing = submit_mirroring(self._push_soon)

    def settle(self, patience: float) -> None:
        """Wait a moment for what is to be pushed."""
        self._hurry.set()
        if (pushing := self._pushing) is not None and self._process == os.getpid():
            wait([pushing], timeout=patience)
        self._hurry.clear()

    @property
    def _pause(self) -> float:
        """Seconds between looks there: of many objects fewer, so that requests do not grow with them."""
        return self._every * self._mirror.pages

    def _arrived(self) -> bool:
        return self._first is None or self._first.done() or not self._until

    def _start_pull(self) -> None:
        now = time.monotonic()
        self._due = now + self._pause
        process, last = self._pulling
        if last is not None and not last.done() and process == os.getpid():
            return  # it has been waiting for a server, or for others, all the time
        running = submit_mirroring(partial(self._sync, push=False))
        self._pulling = os.getpid(), running
        if self._first is None:
            self._first, self._until = running, now + self._wait

    def _push_soon(self) -> None:
        self._hurry.wait(_GATHERING)
        self._gathers = False
        if time.monotonic() >= self._after:
            self._sync(push=True)

    def _sync(self, *, push: bool) -> None:
        action: Literal["read", "write"] = "write" if push else "read"
        try:
            done = self._mirror.sync(push=push, pull=not push, age=self._pause if push else 0.0)
            self._counts.add(done, action)
            self._log.over("sync")
            if done.refused:
                message, first = "Refused %d files of the mirror %s: %s, %s", done.refused[0]
                told = len(done.refused), self._mirror.bucket.url, first.where, first.why
                self._log.report("refused", message, *told)
            self._after = 0.0
            owed, self._owes = self._owes, False
            if owed and not push:
                self.written()
            if shared := self._mirror.shared():  # the rest goes there as it is: others lack just that
                self._merge(shared)
        except Exception as error:  # noqa: BLE001 - nobody waits for it: the local directory has everything
            pass_on_signals(error)
            self._after, self._owes = time.monotonic() + _PAUSE, True
            self._counts.failed(action, describe(error))
            message = "Could not sync with %s: %s; going on without"
            self._log.report("sync", message, self._mirror.bucket.url, describe(error))


def _settle_at_exit(keeper: Keeper) -> None:
    _known.add(keeper)
    at_end(_settle_all)


def _settle_all() -> None:
    settle([*_known])


def settle(keepers: Iterable[Keeper]) -> None:
    """Wait a moment, and no longer for many, for what is to be pushed."""
    end = time.monotonic() + _LAST_WAIT
    for keeper in keepers:
        keeper.settle(max(0.0, end - time.monotonic()))
