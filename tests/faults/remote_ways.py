"""Ways: the kinds of servers that the remote chapter strikes, and by one name what is done to each."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import PostgresStore, RedisStore
from tests.servers import LOOPBACK, postgres_says, postgres_server, postgres_url, redis_server, said, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers import Server

TABLES = "kura_cache, kura_cache_spaces"
READER = ("reader", "secret")
FEW = 8  # connections
BACKENDS = "FROM pg_stat_activity WHERE application_name = 'kura-cache-adapters'"


def at_once(count: int, call: Callable[[], object]) -> None:
    """Call in so many threads."""
    with ThreadPoolExecutor(count) as threads:
        for each in [threads.submit(call) for _ in range(count)]:
            each.result()


class RedisWay:
    """A server that keeps all in memory, and has none of it after its death."""

    name = "redis"
    outlives = False
    few: tuple[str, ...] = ()
    serve = staticmethod(redis_server)

    def open(self, port: int, user: str = "", password: str = "", host: str = LOOPBACK) -> Any:
        who = f"{user}:{password}@" if password else ""
        return RedisStore(f"redis://{who}{host}:{port}/0")

    def connect(self, store: Any, count: int) -> None:
        """Have it so many connections, which lie idle then."""
        at_once(count, partial(store.client.blpop, ["nothing"], timeout=0.3))

    def clear(self, port: int) -> None:
        said(port, "FLUSHALL")

    def size(self, port: int) -> int:
        """Count what is there."""
        return int(said(port, "DBSIZE")[1:])

    def restart(self, server: Server) -> None:
        """Stop it in good order, and start it again."""
        server.signal(signal.SIGTERM)
        assert server.process is not None
        server.process.wait()
        server.start()

    @contextmanager
    def replica(self, server: Server) -> Iterator[Server]:
        """Serve what follows another, and is read-only."""
        with redis_server("--replicaof", LOOPBACK, str(server.port)) as replica:
            until(
                lambda: b"master_link_status:up" in said(replica.port, "INFO replication"), "no replication"
            )
            yield replica

    def promote(self, port: int) -> None:
        said(port, "REPLICAOF NO ONE")

    def keep_on(self, server: Server, disk: Path) -> None:
        """Have it keep on a disk what it takes."""
        server.kill()
        server.command += ["--dir", str(disk), "--appendonly", "yes"]  # a running one may not change that
        server.start()

    def add_reader(self, port: int) -> None:
        said(port, f"ACL SETUSER {READER[0]} on >{READER[1]} ~* +@read +client +hello")

    def drop_reader(self, port: int) -> None:
        said(port, f"ACL DELUSER {READER[0]}")

    def rewrite(self, port: int, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Replace the entries by what is made of them."""
        client: Any = self.open(port).client
        names = sorted(name for name in client.scan_iter(count=1000) if client.type(name) == b"string")
        client.mset(dict(zip(names, change(client.mget(names)), strict=True)))
        client.close()

    @contextmanager
    def busy(self, server: Server, seconds: float) -> Iterator[None]:
        """Have it answer nobody for so long."""
        said(server.port, f"CLIENT PAUSE {int(1000 * seconds)}")
        yield

    @contextmanager
    def exhausted(self, server: Server) -> Iterator[None]:
        """Throw all out, and let nobody in."""
        with socket.create_connection((LOOPBACK, server.port)) as only:
            only.sendall(b"CONFIG SET maxclients 1\r\nCLIENT KILL TYPE normal\r\n")
            yield
            only.sendall(b"CONFIG SET maxclients 1000\r\n")
            only.recv(1 << 16)


