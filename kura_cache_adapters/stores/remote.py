"""Remote: a guard around a store on a server, which may be dead, slow or lying."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from weakref import WeakSet

import numpy as np

from kura_cache_adapters._guard.backlog import BATCH, Backlog, empty
from kura_cache_adapters._guard.breaker import Breaker
from kura_cache_adapters._guard.guard import Guard
from kura_cache_adapters._runtime.ending import at_end
from kura_cache_adapters._runtime.fork import ForkLock
from kura_cache_adapters._runtime.members import members
from kura_cache_adapters._runtime.signals import suppressed
from kura_cache_adapters._runtime.threads import LONGEST
from kura_cache_adapters.checks import check_dimension, check_shapes, key_matrix
from kura_cache_adapters.errors import UnreachableError
from kura_cache_adapters.protocols import Hits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from kura_cache_adapters._observe.events import Observer
    from kura_cache_adapters._observe.tiers import TierStats
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore, SpaceStats, Vectors, VectorSpace

_BACKLOG = 64 << 20  # bytes
_FLUSH = 5.0  # seconds, at close and at exit
_CLOSING = 1.0  # seconds for connections to be closed
_BREAKER = Breaker()
_open: WeakSet[Remote] = WeakSet()


class Remote:
    """Guard a store: its look-ups and writes end in time and never raise, whatever the server does.

    What fails is a miss, or is not stored. A server that has not answered in time, or with errors, is left
    alone for a while: calls go on without it at once, until one of them, in a thread, finds it well.
    What an operator asks (`spaces`, `keys`, `stats`, deleting) does raise.
    """

    remote: ClassVar[bool] = True

    def __init__(
        self,
        store: EmbeddingStore,
        *,
        read_timeout: float = 0.25,
        connect_timeout: float = 1.0,
        write: Literal["behind", "through", "never"] = "behind",
        breaker: Breaker = _BREAKER,
    ) -> None:
        """Guard a store; nothing is asked yet.

        Args:
            store: on a server; it is closed with the guard.
            read_timeout: seconds for a look-up or a write, and 50 microseconds for each of its keys.
            connect_timeout: further seconds for the first call, after a failure, or to connect PostgreSQL.
            write: "behind" writes in a thread: at most 64 MiB wait, and what has not been written 5 seconds
                after `close`, or the end of the process, is dropped. "through" waits for each write, and
                does the rest behind only when that fails. "never" writes nothing.
            breaker: when the server is left alone, and for how long.

        Raises:
            ValueError: a time-out that is not positive, or endless; another word for `write`.

        """
        timely = all(0 < each < LONGEST for each in (read_timeout, connect_timeout))
        if not timely or write not in {"behind", "through", "never"}:
            message = (
                f"Remote needs time-outs above 0 and below {LONGEST:g} s, and write='behind', 'through' or "
                f"'never', not {read_timeout}, {connect_timeout} and {write!r}"
            )
            raise ValueError(message)
        self.store = store
        self.write = write
        self._options: dict[str, Any] = {
            "read_timeout": read_timeout,
            "connect_timeout": connect_timeout,
            "write": write,
            "breaker": breaker,
        }
        self.guard: Guard = Guard(store, breaker, read_timeout=read_timeout, connect_timeout=connect_timeout)
        self.backlog: Backlog = Backlog(self.guard, _BACKLOG)
        self._spaces: dict[ModelIdentity, RemoteSpace] = {}
        self._lock = ForkLock()
        _open.add(self)

    @property
    def stores(self) -> tuple[EmbeddingStore, ...]:
        """The store itself, for whoever cleans or verifies it; what waits has been written, if it can be."""
        self.backlog.flush(_FLUSH)
        return (self.store,)

    def space(self, identity: ModelIdentity) -> RemoteSpace:
        """Open the space of a model, the same object each time; the server is not asked yet."""
        with self._lock:
            if identity not in self._spaces:
                self._spaces[identity] = RemoteSpace(self, identity)
            return self._spaces[identity]

    def spaces(self) -> list[ModelIdentity]:
        """List the identities that the store has; raise what it raises."""
        self.settle()
        return self.store.spaces()

    def close(self) -> None:
        """Write what waits, for 5 seconds at most, and close the store; what is left is dropped."""
        self.flush()
        for space in list(self._spaces.values()):
            space.shut()
        with suppressed(Exception):  # of a store on a dead server
            self.guard.within(_CLOSING, self.store.close)

    def flush(self) -> None:
        """Write what waits, for 5 seconds at most; what is left is dropped, and owed by a tier in front."""
        empty([self.backlog], _FLUSH)

    def settle(self) -> None:
        """Write what waits; raise UnreachableError where that fails."""
        if not self.backlog.flush(_FLUSH):
            message = f"{self!r} does not take what waits to be written to it"
            raise UnreachableError(message)

    def withdraw(self, keys: Collection[bytes]) -> None:
        """Write what waits; of what cannot be written now, write these keys no more."""
        if not self.backlog.flush(_FLUSH):
            for space in list(self._spaces.values()):
                space.withdraw(keys)

    def tier_stats(self) -> tuple[TierStats, ...]:
        """Tell what it has answered in this process, see `TierStats`."""
        return (self.guard.stats(),)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the store and the options, never what waits."""
        return _remote, (type(self), self.store, self._options)

    def __repr__(self) -> str:
        """Name the class and the store."""
        return f"{type(self).__name__}({self.store!r})"


def _remote(kind: type[Remote], store: EmbeddingStore, options: dict[str, Any]) -> Remote:
    return kind(store, **options)


