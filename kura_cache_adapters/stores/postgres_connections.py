"""Connections to PostgreSQL: one for each thread that asks, with a deadline, and none that a fork shares."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from math import ceil, inf
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from kura_cache_adapters._runtime.signals import pass_on_signals, suppressed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from psycopg_pool import ConnectionPool

_IDLE = 8  # connections that stay open
_GIVING_UP = 1.0  # seconds for the server to hear of it
_OF_CONNECTION = (
    "08",
    "25006",
    "40",
    "57P",
)  # lost; read-only; rolled back; shut down, crashed, idle too long
_KEPT_ALIVE = {  # seconds: a firewall forgets who is silent, and a host that is gone is found out
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
_SHOWN = ("host", "hostaddr", "port", "dbname", "user", "service")

_T = TypeVar("_T")


class Connections:
    """Asks a server over connections of its own, or a pool's; those that have died idle are made anew."""

    def __init__(
        self, conninfo_or_pool: str | ConnectionPool[Any], *, timeout: float, connect_timeout: float
    ) -> None:
        """Read a URL or a `key=value` string; nothing is opened. Raises ValueError for what is neither."""
        pool = conninfo_or_pool
        self._pool = None if isinstance(pool, str) else pool
        told = pool if isinstance(pool, str) else pool.conninfo
        self.conninfo: str = str(told() if callable(told) else told)
        self._settings: dict[str, Any] = {
            "connect_timeout": ceil(connect_timeout),
            **_KEPT_ALIVE,
            "fallback_application_name": "kura-cache-adapters",
            **_read(self.conninfo),
        }
        self._timeout = timeout
        self._idle: list[_Timed] = []
        self._owner = os.getpid()

    @property
    def ready(self) -> bool:
        """Whether one lies idle; a pool's are its owner's matter."""
        return bool(self._idle) or self._pool is not None

    def rows(
        self, query: str, parameters: Mapping[str, Any] | None = None, *, seconds: float | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the rows that a query finds; none where its table is missing. Raises what `told` does."""

        def fetch(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
            try:
                return _execute(connection, query, parameters).fetchall()
            except psycopg.errors.UndefinedTable:
                return []

        return self._run(fetch, seconds)

    def changed(
        self, query: str, parameters: Mapping[str, Any], *, make: str = "", seconds: float | None = None
    ) -> int:
        """Return how many rows a statement has changed; tables that are missing are made, if it is said how.

        Raises what `told` does.
        """

        def change(connection: psycopg.Connection[Any]) -> int:
            try:
                return _execute(connection, query, parameters).rowcount
            except psycopg.errors.UndefinedTable:
                if not make:
                    return 0
            connection.rollback()
            connection.execute(make)
            return _execute(connection, query, parameters).rowcount

        return self._run(change, seconds)

    def close(self, *, before: float = inf) -> None:
        """Close what is idle, and has not answered since a moment of `time.monotonic`."""
        self._begin_anew_in_child()
        idle = [*self._lent()][::-1]
        for connection in idle:
            if connection.answered < before:
                connection.close()
        self._idle += [each for each in idle if not each.closed]

    def __repr__(self) -> str:
        """Say which server, database and user; never a password."""
        return make_conninfo("", **{name: self._settings[name] for name in _SHOWN if name in self._settings})

    def _run(self, work: Callable[[psycopg.Connection[Any]], _T], seconds: float | None) -> _T:
        """Do work that may be done twice."""
        with told(self):
            self._begin_anew_in_child()
            if self._pool is not None:
                with self._pool.connection() as connection:
                    return work(connection)
            patience = self._timeout if seconds is None else seconds
            connection = self._lend()
            try:
                return self._use(connection, work, patience)
            except psycopg.Error as error:
                pass_on_signals(error)
                if not _is_of_connection(error):
                    raise
                self.close()
            return self._use(self._lend(), work, patience)

    def _begin_anew_in_child(self) -> None:
        """Leave to the parent what is its own: sockets, and a pool, whose threads no child has."""
        if self._owner != os.getpid():
            self._idle, self._pool, self._owner = [], None, os.getpid()

    def _lend(self) -> _Timed:
        return next(self._lent(), None) or _Timed.connect(autocommit=True, **self._settings)

    def _use(self, connection: _Timed, work: Callable[[psycopg.Connection[Any]], _T], seconds: float) -> _T:
        connection.deadline = monotonic() + seconds
        try:
            answer = work(connection)
        except BaseException as error:
            if isinstance(error, TimeoutError):
                connection.give_up()
            connection.close()
            raise
        connection.answered = monotonic()
        if len(self._idle) < _IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _lent(self) -> Iterator[_Timed]:
        """Take idle connections, the newest first."""
        while self._idle:
            try:
                yield self._idle.pop()
            except IndexError:  # another thread was faster
                return


def _execute(
    connection: psycopg.Connection[Any], query: str, parameters: Mapping[str, Any] | None
) -> psycopg.Cursor[tuple[Any, ...]]:
    """Execute a statement, never a prepared one: behind PgBouncer the next may reach another server."""
    cursor = connection.cursor(row_factory=tuple_row, binary=True)
    return cursor.execute(query, parameters or {}, prepare=False)


def _is_of_connection(error: psycopg.Error) -> bool:
    """Tell whether another connection may do better: this one has died idle, or leads to what only reads now.

    So may the loser of a deadlock. What the server has cancelled, or has no room for, is not asked again.
    """
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(_OF_CONNECTION)


class _Timed(psycopg.Connection[Any]):
    """A connection that waits no longer than until a deadline, be the server stopped or its host gone."""

    deadline = inf
    answered = 0.0

    def __del__(self, _: object = None, /) -> None:
        """Let libpq close it, unless it is the parent's: a store that nobody closes is no trouble."""

    def give_up(self) -> None:
        """Tell the server: else it goes on, or waits for a lock, also when nobody is there any more."""
        if psycopg.capabilities.has_cancel_safe():  # an older libpq may wait for ever
            with suppressed(psycopg.Error):
                self.cancel_safe(timeout=_GIVING_UP)

    def wait(self, gen: Generator[Any, Any, _T], *args: Any, **kwargs: Any) -> _T:
        """Wait for what psycopg does; raise TimeoutError in time."""
        return super().wait(_until(self.deadline, gen), *args, **kwargs)


def _until(deadline: float, steps: Generator[Any, Any, _T]) -> Generator[Any, Any, _T]:
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "no answer in time")
            wanted = steps.send(ready)
    except StopIteration as end:
        answer: _T = end.value
        return answer