class PostgresWay:
    """A server with a log: what it has taken outlives its death."""

    name = "postgres"
    outlives = True
    few = ("-c", f"max_connections={FEW}", "-c", "superuser_reserved_connections=0")
    serve = staticmethod(postgres_server)

    def open(
        self, port: int, user: str = "", password: str = "", host: str = LOOPBACK, options: str = ""
    ) -> Any:
        return PostgresStore(f"{postgres_url(port, user, password, host=host)}?{options}")

    def says(self, port: int, *statements: str) -> list[tuple[Any, ...]]:
        return postgres_says(postgres_url(port), *statements)

    def connect(self, store: Any, count: int) -> None:
        """Have it so many connections, which lie idle then."""
        at_once(count, partial(store.connections.rows, "SELECT pg_sleep(0.3)"))

    def clear(self, port: int) -> None:
        self.says(port, f"DROP TABLE IF EXISTS {TABLES}")

    def size(self, port: int) -> int:
        """Count what is there, if a table is."""
        import psycopg

        with suppress(psycopg.errors.UndefinedTable):
            return int(self.says(port, "SELECT count(*) FROM kura_cache")[0][0])
        return 0

    def restart(self, server: Server) -> None:
        """Stop it in good order, and start it again."""
        server.signal(signal.SIGINT)
        assert server.process is not None
        server.process.wait()
        server.start()

    @contextmanager
    def replica(self, server: Server) -> Iterator[Server]:
        """Serve what follows another, and is read-only."""
        with postgres_server(standby_of=server) as replica:
            yield replica

    def promote(self, port: int) -> None:
        self.says(port, "SELECT pg_promote()")

    def keep_on(self, server: Server, disk: Path) -> None:
        """Have it keep on a disk what it takes; its log is elsewhere."""
        os.chown(disk, server.directory.stat().st_uid, -1)
        place = f"CREATE TABLESPACE small LOCATION '{disk}'"
        self.says(server.port, place, "ALTER DATABASE postgres SET default_tablespace = small")

    def log_on(self, server: Server, disk: Path) -> None:
        """Have it keep its log on a disk."""
        server.signal(signal.SIGINT)
        assert server.process is not None
        server.process.wait()
        log = server.directory / "files" / "pg_wal"
        shutil.copytree(log, disk / "log")
        subprocess.run(["chown", "-R", f"--reference={log}", disk], check=True)
        shutil.rmtree(log)
        log.symlink_to(disk / "log")
        server.start()

    def add_reader(self, port: int) -> None:
        name, password = READER
        self.says(
            port, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'", f"GRANT SELECT ON {TABLES} TO {name}"
        )

    def drop_reader(self, port: int) -> None:
        self.says(port, f"DROP OWNED BY {READER[0]}", f"DROP ROLE {READER[0]}")

    def rewrite(self, port: int, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Replace the entries by what is made of them."""
        rows = self.says(port, "SELECT key, value FROM kura_cache ORDER BY key")
        changed = zip(rows, change([value for _, value in rows]), strict=True)
        values = ", ".join(
            rf"('\x{key.hex()}'::bytea, '\x{value.hex()}'::bytea)" for (key, _), value in changed
        )
        new = f"UPDATE kura_cache AS old SET value = new.value FROM (VALUES {values}) AS new (key, value)"
        self.says(port, f"{new} WHERE old.key = new.key")

    @contextmanager
    def busy(self, server: Server, seconds: float) -> Iterator[None]:  # noqa: ARG002 - until it is left
        """Lock the table against all."""
        with self.connected(server) as other, other.transaction():
            other.execute("LOCK TABLE kura_cache IN ACCESS EXCLUSIVE MODE")
            yield

    @contextmanager
    def exhausted(self, server: Server) -> Iterator[None]:
        """Throw all out, and let nobody in."""
        import psycopg

        with ExitStack() as stack:
            first = stack.enter_context(self.connected(server))
            while first.execute(f"SELECT pg_terminate_backend(pid) {BACKENDS}").fetchall():
                with suppress(psycopg.OperationalError):
                    while True:
                        stack.enter_context(self.connected(server))
            yield

    def connected(self, server: Server) -> Any:
        """Connect once more."""
        import psycopg

        return psycopg.connect(postgres_url(server.port), autocommit=True)


REDIS, POSTGRES = RedisWay(), PostgresWay()
WAYS: dict[str, RedisWay | PostgresWay] = {each.name: each for each in (REDIS, POSTGRES)}


def way_of(name: str) -> Any:
    """Return a kind of server; skip the test where its client is missing."""
    pytest.importorskip({"redis": "redis", "postgres": "psycopg"}[name], reason=f"needs the extra `{name}`")
    return WAYS[name]
