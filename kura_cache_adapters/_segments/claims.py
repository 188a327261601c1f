"""What processes that share a space are embedding: claim files, which the kernel frees with their owner."""

from __future__ import annotations

import os
import secrets
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from weakref import WeakSet

from kura_cache_adapters._disk import locks, reading
from kura_cache_adapters._runtime.fork import forget_in_child
from kura_cache_adapters._runtime.members import members
from kura_cache_adapters._runtime.signals import suppressed
from kura_cache_adapters._segments import marks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

DIRECTORY = ".claims"
"""Where the claims of a space are, inside of it."""

GATE = "gate"
"""The file in there whose lock is held while claims are listed or added."""
_COUNT = 8  # bytes of the gate: how many claims there have been
_KEY = 32
_NOBODY = bytes(_KEY)  # in place of a key that was released
_LARGEST = 1 << 25  # bytes read of one claim: a million keys
_FEW = 8  # keys that are sooner looked for one by one
_PATIENCE = 0.25  # seconds for the gate, which is held for microseconds
_PAUSE = 60.0  # seconds without claims after the gate was shut: its holder is stopped, and may stay so
_CAREFUL = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class FileClaim:
    """Keys that this process has claimed: a file with them, locked for as long as any is left."""

    def __init__(
        self, path: Path, descriptor: int | None, keys: Iterable[bytes], *, turn: int, beside: int
    ) -> None:
        """Take the open, locked file, None for no keys; it is closed by the last release."""
        self.turn: int = turn
        self.beside: int = beside
        self._path = path
        self._descriptor: int | None = descriptor
        self._places = {key: at for at, key in enumerate(keys)}
        _alive.add(self)

    @property
    def keys(self) -> Collection[bytes]:
        """The keys that are claimed still."""
        return self._places.keys()

    def release(self, keys: Iterable[bytes]) -> None:
        """Give keys up, those among them that are claimed here."""
        places = [place for key in keys if (place := self._places.pop(key, None)) is not None]
        if self._descriptor is None or not places:
            return
        if not self._places:
            self._end(self._descriptor)
            return
        with suppressed(OSError):  # then they are waited for until the file ends
            for place in places:  # half a key is nobody's, too
                os.pwrite(self._descriptor, _NOBODY, place * _KEY)

    def forget(self) -> None:
        """Close the file in a forked child: the claim is its parent's."""
        self._descriptor, self._places = None, {}

    def _end(self, descriptor: int) -> None:
        self._descriptor = None
        _let_go(self._path, descriptor)

    def __del__(self) -> None:
        """Give all up: its call has ended before it could."""
        with suppress(AttributeError, TypeError):  # as the interpreter ends, modules may be gone
            if self._descriptor is not None:
                self._end(self._descriptor)

    @property
    def name(self) -> str:
        """The file's name."""
        return self._path.name


_alive: WeakSet[FileClaim] = WeakSet()
_held: dict[str, int] = {}
"""The files that this process holds locked, by name: a signal handler's exception may lose their claims."""


def _let_go(path: Path, descriptor: int) -> None:
    with suppressed(OSError):
        path.unlink()
    with suppressed(OSError):
        locks.unlock_file(descriptor)
    if _held.pop(path.name, None) is not None:
        _close(descriptor)


def _forget_all() -> None:
    for claim in list(_alive):
        claim.forget()
    _alive.clear()
    for descriptor in _held.values():
        _close(descriptor)
    _held.clear()


forget_in_child(_forget_all)


