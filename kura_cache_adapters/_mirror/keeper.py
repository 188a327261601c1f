"""Keeps an open space and its mirror alike in the background: what fails there is a warning, once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import wait
from functools import partial
from typing import TYPE_CHECKING, Literal
from weakref import WeakSet

from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters._runtime.ending import at_end
from kura_cache_adapters._runtime.fork import ForkLock, forget_in_child
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.members import members
from kura_cache_adapters._runtime.signals import pass_on_signals, refuse_to_wait
from kura_cache_adapters._runtime.threads import submit_mirroring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from kura_cache_adapters._mirror.counts import Counts
    from kura_cache_adapters._mirror.space import SpaceMirror
    from kura_cache_adapters.receipts import SpaceSync

_logger = logger_of("store")

_GATHERING = 0.5  # seconds in which what is written comes together before it is pushed
_PAUSE = 30.0  # seconds without a try after a failed one
_JUST_NOW = 5.0  # seconds for which a listing is new
_LAST_WAIT = 5.0  # seconds that closing, and a process that ends, waits for a push

_all: WeakSet[Keeper] = WeakSet()


class Keeper:
    """Pulls at the first look-up and as look-ups go on, pushes after writes."""

    def __init__(  # noqa: PLR0913 - by name
        self,
        mirror: SpaceMirror,
        counts: Counts,
        *,
        merge: Callable[[frozenset[str]], bool],
        pushes: bool,
        every: float,
        wait: float,
    ) -> None:
        """Take a space's mirror, what merges the space, whether to push, and times in seconds."""
        self._mirror, self._counts, self._merge = mirror, counts, merge
        self._pushes, self._every, self._wait = pushes, every, wait
        self._owes = True  # what an earlier process has left, a push that has failed, or what was merged
        self._lock = ForkLock()
        self._log = OnceLog(_logger)
        self._after = 0.0  # no push before
        self.begin_anew()
        _all.add(self)

    def begin_anew(self) -> None:
        """Forget the pulls and pushes that a fork has left behind."""
        self._due = 0.0  # when to look there again
        self._first: Future[None] | None = None
        self._until = 0.0  # for the first pull is waited no longer
        self._pulling: Future[None] | None = None  # the last one
        self._pushing: Future[None] | None = None  # the last one
        self._has_all = False  # as of the last pull
        self._gathers = False  # it has not begun: what is written now is in it
        self._hurry = threading.Event()  # somebody waits for a push

    @property
    def at_hand(self) -> bool:
        """Whether a look-up now asks nobody for anything."""
        return time.monotonic() < self._due and self._arrived()

    @property
    def may_lack(self) -> bool:
        """Whether there may be rows there that are not here."""
        return not self._has_all or self._mirror.lacks()

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
                message = "Still pulling from %s after %.3g s: going on without"
                self._log.report("wait", message, self._mirror.bucket.url, self._wait)
                self._until = 0.0

    def written(self) -> None:
        """Push soon what was written here."""
        if not self._pushes:
            return
        at_end(_settle_all)
        with self._lock:
            if not self._gathers:
                self._gathers = True
                self._pushing = submit_mirroring(self._push_soon)

    def settle(self, patience: float) -> None:
        """Wait a moment for what is to be pushed."""
        if self._pushing is not None:
            self._hurry.set()
            wait([self._pushing], timeout=patience)
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
        if self._pulling is not None and not self._pulling.done():
            return  # it has been waiting for a server, or for others, all the time
        self._pulling = submit_mirroring(partial(self._sync, push=False))
        if self._first is None:
            self._first, self._until = self._pulling, now + self._wait

    def _push_soon(self) -> None:
        self._hurry.wait(_GATHERING)
        self._gathers = False
        if time.monotonic() >= self._after:
            self._sync(push=True)

    def _sync(self, *, push: bool) -> None:
        owed, self._owes = self._owes, self._owes and not push
        action: Literal["read", "write"] = "write" if push else "read"
        age = 0.0 if not push else _JUST_NOW if owed else self._pause
        try:
            self._tell(self._mirror.sync(push=push, pull=not push, age=age, merged=owed), action)
            self._after, self._has_all = 0.0, self._has_all or not push
            if not push and (self._merged() or owed):
                self._owes = True
                self.written()
        except Exception as error:  # noqa: BLE001 - nobody waits for it: the local directory has everything
            pass_on_signals(error)
            self._after, self._owes = time.monotonic() + _PAUSE, True
            self._has_all = self._has_all and push
            self._counts.failed(action, describe(error))
            message = "Could not sync with %s: %s; going on without"
            self._log.report(action, message, self._mirror.bucket.url, describe(error))

    def _merged(self) -> bool:
        """Merge what is there, too; the rest goes there as it is: others lack just that."""
        shared = self._mirror.shared()
        return bool(shared) and self._merge(shared)

    def _tell(self, done: SpaceSync, action: Literal["read", "write"]) -> None:
        self._counts.add(done, action)
        self._log.over(action)
        if done.refused:
            message, first = "Refused %d files of the mirror %s: %s, %s", done.refused[0]
            told = len(done.refused), self._mirror.bucket.url, first.where, first.why
            self._log.report("refused", message, *told)


def _settle_all() -> None:
    settle(members(_all))


def settle(keepers: Iterable[Keeper]) -> None:
    """Wait a moment, and no longer for many, for what is to be pushed."""
    end = time.monotonic() + _LAST_WAIT
    for keeper in keepers:
        keeper.settle(max(0.0, end - time.monotonic()))


def _begin_anew() -> None:
    for keeper in list(_all):
        keeper.begin_anew()


forget_in_child(_begin_anew)
