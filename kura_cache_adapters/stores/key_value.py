"""KeyValueSpace: the vectors of one model in whatever keeps one value per key."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

import numpy as np

from kura_cache_adapters._core.vectors import finite_rows, narrowed
from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import suppressed
from kura_cache_adapters._segments.rows import chunk_rows
from kura_cache_adapters.checks import check_dimension, check_keys, check_shapes
from kura_cache_adapters.protocols import Hits, SpaceStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from kura_cache_adapters.protocols import Vectors

_ASKED = 8  # entries that are read before the first write, to know the dimension of what is there

_LARGE = 1536  # a dimension, where it is not known yet
_MISCOUNTED = "not as many values were read as keys were asked for"
_UNFIT = "of them are damaged, another key's, of another signature, version or dimension"

_logger = logger_of("store")

ValueT = TypeVar("ValueT")


class Codec(Protocol[ValueT]):
    """How entries travel: the module `kura_cache_adapters.stores.entry` is one, whose values are bytes."""

    def encode_many(self, keys: Sequence[bytes], vectors: Vectors, /) -> Sequence[ValueT]:
        """Return what is kept of vectors, shape (N, D), under their keys."""

    def decode_many(
        self, keys: Sequence[bytes], values: Sequence[ValueT], /, *, dimension: int | None = None
    ) -> Hits:
        """Find the vectors, bit for bit; what is not its key's, or of another dimension, is invalid."""


class _Answer:
    """Hits of some keys after the others, each copied to its place while it is in the processor's cache."""

    def __init__(self, asked: int) -> None:
        """Make room for the hits of so many keys; no vector's is taken before the first hit."""
        self._positions = np.empty(asked, np.intp)
        self._vectors: Vectors = np.empty((0, 0), np.float32)
        self._count = self._invalid = 0

    def add(self, start: int, hits: Hits) -> None:
        """Append the hits of keys from `start` on; those of another dimension than the first are invalid."""
        self._invalid += hits.invalid
        new, vectors = len(hits.positions), hits.vectors
        if new and not self._count:
            self._vectors = np.empty((len(self._positions), vectors.shape[1]), vectors.dtype)
        elif new and vectors.shape[1] != self._vectors.shape[1]:
            self._invalid, new = self._invalid + new, 0
        if not new:
            return
        with np.errstate(invalid="ignore"):  # where nothing is yet there may be any bits
            self._vectors = self._vectors.astype(np.result_type(self._vectors, vectors), copy=False)
        part = slice(self._count, self._count + new)
        self._positions[part], self._vectors[part] = start + hits.positions, vectors
        self._count += new

    def hits(self) -> Hits:
        """Return them, float64 as float32 where that loses nothing; give back what was mostly not needed."""
        found = slice(self._count)
        vectors = narrowed(self._vectors[found])
        sparse = 2 * self._count < len(self._positions)
        return Hits(self._positions[found], vectors.copy() if sparse else vectors, self._invalid)


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
        sample: Callable[[], Iterable[bytes]] | None = None,
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
            sample: names entries that tell the dimension, where listing all keys takes long; without,
                the first few keys do.

        """
        self._sample_keys = sample or keys
        self._read, self._write, self._delete, self._keys = read_many, write_many, delete_many, keys
        self.countable: bool = keys is not tuple
        self._codec = codec
        self._where = where
        self._dimension: int | None = None
        self._log = OnceLog(_logger)

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Read values and decode them; one that does not fit its key or the space is invalid."""
        wanted = list(keys)
        check_keys(wanted)
        values, answer = iter(self._read(wanted) if wanted else ()), _Answer(len(wanted))
        at = 0
        while keys := wanted[at : at + self._step]:
            answer.add(at, self._decoded(keys, [*islice(values, len(keys))]))
            at += len(keys)
        if next(values, values) is not values:
            raise ValueError(_MISCOUNTED)
        return answer.hits()

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:  # noqa: ARG002 - what keeps the values decides
        """Encode vectors and write them, in one batch."""
        wanted = list(keys)
        check_keys(wanted)
        check_shapes(wanted, vectors)
        if not wanted:
            return
        self._look_at(self._sample_keys)  # what another process has stored has a dimension
        check_dimension(self._dimension, vectors, repr(self._where))
        self._write(dict(zip(wanted, self._codec.encode_many(wanted, vectors), strict=True)))
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
        there = [*self.keys()]
        self._look_at(lambda: there)
        return SpaceStats(len(there), 0, len(there), self._dimension)

    def __repr__(self) -> str:
        """Name what the values are in."""
        return f"<a space in {self._where!r}>"

    @property
    def _step(self) -> int:
        """How many values to decode at a time, and stay in the processor's cache."""
        return chunk_rows(4 * (self._dimension or _LARGE))

    def _look_at(self, keys: Callable[[], Iterable[bytes]]) -> None:
        """Read a few of the entries, unless the dimension is known."""
        if self._dimension is None:
            with suppressed(OSError):
                self.get_many(islice(keys(), _ASKED))

    def _decoded(self, keys: list[bytes], values: list[ValueT | Exception | None]) -> Hits:
        """Decode the values that are there."""
        if len(values) != len(keys):
            raise ValueError(_MISCOUNTED)
        kinds = {*map(type, values)}  # most often there is one, and nothing to be left out
        if type(None) not in kinds and not any(issubclass(kind, Exception) for kind in kinds):
            return self._fitting(keys, cast("list[ValueT]", values))
        broken = [value for value in values if isinstance(value, Exception)]
        for error in broken[:1]:
            self._report(describe(error))
            _logger.debug("They could not be read because of this", exc_info=error)
        whole = [at for at, each in enumerate(values) if not (each is None or isinstance(each, Exception))]
        hits = self._fitting([keys[at] for at in whole], [cast("ValueT", values[at]) for at in whole])
        positions = np.array(whole, np.intp)[hits.positions]
        return Hits(positions, hits.vectors, hits.invalid + len(broken))

    def _fitting(self, keys: list[bytes], values: list[ValueT]) -> Hits:
        """Decode values; leave out what is no vector of this space."""
        hits = self._codec.decode_many(keys, values, dimension=self._dimension)
        finite = finite_rows(hits.vectors)
        if not finite.all():
            lost = len(finite) - int(finite.sum())
            hits = Hits(hits.positions[finite], hits.vectors[finite], hits.invalid + lost)
        if hits.invalid:
            self._report(f"{hits.invalid} {_UNFIT}")
        if len(hits.positions):
            self._dimension = hits.vectors.shape[1]
        return hits

    def _report(self, reason: str) -> None:
        self._log.report("read", "Could not read entries from %r: %s", self._where, reason)
