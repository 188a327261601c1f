"""MemoryStore: vectors in RAM under a byte limit, the least recently used evicted first."""

from __future__ import annotations

from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._identity.keys import RememberedKeys
from kura_cache_adapters._runtime.fork import ForkLock, if_free
from kura_cache_adapters.checks import check_dimension, check_shapes, key_matrix
from kura_cache_adapters.protocols import Hits, SpaceStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import Vectors

_ENTRY_OVERHEAD = 200  # bytes of an entry beside its vector: the key, its place in a dict, a stamp
_KEEP = 0.9  # of the limit after an eviction, so that not every write evicts
_HELD = 1.125  # of the limit with free rows: room to grow, and as much again before rows are moved


class MemoryStore:
    """Keep vectors in this process, `max_bytes` in all (vectors and about 200 bytes per entry).

    Models over it also remember the keys of the last texts: a quarter of the limit is theirs.
    """

    volatile = True

    def __init__(self, *, max_bytes: int = 256 << 20) -> None:
        """Set the limit.

        Args:
            max_bytes: of vectors and entries over all models, and of remembered texts with their keys (a
                quarter); the least recently used are evicted.

        Raises:
            ValueError: a limit that is not positive.

        """
        if max_bytes <= 0:
            message = f"max_bytes must be positive, not {max_bytes}"
            raise ValueError(message)
        self.max_bytes = max_bytes
        self.remembered_keys: RememberedKeys = RememberedKeys(max_bytes // 4)
        self.vector_bytes: int = max_bytes - max_bytes // 4
        self._spaces: dict[ModelIdentity, MemorySpace] = {}
        self._lock = ForkLock()
        self._clock = 0

    def space(self, identity: ModelIdentity) -> MemorySpace:
        """Open the space of a model, the same object each time."""
        with self.locked():
            return self._spaces.setdefault(identity, MemorySpace(self))

    def spaces(self) -> list[ModelIdentity]:
        """List the identities that have entries."""
        return [identity for identity, space in list(self._spaces.items()) if space.slots]

    def close(self) -> None:
        """Forget everything."""
        self.remembered_keys.clear()
        with self.locked():
            for space in self._spaces.values():
                space.clear()

    def __repr__(self) -> str:
        """Name the class and the limit."""
        return f"{type(self).__name__}(max_bytes={self.max_bytes})"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the limit, not the vectors: memory belongs to one process."""
        return partial(type(self), max_bytes=self.max_bytes), ()

    def locked(self) -> ForkLock:
        """Return the one lock of the store and its spaces, for `with`.

        Raises ReentryError for a signal handler that has interrupted this thread under it.
        """
        self._lock.refuse_reentry()
        return self._lock

    def tick(self) -> int:
        """Return a stamp later than all before it."""
        self._clock += 1
        return self._clock

    def evict(self) -> None:
        """Forget the entries that have not been used for longest, if there are too many."""
        spaces = list(self._spaces.values())
        excess = sum(space.nbytes for space in spaces) - self.vector_bytes
        if excess > 0:
            self._forget_oldest(spaces, excess)
        if sum(space.held_bytes for space in spaces) > _HELD * self.vector_bytes:
            for space in spaces:
                space.shrink()

    def _forget_oldest(self, spaces: list[MemorySpace], excess: int) -> None:
        live = [np.fromiter(space.slots.values(), np.intp, len(space.slots)) for space in spaces]
        stamps = np.concatenate([s.stamps[at] for s, at in zip(spaces, live, strict=True)])
        sizes = np.repeat([space.entry_bytes for space in spaces], [len(at) for at in live])
        oldest = np.argsort(stamps, kind="stable")
        freed = np.cumsum(sizes[oldest])
        count = int(np.searchsorted(freed, excess + (1 - _KEEP) * self.vector_bytes)) + 1
        gone = np.zeros(len(stamps), bool)
        gone[oldest[:count]] = True
        ends = np.cumsum([len(at) for at in live])
        for space, at, end in zip(spaces, live, ends, strict=True):
            space.forget(at[gone[end - len(at) : end]])


class MemorySpace:
    """The vectors of one model: a matrix, and a dict from key to row (here: slot)."""

    volatile = True
    evicts = "It keeps itself within max_bytes=; `rm` and `clear` empty it."

    def __init__(self, store: MemoryStore) -> None:
        """Start empty, under the store's lock and limit."""
        self._store = store
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        # First what points to rows, here and below: Ctrl-C or no memory in between leaves misses.
        self.slots: dict[bytes, int] = {}
        self._free: list[int] = []
        self.stamps: NDArray[np.int64] = np.empty(0, np.int64)
        self._keys: list[bytes] = []
        self._vectors: Vectors = np.empty((0, 0), np.float32)

    @property
    def entry_bytes(self) -> int:
        """What one entry counts against the limit."""
        return int(self._vectors.shape[1]) * self._vectors.itemsize + _ENTRY_OVERHEAD

    @property
    def nbytes(self) -> int:
        """What all entries count against the limit."""
        return len(self.slots) * self.entry_bytes

    @property
    def held_bytes(self) -> int:
        """What all entries and free rows count."""
        return len(self._vectors) * self.entry_bytes

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Copy the found rows out, and mark them as used."""
        wanted = list(keys)
        with self._store.locked():
            return self._found(wanted)

    def glance(self, keys: list[bytes]) -> Hits | None:
        """Copy all rows out; None if one is not here, or another thread is at work here."""
        return if_free(self._store.locked(), partial(self._all_found, keys))

    def _all_found(self, keys: list[bytes]) -> Hits | None:
        return self._found(keys) if all(map(self.slots.__contains__, keys)) else None

    def _found(self, wanted: list[bytes]) -> Hits:
        if len(wanted) == 1 and (slot := self.slots.get(wanted[0])) is not None:
            self.stamps[slot] = self._store.tick()  # numpy on one key would cost more than all else
            return Hits(np.zeros(1, np.intp), self._vectors[slot : slot + 1].copy())
        at = np.fromiter(map(self.slots.get, wanted, repeat(-1)), np.intp, len(wanted))
        positions = np.flatnonzero(at >= 0)
        if not len(positions):
            return Hits.none()
        at = at if len(positions) == len(at) else at[positions]
        self.stamps[at] = self._store.tick()
        return Hits(positions, self._vectors.take(at, axis=0))

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:  # noqa: ARG002 - RAM is not durable
        """Copy rows in, then evict what is too much."""
        wanted = list(keys)
        check_shapes(key_matrix(wanted), vectors)
        row_bytes = vectors.shape[1] * vectors.itemsize + _ENTRY_OVERHEAD
        fitting = max(1, self._store.vector_bytes // row_bytes)
        with self._store.locked():
            check_dimension(self._vectors.shape[1] if self.slots else None, vectors, repr(self._store))
            self._insert(wanted[-fitting:], vectors[-fitting:])
            self._store.evict()

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Forget the keys; return how many of them were there."""
        with self._store.locked():
            at = [self.slots[key] for key in set(keys) if key in self.slots]
            self.forget(at)
        return len(at)

    def keys(self) -> Iterator[bytes]:
        """Iterate over the keys."""
        return iter(list(self.slots))

    def stats(self) -> SpaceStats:
        """Count entries and bytes."""
        dimension = self._vectors.shape[1] if self.slots else None
        return SpaceStats(len(self.slots), self.nbytes, int(bool(self.slots)), dimension)

    def __repr__(self) -> str:
        """Name the store."""
        return f"<a space of {self._store!r}>"

    def forget(self, slots: Iterable[int]) -> None:
        """Free slots; the caller holds the lock."""
        for slot in slots:
            del self.slots[self._keys[slot]]
            self._free.append(int(slot))

    def shrink(self) -> None:
        """Move the last rows to free ones, and give back the rest; the caller holds the lock."""
        count = len(self.slots)
        used = np.fromiter(self.slots.values(), np.intp, count)
        old, new = used[used >= count], np.setdiff1d(np.arange(count), used)
        keys = [self._keys[slot] for slot in old]
        self._free = []
        self.slots = {key: slot for key, slot in self.slots.items() if slot < count}
        self.stamps[new] = self.stamps[old]
        for key, source, slot in zip(keys, old, new, strict=True):  # one by one: no copy of many rows
            self._keys[slot], self._vectors[slot] = key, self._vectors[source]
        self._vectors.resize((count, self._vectors.shape[1]), refcheck=False)  # in place, as it grows
        self.stamps, self._keys = self.stamps[:count].copy(), self._keys[:count]
        self.slots.update(zip(keys, new.tolist(), strict=True))

    def _insert(self, keys: list[bytes], vectors: Vectors) -> None:
        fresh = list(dict.fromkeys(key for key in keys if key not in self.slots))
        self._make_room(len(fresh), vectors)
        new = {key: self._free.pop() for key in fresh}
        at = np.array([new[key] if key in new else self.slots[key] for key in keys], np.intp)
        for key, slot in new.items():
            self._keys[slot] = key
        self._vectors[at] = vectors
        self.stamps[at] = self._store.tick()
        self.slots.update(new)  # last: Ctrl-C before it leaves misses, never a slot without its vector

    def _make_room(self, count: int, vectors: Vectors) -> None:
        dtype = np.result_type(self._vectors, vectors)
        if not self.slots and self._vectors.shape[1] != vectors.shape[1]:
            self.clear()
            self._vectors = np.empty((0, vectors.shape[1]), dtype)
        if dtype != self._vectors.dtype:
            self._vectors = self._vectors.astype(dtype)
        missing = count - len(self._free)
        if missing <= 0:
            return
        old = max(len(self._keys), len(self.stamps), len(self._vectors))
        new = old + max(missing, old // 16)
        # In place: a copy would hold old and new at once. No view of the matrix leaves the lock.
        self._vectors.resize((new, vectors.shape[1]), refcheck=False)
        self.stamps = np.concatenate([self.stamps, np.zeros(new - len(self.stamps), np.int64)])
        self._keys.extend([b""] * (new - len(self._keys)))
        self._free.extend(range(new - 1, old - 1, -1))
