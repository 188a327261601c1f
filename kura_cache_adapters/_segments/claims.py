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
from kura_cache_adapters._segments import marks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

DIRECTORY = ".claims"
"""Where the claims of a space are, inside of it."""

_GATE = "gate"
_COUNT = 8  # bytes of the gate: how many claims there have been
_KEY = 32
_NOBODY = bytes(_KEY)  # in place of a key that was released
_LARGEST = 1 << 25  # bytes read of one claim: a million keys
_PATIENCE = 0.25  # seconds for the gate, which is held for microseconds
_PAUSE = 60.0  # seconds without claims after the gate was shut: its holder is stopped, and may stay so
_CAREFUL = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class FileClaim:
    """Keys that this process has claimed: a file with them, locked for as long as any is left."""

    def __init__(self, path: Path, descriptor: int | None, keys: Iterable[bytes], news: float) -> None:
        """Take the open, locked file, None for no keys; it is closed by the last release."""
        self.news = news
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
        with suppress(OSError):  # then they are waited for until the file ends
            for place in places:  # half a key is nobody's, too
                os.pwrite(self._descriptor, _NOBODY, place * _KEY)

    def forget(self) -> None:
        """Close the file in a forked child: the claim is its parent's."""
        descriptor, self._descriptor, self._places = self._descriptor, None, {}
        if descriptor is not None:
            _close(descriptor)

    def _end(self, descriptor: int) -> None:
        self._descriptor = None
        with suppress(OSError):
            self._path.unlink()
        with suppress(OSError):
            locks.unlock_file(descriptor)
        _close(descriptor)

    def __del__(self) -> None:
        """Give all up: its call has ended before it could."""
        with suppress(AttributeError, TypeError):  # as the interpreter ends, modules may be gone
            if self._descriptor is not None:
                self._end(self._descriptor)


_alive: WeakSet[FileClaim] = WeakSet()


def _forget_all() -> None:
    for claim in list(_alive):
        claim.forget()
    _alive.clear()


forget_in_child(_forget_all)


class Claims:
    """The claims of all processes in one space. Who lists or adds any holds a gate, for microseconds."""

    def __init__(self, space: Path, *, shared: bool) -> None:
        """Name the space's directory; it is made by the first claim."""
        self._space = space
        self._path = space / DIRECTORY
        self._shared = shared
        self._after = 0.0
        self._others = True  # whether any were there at the last look
        self._count = -1
        self._news = 0.0

    def claim(self, keys: Collection[bytes]) -> FileClaim | None:
        """Claim the keys that nobody else has claimed; None where there are no claims.

        Raises OSError where none can be made: no locks, no permission, no room.
        """
        if os.name != "posix" or time.monotonic() < self._after:
            return None
        with self._gate() as gate:
            if not _patiently_locked(gate):
                self._after = time.monotonic() + _PAUSE
                return None
            theirs = self._claimed()
            self._count_up(gate, others=bool(theirs))
            return self._add([key for key in keys if key not in theirs] if theirs else list(keys))

    @contextmanager
    def _gate(self) -> Iterator[int]:
        descriptor = self._open_gate()
        try:
            yield descriptor
        finally:
            _close(descriptor)

    def _count_up(self, gate: int, *, others: bool) -> None:
        """Note when others were seen last: by their claims, now or before, or by the count of all claims."""
        count = int.from_bytes(os.pread(gate, _COUNT, 0), "little")
        if others or self._others or count != self._count:
            self._news = time.perf_counter()
        self._others, self._count = others, (count + 1) % (1 << 8 * _COUNT)
        os.pwrite(gate, self._count.to_bytes(_COUNT, "little"), 0)

    def _open_gate(self) -> int:
        reading.refuse_link(self._space)
        reading.refuse_link(self._path)
        mode = 0o666 if self._shared else 0o600
        for _ in range(2):
            with suppress(FileNotFoundError):
                return os.open(self._path / _GATE, os.O_RDWR | os.O_CREAT | _CAREFUL, mode)
            marks.make_space(self._space, durable=False, shared=self._shared)
            self._path.mkdir(mode=0o777 if self._shared else 0o700, exist_ok=True)
        raise FileNotFoundError(self._path)

    def _claimed(self) -> set[bytes]:
        names = [name for name in os.listdir(self._path) if name != _GATE]  # noqa: PTH208 - half the time
        return set().union(*map(self._keys_of, names))

    def _keys_of(self, name: str) -> Iterable[bytes]:
        """Read the keys of a claim; remove one whose owner is dead, which has none."""
        with suppress(OSError):  # released by now, or not ours to read
            descriptor = os.open(self._path / name, os.O_RDONLY | _CAREFUL)
            try:
                return self._read(name, descriptor)
            finally:
                _close(descriptor)
        return ()

    def _read(self, name: str, descriptor: int) -> Iterable[bytes]:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ()
        if locks.lock_file(descriptor, shared=True):
            (self._path / name).unlink()
            return ()
        content = os.read(descriptor, _LARGEST)
        return (content[at : at + _KEY] for at in range(0, len(content), _KEY))

    def _add(self, keys: list[bytes]) -> FileClaim:
        path = self._path / secrets.token_hex(8)
        if not keys:
            return FileClaim(path, None, keys, self._news)
        mode = 0o666 if self._shared else 0o600
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CAREFUL, mode)
        try:
            locks.lock_file(descriptor)
            os.write(descriptor, b"".join(keys))
        except BaseException:
            _close(descriptor)
            path.unlink()
            raise
        return FileClaim(path, descriptor, keys, self._news)


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
