"""PostgresStore: vectors in two tables of a PostgreSQL database, which any number of machines share."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from kura_cache_adapters._observe.log import describe
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters._runtime.threads import LONGEST, submit_transfer
from kura_cache_adapters.errors import require
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.protocols import SpaceStats
from kura_cache_adapters.spaces import Part
from kura_cache_adapters.stores.key_value import KeyValueSpace
from kura_cache_adapters.stores.signing import codec_for

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from psycopg_pool import ConnectionPool

    from kura_cache_adapters.stores.key_value import Codec
    from kura_cache_adapters.stores.postgres_connections import Connections
    from kura_cache_adapters.stores.postgres_statements import Statements

_logger = logger_of("store")

_KEYS_AT_ONCE = 20_000  # listed by one query
_DAY_0 = datetime(2000, 1, 1, tzinfo=timezone.utc)
_SAMPLE = 8  # of them tell the dimension
_PATIENCE = 600.0  # seconds for what reads or deletes all of a space

_T = TypeVar("_T")


class PostgresStore:
    """Keep vectors in PostgreSQL, as `kura_cache_adapters.stores.entry` writes them.

    The first write makes the tables where they are missing; reading needs SELECT alone, and changes nothing:
    `prune` knows when a row was written, and not when it was used.
    """

    remote: ClassVar[bool] = True
    takes_url: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        conninfo_or_pool: str | ConnectionPool[Any],
        /,
        *,
        schema: str | None = None,
        table: str = "kura_cache",
        timeout: float = 10.0,
        connect_timeout: float = 2,
        batch: int = 1024,
        sign: str | bytes | None = None,
    ) -> None:
        """Say where the tables are; nothing is opened yet.

        Args:
            conninfo_or_pool: `postgresql://user:password@host/database`, or whatever else libpq reads. A
                `psycopg_pool.ConnectionPool` that is open stays its owner's: its deadlines hold, not those
                that are said here. Pickled, and in a forked child, the store connects by the pool's conninfo.
            schema: of the tables; the first in the search path without.
            table: of the entries; `<table>_spaces` says whose they are.
            timeout: in seconds, for each query; in another second at most the server is asked to give it up.
            connect_timeout: in seconds, for a new connection to each host; 2 is libpq's least, and it knows
                whole ones alone.
            batch: keys that are asked for by one query; a quarter as many entries are written by one.
            sign: a secret, at least 16 bytes: entries are signed with it, and those that are not are misses.

        Raises:
            ValueError: what cannot be an address, a number that is not positive, an endless time, a secret
                below 16 bytes; MissingExtraError without the extra `postgres`.

        """
        if batch < 1 or not all(0 < each < LONGEST for each in (timeout, connect_timeout)):
            message = f"{batch=}, {timeout=} and {connect_timeout=} must be positive, and not endless"
            raise ValueError(message)
        require("psycopg", extra="postgres")
        from kura_cache_adapters.stores.postgres_connections import Connections  # noqa: PLC0415 - needs psycopg
        from kura_cache_adapters.stores.postgres_statements import Statements  # noqa: PLC0415 - likewise

        self._options = {
            "schema": schema,
            "table": table,
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "batch": batch,
            "sign": sign,
        }
        self.batch: int = batch
        self.codec: Codec[bytes] = codec_for(sign)
        self.connections: Connections = Connections(
            conninfo_or_pool, timeout=timeout, connect_timeout=connect_timeout
        )
        self.statements: Statements = Statements.over(table, schema)
        self._spaces: dict[ModelIdentity, PostgresSpace] = {}

    def space(self, identity: ModelIdentity) -> PostgresSpace:
        """Open the space of a model, the same object each time."""
        if identity not in self._spaces:
            self._spaces.setdefault(identity, PostgresSpace(self, identity))
        return self._spaces[identity]

    def spaces(self) -> list[ModelIdentity]:
        """List the identities that have entries; a row that tells none is ignored, with a warning."""
        rows = self.connections.rows(self.statements.spaces)
        return [identity for (text,) in rows if (identity := _identity_in(text)) is not None]

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        self.connections.close()

    def disconnect(self, before: float) -> None:
        """Close idle connections that have not answered since, by `time.monotonic`: they may lead nowhere."""
        self.connections.close(before=before)

    @property
    def connected(self) -> bool:
        """Whether a connection lies idle, so that a call need not make one first."""
        return self.connections.ready

    def __repr__(self) -> str:
        """Name the server, the database and the tables; never a password."""
        named = ("schema", "table")
        told = "".join(
            f", {name}={self._options[name]!r}" for name in named if self._options[name] is not None
        )
        return f"{type(self).__name__}({str(self.connections)!r}{told})"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the address, with its password, and the options; never a connection."""
        return _opened, (self.connections.conninfo, self._options)


def _opened(conninfo: str, options: Mapping[str, Any]) -> PostgresStore:
    return PostgresStore(conninfo, **options)


