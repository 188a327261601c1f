"""The record of a space's use: a line at the end of a file now and then, and the sum of its lines."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import atomic, locks, reading
from kura_cache_adapters._observe.events import Embedded, LookedUp, Stored
from kura_cache_adapters._observe.uses import UseStats
from kura_cache_adapters._runtime.ending import at_end
from kura_cache_adapters._runtime.fork import ForkLock, forget_in_child
from kura_cache_adapters._runtime.loop import on_a_loop
from kura_cache_adapters._runtime.signals import pass_on_signals, suppressed
from kura_cache_adapters._runtime.threads import submit_to_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kura_cache_adapters._observe.events import Event

NAME = "_uses"
"""The file's name in a space's directory."""

_EVERY = 5.0  # seconds: hits are written down at most so often
_LONGEST = 1 << 16  # bytes: then its lines become one
_MOST_READ = 1 << 26
_MOST_KNOWN = 10_000  # spaces
_TRIES = 20  # a millisecond apart, while another process makes one line of all
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # no link; no wait for a reader
_COUNTS = ("hits", "duplicates", "misses", "tokens")


class Uses:
    """What this process has counted of a space and not written down yet, and the file of them all.

    A line is written after each batch that is stored, after hits at most every five seconds, when a store is
    closed, and at exit: a kill loses what came since. Counting and writing raise nothing but what a signal
    handler raises.
    """

    def __init__(self, space: Path, *, shared: bool) -> None:
        """Name the space's directory."""
        self._path = space / NAME
        self._shared = shared
        self._lock = ForkLock()
        self._due = 0.0
        self.forget()

    def forget(self) -> None:
        """Drop what is not written down: in a forked child it is its parent's."""
        self._hits = self._duplicates = self._misses = 0
        self._tokens: int | None = None

    def __call__(self, event: Event) -> None:
        """Count an event of the space."""
        at_end(_write_all)
        if isinstance(event, LookedUp):
            with self._lock:
                self._hits += event.hits
                self._duplicates += event.repeated
            if not event.missing and time.monotonic() >= self._due:
                self._write_soon()
        elif isinstance(event, Embedded):
            with self._lock:
                self._misses += event.texts
                self._duplicates += event.shared
                if event.tokens is not None:
                    self._tokens = event.tokens + (self._tokens or 0)
        elif isinstance(event, Stored):
            self.write()

    def write(self) -> None:
        """Write down what has been counted since the last time; what cannot be written is kept."""
        with self._lock:
            counts = (self._hits, self._duplicates, self._misses, self._tokens)
            self.forget()
        if any(counts):
            now = round(time.time(), 3)
            self._append(UseStats(*counts, since=now, until=now))

    def total(self) -> UseStats:
        """Sum up what all processes have written down; raise OSError where that cannot be read."""
        self.write()
        try:
            return _sum(reading.read_file(self._path, most=_MOST_READ))
        except FileNotFoundError:
            return UseStats()

    def _write_soon(self) -> None:
        self._due = time.monotonic() + _EVERY
        if on_a_loop():  # a file may be slow
            submit_to_store(self.write)
        else:
            self.write()

    def _append(self, counted: UseStats) -> None:
        line = _line(counted)
        try:
            with self._open(os.O_WRONLY | os.O_APPEND | os.O_CREAT, shared=True) as file:
                os.write(file, line)
                long = os.fstat(file).st_size > _LONGEST
        except OSError as error:
            self._keep(counted)
            pass_on_signals(error)
            return
        if long:
            with suppressed(OSError):
                self._make_one_line()

    def _keep(self, counted: UseStats) -> None:
        with self._lock:
            self._hits += counted.hits
            self._duplicates += counted.duplicates
            self._misses += counted.misses
            if counted.tokens is not None:
                self._tokens = counted.tokens + (self._tokens or 0)

    def _make_one_line(self) -> None:
        """Put the sum of the lines in their place, while nobody writes; a kill leaves one or the other."""
        with self._open(os.O_RDWR, shared=False):
            whole = _line(_sum(reading.read_file(self._path, most=_MOST_READ)))
            with (
                atomic.published(self._path, durable=True) as temporary,
                atomic.create(temporary, shared=self._shared) as file,
            ):
                file.write(whole)

    @contextmanager
    def _open(self, flags: int, *, shared: bool) -> Iterator[int]:
        """Open the file that has the name now, locked: no line goes to one that was replaced."""
        for _ in range(_TRIES if shared else 1):
            descriptor = os.open(self._path, flags | _CAREFULLY, 0o666 if self._shared else 0o600)
            try:
                if _locked(descriptor, shared=shared) and self._is_named(descriptor):
                    yield descriptor
                    return
            finally:
                with suppressed(OSError):  # there are no locks
                    locks.unlock_file(descriptor)
                os.close(descriptor)
            time.sleep(0.001)
        raise BlockingIOError

    def _is_named(self, descriptor: int) -> bool:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(self._path))
        return os.path.samestat(status, self._path.stat())


def uses_of(space: Path, *, shared: bool) -> Uses:
    """Return what this process knows of the use of a space, the same object for all stores in it.

    It outlives them: what none was closed for is written down at exit, but for that of the last of more than
    10,000 spaces.
    """
    uses = _known.get(space) or Uses(space, shared=shared)
    return _known.setdefault(space, uses) if len(_known) < _MOST_KNOWN else uses


def _locked(descriptor: int, *, shared: bool) -> bool:
    """Tell whether a file could be locked; to write a line, one without locks will do."""
    try:
        return locks.lock_file(descriptor, shared=shared)
    except OSError as error:
        pass_on_signals(error)
        if not shared:
            raise
        return True


def _line(counted: UseStats) -> bytes:
    told = {name: value for name, value in asdict(counted).items() if value}
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def _sum(content: bytes) -> UseStats:
    total = UseStats()
    for line in content.splitlines():
        total += _read(line)
    return total


def _read(line: bytes) -> UseStats:
    """Read a line; one that is not what it should be counts nothing."""
    try:
        told = json.loads(line)
        counts = {name: told[name] for name in _COUNTS if name in told}
        if not all(type(count) is int and 0 <= count < 1 << 60 for count in counts.values()):
            return UseStats()
        return UseStats(**counts, since=float(told["since"]), until=float(told["until"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return UseStats()


_known: dict[Path, Uses] = {}


def _write_all() -> None:
    for uses in list(_known.values()):
        uses.write()


def _forget_all() -> None:
    for uses in list(_known.values()):
        uses.forget()


forget_in_child(_forget_all)
