"""What waits to be written to a remote store: bounded, written by one thread, found until it is written."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import islice, takewhile
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from kura_cache_adapters._guard.guard import IDLE
from kura_cache_adapters._observe.log import OnceLog
from kura_cache_adapters._runtime.fork import ForkLock, forget_in_child
from kura_cache_adapters._runtime.greenlets import patched
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.threads import DaemonThreads
from kura_cache_adapters.errors import DimensionMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import TypeAlias

    from numpy.typing import NDArray

    from kura_cache_adapters._guard.guard import Guard
    from kura_cache_adapters.protocols import Vectors

    Write: TypeAlias = Callable[[list[bytes], Vectors], object]
    Tell: TypeAlias = Callable[[int, int], object]

BATCH = 256  # entries that are written at once
_ENTRY_BYTES = 200  # of an entry beside its vector
_MOST_OWED = 1_000_000  # keys remembered that were dropped
_CLOSED = (
    "it took none of them until the cache was closed. A directory in front, as in "
    '["./cache", "redis://..."], keeps what a server does not take; for one that is only read, say '
    'write="never"'
)
_AGAIN = 0.2  # seconds after a failure that has not opened the circuit
_logger = logger_of("store")
_all: WeakSet[Backlog] = WeakSet()


class Waiting:
    """The entries of one space that wait, who hears when they are written, and the keys that were dropped."""

    def __init__(self, write: Write) -> None:
        """Take what writes keys and vectors to the space."""
        self.write = write
        self.rows: dict[bytes, NDArray[Any]] = {}
        self.tellers: dict[bytes, Tell] = {}
        self.dropped: set[bytes] = set()

    def batch(self) -> dict[bytes, NDArray[Any]]:
        """Return the first entries, as many as are written at once and have one type."""
        some = [*islice(self.rows.items(), BATCH)]
        return dict(takewhile(lambda item: item[1].dtype == some[0][1].dtype, some))


class Backlog:
    """The entries that wait, of all spaces of one store."""

    def __init__(self, guard: Guard, most: int) -> None:
        """Start empty; `most` bytes may wait."""
        self.most = most
        self.nbytes: int = 0
        self._guard = guard
        self._spaces: list[Waiting] = []
        self._lock = ForkLock()
        self._log = OnceLog(_logger)
        self.begin_anew()
        _all.add(self)

    def begin_anew(self) -> None:
        """Forget what waits: after a fork it is the parent's."""
        for each in self._spaces:
            each.rows.clear()
            each.tellers.clear()
            each.dropped.clear()
        self.nbytes = self._guard.backlog = 0
        self._writing = False
        self._flushing: list[SimpleQueue[None]] = []
        self._wake = threading.Event()
        self._threads = DaemonThreads("kura-cache-backlog", 1, idle=IDLE)

    def space(self, write: Write) -> Waiting:
        """Return a place for one space's entries."""
        place = Waiting(write)
        self._spaces.append(place)
        return place

    def add(self, place: Waiting, keys: list[bytes], vectors: Vectors) -> None:
        """Have entries written later; those for which there is no room are dropped."""
        each = _bytes_of(vectors[0])
        with self._locked():
            room = 0 if patched() else max(0, (self.most - self.nbytes) // each)
            rows = dict(zip(keys[:room], np.array(vectors[:room]), strict=True))
            old = [row for key in rows if (row := place.rows.get(key)) is not None]
            self._account(len(rows) - len(old), len(rows) * each - sum(map(_bytes_of, old)))
            place.rows.update(rows)
        self._write_on()
        self._drop({place: keys[room:]}, "there is no room for more")

    def unwritten(self, place: Waiting, keys: Collection[bytes], tell: Tell) -> set[bytes]:
        """Return those of the keys that wait or were dropped; those that are written later are told of."""
        if not place.rows and not place.dropped:
            return set()
        with self._locked():
            waits = place.rows.keys() & keys
            place.tellers.update(dict.fromkeys(waits, tell))
            return waits | place.dropped.intersection(keys)

    def withdraw(self, place: Waiting, keys: Collection[bytes]) -> None:
        """Write these no more."""
        with self._locked():
            self._let_go(place, keys)

    def flush(self, seconds: float) -> bool:
        """Write what waits, for so many seconds or until that fails once; tell whether nothing waits."""
        told: SimpleQueue[None] = SimpleQueue()
        with self._locked():
            if not self.waits:
                return True
            self._flushing.append(told)
        self._write_on()
        self._wake.set()
        with suppress(Empty):
            told.get(timeout=seconds)
        return not self.waits

    def give_up(self) -> None:
        """Drop all that waits."""
        with self._locked():
            left = {place: [*place.rows] for place in self._spaces}
            for place, keys in left.items():
                self._let_go(place, keys)
        self._drop(left, _CLOSED)

    @property
    def waits(self) -> bool:
        """Whether anything waits."""
        return any(each.rows for each in self._spaces)

    def _write_on(self) -> None:
        """Have a thread write what waits, unless one does; where none can be started, this one tries once."""
        if self.waits and not self._writing:
            self._threads.submit(partial(self._drain, threading.get_ident()))

    def _drain(self, starter: int) -> None:
        """Write until nothing waits; where that fails, try again when the circuit says so."""
        self._writing = True
        try:
            while (batch := self._next()) is not None:
                if not self._written(*batch) and not self._paused(starter):
                    return
        finally:
            self._writing = False

    def _paused(self, starter: int) -> bool:
        """Wait for the next try; tell whether this thread makes it."""
        self._tell_flushing()
        if threading.get_ident() == starter:
            return False
        self._wake.wait(self._guard.circuits["write"].waits or _AGAIN)
        self._wake.clear()
        return True

    def _next(self) -> tuple[Waiting, dict[bytes, NDArray[Any]]] | None:
        with self._locked():
            place = next((each for each in self._spaces if each.rows), None)
            if place is not None:
                return place, place.batch()
            self._writing = False  # here, where nobody adds: who adds next has it written
            self._tell_flushing()
            return None

    def _tell_flushing(self) -> None:
        while self._flushing:
            self._flushing.pop().put(None)

    def _written(self, place: Waiting, rows: dict[bytes, NDArray[Any]]) -> bool:
        try:
            written = self._guard.probe("write", partial(_write, place.write, rows), len(rows))
        except DimensionMismatchError as error:  # it will never take them: they are not owed
            _logger.warning("%s: %d entries were not written: %s", self._guard.name, len(rows), error)
            self._guard.count(dropped=len(rows))
            self._done(place, rows)
            return True
        if written:
            each = next(iter(rows.values())).nbytes
            for tell, count in self._done(place, rows).items():
                tell(count, count * each)
        return bool(written)

    def _done(self, place: Waiting, rows: dict[bytes, NDArray[Any]]) -> Counter[Tell]:
        """Let go of what need not be written any more; return who is to hear of how many."""
        with self._locked():  # what was put anew meanwhile still waits
            done = [key for key, row in rows.items() if place.rows.get(key) is row]
            told = Counter(tell for key in done if (tell := place.tellers.get(key)))
            place.dropped.difference_update(done)
            self._let_go(place, done)
        return told

    def _drop(self, dropped: dict[Waiting, list[bytes]], why: str) -> None:
        count = sum(map(len, dropped.values()))
        if not count:
            return
        for place, keys in dropped.items():
            place.dropped.update(keys[: max(0, _MOST_OWED - len(place.dropped))])
        self._guard.count(dropped=count)
        self._log.report("drop", "%s: %d entries were not written: %s", self._guard.name, count, why)
        self._guard.tell("write", "dropped", why)

    def _let_go(self, place: Waiting, keys: Collection[bytes]) -> None:
        for key in keys:
            place.tellers.pop(key, None)
        gone = [row for key in keys if (row := place.rows.pop(key, None)) is not None]
        self._account(-len(gone), -sum(map(_bytes_of, gone)))
        if not self.waits:
            self._account(-self._guard.backlog, -self.nbytes)  # a signal may have come between
            self._log.over("drop")

    def _account(self, entries: int, nbytes: int) -> None:
        self.nbytes += nbytes
        self._guard.backlog += entries

    def _locked(self) -> ForkLock:
        self._lock.refuse_reentry()
        return self._lock


def empty(backlogs: list[Backlog], seconds: float) -> None:
    """Write what waits, at once and as often as there is time: a server may be restarting. Drop the rest."""
    end = monotonic() + seconds
    while (left := end - monotonic()) > 0:
        if all([each.flush(min(_AGAIN, left)) for each in backlogs]):  # noqa: C419 - each is to begin
            return
        sleep(min(_AGAIN, left))
    for each in backlogs:
        each.give_up()


def _write(write: Write, rows: dict[bytes, NDArray[Any]]) -> bool:
    write([*rows], np.stack([*rows.values()]))
    return True


def _bytes_of(row: NDArray[Any]) -> int:
    return row.nbytes + _ENTRY_BYTES


def _begin_anew() -> None:
    for backlog in list(_all):
        backlog.begin_anew()


forget_in_child(_begin_anew)
