"""KeyValueSpace: the vectors of one model in whatever keeps one value per key."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from kura_cache_adapters._core.vectors import narrowed
from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import pass_on_signals, suppressed
from kura_cache_adapters.checks import check_dimension, check_shapes, key_matrix
from kura_cache_adapters.protocols import Hits, SpaceStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kura_cache_adapters.protocols import Vectors

_ASKED = 8  # entries that are read before the first write, to know the dimension of what is there

_logger = logger_of("store")

ValueT = TypeVar("ValueT")


class Codec(Protocol[ValueT]):
    """How an entry travels: the module `kura_cache_adapters.stores.entry` is one, whose values are bytes."""

    def encode(self, key: bytes, vector: Vectors, /) -> ValueT:
        """Return what is kept of a vector, shape (D,), under its key."""

    def decode(self, key: bytes, value: ValueT, /) -> Vectors:
        """Return the vector, shape (D,), bit for bit; raise ValueError for what is not the key's."""


class KeyValueSpace(Generic[ValueT]):
    """A space over three functions that read, write and delete values by key, a batch at a time."""

    def __init__(  # noqa: PLR0913 - three functions, and how their values are meant
        self,
        read_many: Callable[[list[bytes]], Iterable[ValueT | Exception | None]],
        write_many: Callable[[dict[bytes, ValueT]], object],
        delete_many: Callable[[list[bytes]], int],
        *,
        codec: Codec[ValueT],
        where: object,
        keys: Callable[[], Iterable[bytes]] = tuple,
        some: Callable[[], Iterable[bytes]] | None = None,
    ) -> None:
        """Take the functions; nothing is read yet. None of them is called without keys.

        Args:
            read_many: returns one value per key, in their order: None where there is none, and the
                exception where one is there that cannot be read. What it raises is raised.
            write_many: keeps values by key; returns when they outlive this process.
            delete_many: forgets keys; returns how many of them were there.
            codec: what makes values of vectors, and vectors of values.
            where: what the values are in; messages show its repr.
            keys: lists the keys of this space; without, there are none to be counted.
            some: lists a few of them, where that is cheaper: for the dimension of what is there.

        """
        self._read, self._write, self._delete, self._keys = read_many, write_many, delete_many, keys
        self._some = some or keys
        self.countable: bool = keys is not tuple
        self.volatile: bool = False
        self._codec = codec
        self._where = where
        self._dimension: int | None = None
        self._log = OnceLog(_logger)

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Read values and decode them; one that does not fit its key or the space is invalid."""
        wanted = list(keys)
        key_matrix(wanted)
        values = zip(wanted, self._read(wanted) if wanted else (), strict=True)
        there = [(at, key, value) for at, (key, value) in enumerate(values) if value is not None]
        read = [(at, self._vector(key, value)) for at, key, value in there]
        found: dict[int, Any] = {at: vector for at, vector in read if vector is not None}
        invalid = len(there) - len(found)
        if not found:
            return Hits.none(invalid)
        return Hits(np.fromiter(found, np.intp), narrowed(np.stack([*found.values()])), invalid)

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:  # noqa: ARG002 - what keeps the values decides
        """Encode vectors and write them, in one batch."""
        wanted = list(keys)
        check_shapes(key_matrix(wanted), vectors)
        if not wanted:
            return
        if self._dimension is None:  # what another process has stored has one
            with suppressed(OSError):
                self.get_many(islice(self._some(), _ASKED))
        check_dimension(self._dimension, vectors, repr(self._where))
        encode = self._codec.encode
        self._write({key: encode(key, vector) for key, vector in zip(wanted, vectors, strict=True)})
        self._dimension = vectors.shape[1]

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Forget the keys; return how many of them were there."""
        doomed = list(dict.fromkeys(keys))
        return self._delete(doomed) if doomed else 0

    def keys(self) -> Iterator[bytes]:
        """Iterate over the distinct keys, as far as they can be listed."""
        return iter(dict.fromkeys(self._keys()))

    def stats(self) -> SpaceStats:
        """Count the entries, as far as they can be listed; their bytes are not known here."""
        count = len([*self.keys()])
        return SpaceStats(count, 0, count, self._dimension)

    def __repr__(self) -> str:
        """Name what the values are in."""
        return f"<a space in {self._where!r}>"

    def _vector(self, key: bytes, value: ValueT | Exception) -> Vectors | None:
        """Decode a value that is there; None when it does not fit."""
        if isinstance(value, Exception):
            self._report(value)
            return None
        try:
            vector = self._codec.decode(key, value)
        except ValueError as error:
            pass_on_signals(error)
            self._report(error)
            return None
        return vector if self._fits(vector) else None

    def _report(self, error: Exception) -> None:
        self._log.report("read", "Could not read an entry from %r: %s", self._where, describe(error))
        _logger.debug("It could not be read because of this", exc_info=error)

    def _fits(self, vector: Vectors) -> bool:
        if not len(vector) or not np.isfinite(vector).all():
            return False
        self._dimension = self._dimension or len(vector)
        return len(vector) == self._dimension