def _number_of(identity: ModelIdentity) -> int:
    """Return what stands for an identity in rows: any process finds it without asking."""
    return int.from_bytes(bytes.fromhex(identity.digest[:16]), "big", signed=True)


def _identity_in(text: str) -> ModelIdentity | None:
    try:
        return ModelIdentity.from_json(text)
    except ValueError as error:
        pass_on_signals(error)
        _logger.warning("Ignored an identity in the table of spaces: %s", describe(error))
        return None


class PostgresSpace(KeyValueSpace[bytes]):
    """The vectors of one model: the rows with its number. Its parts are days, by UTC."""

    def __init__(self, store: PostgresStore, identity: ModelIdentity) -> None:
        """Take the store that it is in; nothing is asked yet."""
        super().__init__(
            self._values,
            self._replace,
            self._forget,
            keys=self._all_keys,
            sample=self._first_keys,
            codec=store.codec,
            where=store,
        )
        self._connections, self._statements = store.connections, store.statements
        self._batch = store.batch
        self._named = {"space": _number_of(identity), "identity": identity.to_json()}
        self._space = {"space": self._named["space"]}

    def keys(self) -> Iterator[bytes]:
        """Iterate over the keys, in their order; no transaction lasts from one to the next."""
        return self._all_keys()

    def stats(self) -> SpaceStats:
        """Count the rows, and the bytes of keys and values."""
        parts = self.parts()
        self._look_at(self._first_keys)
        return SpaceStats(
            sum(part.entries for part in parts),
            sum(part.nbytes for part in parts),
            len(parts),
            self._dimension if parts else None,
        )

    def parts(self) -> list[Part]:
        """List the days on which rows were written, oldest first; no use is known."""
        rows = self._connections.rows(self._statements.days, self._space, seconds=_PATIENCE)
        return [_part(*row) for row in rows]

    def drop_parts(self, names: Collection[str]) -> list[Part]:
        """Delete the rows of days; return those that went."""
        return [self._drop(part) for part in self.parts() if part.name in names]

    def compact(self) -> tuple[list[Part], list[Part]]:
        """Do nothing: the server's autovacuum does."""
        return [], []

    def remove(self) -> list[Part]:
        """Delete all rows; return the days that went."""
        gone = self.drop_parts({part.name for part in self.parts()})
        self._dimension = None
        return gone

    def _drop(self, part: Part) -> Part:
        day = {**self._space, "day": part.name}
        return replace(part, entries=self._connections.changed(self._statements.drop, day, seconds=_PATIENCE))

    def _values(self, keys: list[bytes]) -> Iterator[bytes | None]:
        batches = [*_batches(keys, self._batch)]
        asked = (partial(self._rows, some) for some in batches)
        for some, rows in zip(batches, _one_ahead(asked), strict=True):
            yield from map(dict(rows).get, some)

    def _rows(self, keys: list[bytes]) -> list[tuple[Any, ...]]:
        return self._connections.rows(self._statements.read, {**self._space, "keys": keys})

    def _replace(self, entries: dict[bytes, bytes]) -> None:
        for some in _batches(sorted(entries), self._batch // 4 or 1):
            told = {**self._named, "keys": some, "values": [entries[key] for key in some]}
            self._connections.changed(self._statements.write, told, make=self._statements.make)

    def _forget(self, keys: list[bytes]) -> int:
        return sum(
            self._connections.changed(self._statements.delete, {**self._space, "keys": some})
            for some in _batches(keys, self._batch)
        )

    def _all_keys(self) -> Iterator[bytes]:
        after = b""
        while page := self._keys_behind(after, _KEYS_AT_ONCE):
            yield from page
            after = page[-1]

    def _first_keys(self) -> list[bytes]:
        return self._keys_behind(b"", _SAMPLE)

    def _keys_behind(self, after: bytes, most: int) -> list[bytes]:
        page = {**self._space, "after": after, "limit": most}
        return [key for (key,) in self._connections.rows(self._statements.keys, page)]


def _one_ahead(calls: Iterator[Callable[[], _T]]) -> Iterator[_T]:
    """Yield what calls return; the next is under way in a thread while the last is used."""
    answer = next(calls)()
    for call in calls:
        begun = submit_transfer(call)
        yield answer
        answer = (
            call() if begun.cancel() else begun.result()
        )  # no thread was free: they may all wait for theirs
    yield answer


def _batches(keys: list[bytes], size: int) -> Iterator[list[bytes]]:
    return (keys[at : at + size] for at in range(0, len(keys), size))


def _part(stored_on: int, entries: int, nbytes: int) -> Part:
    day = _DAY_0 + timedelta(days=stored_on)
    over = day + timedelta(days=1)
    return Part(day.date().isoformat(), entries, nbytes, min(over, datetime.now(timezone.utc)), None)