class Claims:
    """The claims of all processes in one space. Who lists or adds any holds a gate, for microseconds."""

    def __init__(self, space: Path, *, shared: bool) -> None:
        """Name the space's directory; it is made by the first claim."""
        self._space = space
        self._path = space / DIRECTORY
        self._shared = shared
        self._after = 0.0

    def claim(self, keys: Collection[bytes], *, durable: bool) -> FileClaim | None:
        """Claim the keys that nobody else has claimed; None where there are no claims.

        A space that is missing is made, to outlive a power cut where that is asked for.

        Raises OSError where none can be made: no locks, no permission, no room.
        """
        if os.name != "posix" or time.monotonic() < self._after:
            return None
        with self._gate(durable=durable) as gate:
            if not _patiently_locked(gate):
                self._after = time.monotonic() + _PAUSE
                return None
            theirs, beside = self._look(set(keys))
            mine = [key for key in keys if key not in theirs]
            return self._add(mine, turn=_count_up(gate), beside=beside)

    @contextmanager
    def _gate(self, *, durable: bool) -> Iterator[int]:
        descriptor = self._open_gate(durable=durable)
        try:
            yield descriptor
        finally:
            _close(descriptor)

    def _open_gate(self, *, durable: bool) -> int:
        reading.refuse_link(self._space)
        reading.refuse_link(self._path)
        mode = 0o666 if self._shared else 0o600
        for _ in range(2):
            with suppressed(FileNotFoundError):
                return os.open(self._path / GATE, os.O_RDWR | os.O_CREAT | _CAREFUL, mode)
            marks.make_space(self._space, durable=durable, shared=self._shared)
            self._path.mkdir(mode=0o777 if self._shared else 0o700, exist_ok=True)
        raise FileNotFoundError(self._path)

    def _look(self, wanted: set[bytes]) -> tuple[set[bytes], int]:
        """Return which of the keys are claimed, and the number of all claims; remove those of the dead."""
        names = [name for name in os.listdir(self._path) if name != GATE]  # noqa: PTH208 - half the time
        claims = [claim for name in names if (claim := self._keys_of(name)) is not None]
        return {key for claimed in claims for key in _among(wanted, claimed)}, len(claims)

    def _keys_of(self, name: str) -> bytes | None:
        """Read a claim; None if it is dead, released by now, or not ours to read."""
        if name in _held and name not in {claim.name for claim in members(_alive)}:
            _let_go(self._path / name, _held[name])  # its call has ended halfway
            return None
        with suppressed(OSError):
            descriptor = os.open(self._path / name, os.O_RDONLY | _CAREFUL)
            try:
                return self._read(name, descriptor)
            finally:
                _close(descriptor)
        return None

    def _read(self, name: str, descriptor: int) -> bytes | None:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        if locks.lock_file(descriptor, shared=True):
            (self._path / name).unlink()
            return None
        return os.read(descriptor, _LARGEST)

    def _add(self, keys: list[bytes], *, turn: int, beside: int) -> FileClaim:
        path = self._path / secrets.token_hex(8)
        if not keys:
            return FileClaim(path, None, keys, turn=turn, beside=beside)
        mode = 0o666 if self._shared else 0o600
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CAREFUL, mode)
        try:
            _held[path.name] = descriptor
            locks.lock_file(descriptor)
            os.write(descriptor, b"".join(keys))
        except BaseException:
            _let_go(path, descriptor)
            raise
        return FileClaim(path, descriptor, keys, turn=turn, beside=beside)


def _count_up(gate: int) -> int:
    """Count the claims of the space; return which this one is."""
    turn = (int.from_bytes(os.pread(gate, _COUNT, 0), "little") + 1) % (1 << 8 * _COUNT)
    os.pwrite(gate, turn.to_bytes(_COUNT, "little"), 0)
    return turn


def _among(wanted: set[bytes], claimed: bytes) -> Iterable[bytes]:
    if len(wanted) <= _FEW:
        return [key for key in wanted if key in claimed]
    return wanted.intersection(claimed[at : at + _KEY] for at in range(0, len(claimed), _KEY))


def _close(descriptor: int) -> None:
    with suppress(OSError):  # it is closed all the same
        os.close(descriptor)


def _patiently_locked(descriptor: int) -> bool:
    end = time.monotonic() + _PATIENCE
    while not locks.lock_file(descriptor):
        if time.monotonic() > end:
            return False
        time.sleep(0.0005)
    return True