class RemoteSpace:
    """The vectors of one model on a server."""

    remote: ClassVar[bool] = True

    def __init__(self, remote: Remote, identity: ModelIdentity) -> None:
        """Name the space; the first call opens it."""
        self._remote, self._identity = remote, identity
        self._guard, self._backlog = remote.guard, remote.backlog
        self._waiting = self._backlog.space(self._write)
        self.shut()

    def shut(self) -> None:
        """Forget what was known of an open space."""
        self._opened: VectorSpace | None = None
        self._dimension: int | None = None

    @property
    def tiers(self) -> tuple[VectorSpace, ...]:
        """The store's own space, for whoever cleans it; what waits has been written, if it can be."""
        self._backlog.flush(_FLUSH)
        return (self._own(),)

    @property
    def ready(self) -> bool:
        """Whether it takes more than what is stored anew: what it was owed."""
        well = self._remote.write != "never" and self._guard.circuits["write"].closed
        return well and self._backlog.nbytes < self._backlog.most // 2

    def dropped(self) -> set[bytes]:
        """Return the keys that were taken and not written since the last call."""
        gone = self._waiting.dropped.copy()
        self._waiting.dropped.difference_update(gone)  # in place: another thread may be adding to it
        return gone

    def unwritten(self, keys: Collection[bytes], tell: Callable[[int, int], object]) -> set[bytes]:
        """Return those of the keys, just put, that the server has not; see `TellsUnwritten`."""
        if self._remote.write == "never":
            return set(keys)
        return self._backlog.unwritten(self._waiting, keys, tell)

    def withdraw(self, keys: Collection[bytes]) -> None:
        """Write these no more, if they wait."""
        self._backlog.withdraw(self._waiting, keys)

    def watch(self, observer: Observer) -> None:
        """Tell an observer, for as long as it lives, when the server is left alone or found well."""
        self._guard.watchers.add(observer)

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Look keys up in what waits to be written, and on the server; nothing is found where that fails."""
        wanted = list(keys)
        if self._waiting.rows:
            return self._beside_waiting(wanted)
        return self._ask(wanted)

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:  # noqa: ARG002 - the server decides
        """Write vectors, or have them written; where the server has none of them later, they are `dropped`.

        The first ones are waited for, so that a space of another dimension is known of.
        """
        wanted = list(keys)
        check_shapes(key_matrix(wanted), vectors)
        if not wanted or self._remote.write == "never":
            return
        check_dimension(self._dimension, vectors, repr(self))
        behind = BATCH if self._dimension is None else 0
        waits = behind if self._remote.write == "behind" else len(wanted)
        done = self._write_through(wanted[:waits], vectors[:waits])
        self._dimension = vectors.shape[1]
        self._waiting.dropped.difference_update(wanted[:done])
        if done < len(wanted):
            at_end(_flush_all)
            self._backlog.add(self._waiting, wanted[done:], vectors[done:])

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Delete from the server, and of what waits; raise where that cannot be done."""
        doomed = list(keys)
        if not self._backlog.flush(_FLUSH):
            self.withdraw(doomed)
        return self._guard.require(lambda: self._own().delete_many(doomed), len(doomed)) if doomed else 0

    def keys(self) -> Iterator[bytes]:
        """Iterate over the distinct keys on the server."""
        self._remote.settle()
        return self._own().keys()

    def stats(self) -> SpaceStats:
        """Count what the server holds."""
        self._remote.settle()
        return self._own().stats()

    def __repr__(self) -> str:
        """Name the store."""
        return f"<a space of {self._remote!r}>"

    def _own(self) -> VectorSpace:
        if self._opened is None:
            self._opened = self._remote.store.space(self._identity)
        return self._opened

    def _load(self, keys: list[bytes]) -> Hits:
        return self._own().get_many(keys).checked(len(keys))

    def _write(self, keys: list[bytes], vectors: Vectors) -> bool:
        self._own().put_many(keys, vectors)
        return True

    def _ask(self, wanted: list[bytes]) -> Hits:
        hits = self._guard.ask("read", partial(self._load, wanted), len(wanted)) if wanted else None
        if hits is None:
            return Hits.none()
        found = len(hits.positions)
        another = self._dimension not in {None, hits.vectors.shape[1]}
        if found and another:  # another model's, under these keys
            hits, found = Hits.none(hits.invalid + found), 0
        self._guard.count(hits=found, misses=len(wanted) - found)
        return hits

    def _beside_waiting(self, wanted: list[bytes]) -> Hits:
        rows = [self._waiting.rows.get(key) for key in wanted]
        here = {at: row for at, row in enumerate(rows) if row is not None}
        there = [at for at, row in enumerate(rows) if row is None]
        hits = self._ask([wanted[at] for at in there])
        if not here:
            return hits
        found = {there[at]: vector for at, vector in zip(hits.positions, hits.vectors, strict=True)} | here
        positions = sorted(found)
        return Hits(np.array(positions, np.intp), np.stack([found[at] for at in positions]), hits.invalid)

    def _write_through(self, keys: list[bytes], vectors: Vectors) -> int:
        """Write in batches until one fails; return how many were written."""
        for start in range(0, len(keys), BATCH):
            some = keys[start : start + BATCH], vectors[start : start + BATCH]
            well = all(circuit.closed for circuit in self._guard.circuits.values())
            if not well or not self._guard.ask("write", partial(self._write, *some), len(some[0])):
                return start
        return len(keys)


def _flush_all() -> None:
    empty([each.backlog for each in members(_open)], _FLUSH)