@contextmanager
def told(where: object) -> Iterator[None]:
    """Raise psycopg's errors as the system's, with where it was.

    PermissionError for what the server does not allow, TimeoutError, ConnectionError where there is
    none, and OSError for the rest.
    """
    try:
        yield
    except TimeoutError as error:
        raise TimeoutError(error.errno, error.strerror, repr(where)) from None
    except psycopg.Error as error:
        kind, number = next((how for classes, how in _KINDS if isinstance(error, classes)), _OTHER)
        raise kind(number, " ".join(str(error).split()), repr(where)) from error


_OTHER: tuple[type[OSError], int] = (OSError, errno.EIO)
_KINDS: tuple[tuple[tuple[type[Exception], ...], tuple[type[OSError], int]], ...] = (
    (
        (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction),
        (PermissionError, errno.EACCES),
    ),
    ((psycopg.errors.ConnectionTimeout, psycopg.errors.QueryCanceled), (TimeoutError, errno.ETIMEDOUT)),
    ((psycopg.OperationalError, psycopg.InterfaceError), (ConnectionError, errno.ENOTCONN)),
)


def _read(conninfo: str) -> dict[str, Any]:
    """Read a connection string; what the driver says of a wrong one may quote a password."""
    try:
        settings = conninfo_to_dict(conninfo)
    except psycopg.Error:
        settings = {"port": "none"}
    url = conninfo if conninfo.startswith(("postgresql://", "postgres://")) else ""
    behind = url.partition("?")[0].partition("://")[2].partition("/")[2]
    torn = "@" in behind + str(settings.get("host", ""))[1:]  # half a password, for a database or a host
    if not torn and all(port.isdecimal() for port in str(settings.get("port", "")).split(",") if port):
        return settings
    message = (
        "this is no address of a PostgreSQL server: write postgresql://user:password@host:5432/database, "
        "with what is special in the password percent-encoded (@ is %40, / is %2F), and libpq's options alone"
    )
    raise ValueError(message)
