"""Private servers for tests: on free ports of loopback, in directories of their own, stopped by their ids."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LOOPBACK = "127.0.0.1"
_PATIENCE = 10.0  # seconds for a server to answer
_SLOTS = 16384  # of a Redis cluster
POSTGRES_USER, POSTGRES_PASSWORD = "kura", "MARKED-pa55/word@"
_HIGHEST = 55_000


def free_port() -> int:
    """Return a port of loopback that nobody listens on; a cluster's node takes one 10,000 above, too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port if port < _HIGHEST else free_port()


def until(ready: Callable[[], object], what: str) -> None:
    """Wait until something is so; raise TimeoutError when it takes too long."""
    end = time.monotonic() + _PATIENCE
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.01)


@dataclass
class Server:
    """A server in a process of its own, which a test may stop, kill, freeze and start again.

    Attributes:
        command: what starts it.
        port: where it listens.
        directory: its own, where it also logs to `server.log`.
        answers: whether it does.

    """

    command: list[str]
    port: int
    directory: Path
    answers: Callable[[int], object]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=self.directory)
        until(lambda: self.answers(self.port) or self._is_dead(), f"{self.command[0]} did not start")
        if self._is_dead():
            raise RuntimeError((self.directory / "server.log").read_text())

    def signal(self, number: int) -> None:
        """Send a signal: SIGSTOP freezes it, SIGCONT goes on."""
        assert self.process is not None
        self.process.send_signal(number)

    def signal_all(self, number: int) -> None:
        """Send a signal to it and to its own processes."""
        self.signal(number)
        _signal(self._children(), number)

    def kill(self) -> None:
        """Kill it at once, frozen or not, and wait for its end, and for that of its own processes."""
        if self.process is not None:
            children = self._children()
            self.process.kill()
            self.process.wait()
            _signal(children, signal.SIGCONT)
            until(lambda: not any(map(_lives, children)), "its own processes outlive it")

    def _children(self) -> list[int]:
        assert self.process is not None
        pid = self.process.pid
        with suppress(OSError):
            return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        return []

    def _is_dead(self) -> bool:
        return self.process is not None and self.process.poll() is not None


def _signal(processes: list[int], number: int) -> None:
    for each in processes:
        with suppress(ProcessLookupError):
            os.kill(each, number)


def _lives(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextmanager
def served(command: Callable[[int, Path], list[str]], answers: Callable[[int], object]) -> Iterator[Server]:
    """Start a server on a free port, in a new directory, and kill it in the end."""
    directory = Path(tempfile.mkdtemp(prefix="kura-server-"))
    port = free_port()
    server = Server(command(port, directory), port, directory, answers)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)


def accepts(port: int) -> bool:
    """Tell whether somebody listens on a port of loopback."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def program(name: str, *elsewhere: str, before: str = "") -> str:
    """Return the path of a server's program; skip the test, with the reason, where there is none."""
    places = os.pathsep.join([before, os.environ.get("PATH", ""), *elsewhere])
    found = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f"needs the program {name}")
    return found


class Authority:
    """An authority of a test's own, which makes certificates, and files of them that others may read."""

    def __init__(self, directory: Path) -> None:
        trustme = pytest.importorskip("trustme", reason="needs trustme, which makes certificates")
        self.directory = directory
        self._issuer = trustme.CA()
        self._number = count()
        self.file = str(directory / f"authority-{token_hex(4)}.pem")
        self._issuer.cert_pem.write_to_path(self.file)

    def issue(self, *names: str, **options: Any) -> tuple[str, str]:
        """Return the paths of a new certificate for such names, and of its key."""
        made = self._issuer.issue_cert(*names, **options)
        certificate, key = (f"{self.file}-{next(self._number)}.{kind}" for kind in ("pem", "key"))
        made.cert_chain_pems[0].write_to_path(certificate)
        made.private_key_pem.write_to_path(key)
        Path(key).chmod(0o600)
        if not os.getuid():
            shutil.chown(key, "nobody")
        return certificate, key


def an_authority() -> Iterator[Authority]:
    """Make certificates for a module: `authority = pytest.fixture(scope="module")(an_authority)`."""
    directory = Path(tempfile.mkdtemp(prefix="kura-certificates-"))
    directory.chmod(0o755)  # a database server is nobody, and reads its own
    yield Authority(directory)
    shutil.rmtree(directory)


@contextmanager
def redis_server(*options: str, host: str = LOOPBACK, within: Sequence[str] = ()) -> Iterator[Server]:
    """Serve Redis without persistence, with options as on its command line; `within`, words before that."""
    binary = program("redis-server")
    usual = ("--bind", host, "--protected-mode", "no", "--save", "", "--appendonly", "no")

    def command(port: int, directory: Path) -> list[str]:
        return [*within, binary, "--port", str(port), "--dir", str(directory), *usual, *options]

    with served(command, lambda port: said(port, "PING", host)[:1] in {b"+", b"-"}) as server:
        yield server


@contextmanager
def tls_redis(
    authority: Authority, *options: str, names: tuple[str, ...] = ("localhost",), **issued: Any
) -> Iterator[Server]:
    """Serve Redis over TLS alone, under some names, with options of its own and of its certificate."""
    binary = program("redis-server", before="/usr/bin")  # one in a wheel has no TLS
    certificate, key = authority.issue(*names, **issued)
    files = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", authority.file)
    usual = ("--bind", "127.0.0.1", "--save", "", "--tls-auth-clients", "no", "--port", "0", *files)

    def command(port: int, directory: Path) -> list[str]:
        return [binary, "--tls-port", str(port), "--dir", str(directory), *usual, *options]

    with served(command, accepts) as server:
        yield server


@contextmanager
def redis_cluster(
    count: int = 3, *options: str, authority: Authority | None = None
) -> Iterator[list[Server]]:
    """Serve Redis as a cluster of a few nodes, with the slots divided between them, over TLS if said."""

    def ask(node: Server, command: str) -> bytes:
        return said(node.port, command, authority=authority)

    def is_whole(node: Server) -> bool:
        told = ask(node, "CLUSTER INFO")
        return b"cluster_state:ok" in told and b"cluster_known_nodes:%d" % count in told

    over, how = redis_server, ("--cluster-enabled", "yes", *options)
    if authority is not None:
        over, how = (
            partial(tls_redis, authority, names=("localhost", "127.0.0.1")),
            (*how, "--tls-cluster", "yes"),
        )
    with ExitStack() as stack:
        nodes = [stack.enter_context(over(*how)) for _ in range(count)]
        for at, node in enumerate(nodes):
            ask(node, f"CLUSTER SET-CONFIG-EPOCH {at + 1}")
            slots = range(at * _SLOTS // count, (at + 1) * _SLOTS // count)
            for part in (slots[0::2], slots[1::2]):  # a command's line is at most 64 kB long
                ask(node, f"CLUSTER ADDSLOTS {' '.join(map(str, part))}")
            ask(node, f"CLUSTER MEET 127.0.0.1 {nodes[0].port}")
        until(lambda: all(map(is_whole, nodes)), "the cluster did not come together")
        yield nodes


def said(port: int, command: str, host: str = LOOPBACK, authority: Authority | None = None) -> bytes:
    """Return what a Redis answers; nothing where none does."""
    with suppress(OSError), socket.create_connection((host, port), 1) as plain:
        context = ssl.create_default_context(cafile=authority.file) if authority else None
        with context.wrap_socket(plain, server_hostname="localhost") if context else plain as client:
            client.sendall(command.encode() + b"\r\n")
            return client.recv(1 << 16)
    return b""


def a_redis() -> Iterator[Server]:
    """Serve Redis for the tests of a module: `redis = pytest.fixture(scope="module")(a_redis)`."""
    with redis_server() as server:
        yield server


@contextmanager
def postgres_server(
    *options: str, host: str = LOOPBACK, within: Sequence[str] = (), standby_of: Server | None = None
) -> Iterator[Server]:
    """Serve PostgreSQL without flushes, with options as on its command line; `POSTGRES_USER` owns all.

    `within` are words before the command; `standby_of` is the server that it copies, and follows.
    """
    pytest.importorskip("psycopg", reason="needs the extra `postgres`")
    binary = _of_postgres("postgres")
    usual = ("-c", f"listen_addresses={host}", "-c", "fsync=off")

    def command(port: int, directory: Path) -> list[str]:
        as_nobody, files = _as_nobody(directory), directory / "files"
        made = _made(directory) if standby_of is None else _copied(standby_of)
        told = [*as_nobody, *made, f"--pgdata={files}"]
        subprocess.run(told, cwd=directory, check=True, stdout=subprocess.DEVNULL)
        with (files / "pg_hba.conf").open("a") as who:
            who.write("host all all all scram-sha-256\n")
        where = ("-D", str(files), "-p", str(port), "-k", str(directory))
        return [*within, *as_nobody, binary, *where, *usual, *options]

    with served(command, lambda port: postgres_says(postgres_url(port, host=host), "SELECT 1")) as server:
        try:
            yield server
        finally:
            server.signal_all(signal.SIGCONT)
            server.signal(signal.SIGQUIT)  # its own processes end before it
            assert server.process is not None
            server.process.wait()


@contextmanager
def pgbouncer(server: Server, *, pool: int) -> Iterator[Server]:
    """Run PgBouncer, which gives each transaction whatever connection is free, of so many."""
    path = program("pgbouncer", "/usr/sbin")

    def command(port: int, directory: Path) -> list[str]:
        (directory / "users").write_text(f'"{POSTGRES_USER}" "{POSTGRES_PASSWORD}"\n')
        settings = {"listen_addr": LOOPBACK, "listen_port": port, "unix_socket_dir": "", "auth_type": "plain"}
        settings |= {"pool_mode": "transaction", "default_pool_size": pool, "auth_file": directory / "users"}
        told = "\n".join(f"{name} = {value}" for name, value in settings.items())
        where = f"host={LOOPBACK} port={server.port} dbname=postgres"
        (directory / "ini").write_text(f"[databases]\npostgres = {where}\n[pgbouncer]\n{told}\n")
        as_nobody = _as_nobody(directory)
        for each in ("ini", "users"):
            (directory / each).chmod(0o644)
        return [*as_nobody, path, str(directory / "ini")]

    with served(command, accepts) as bouncer:
        yield bouncer


def _of_postgres(name: str) -> str:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    return program(name, *map(str, places))


def _made(directory: Path) -> list[str]:
    """Return what makes an empty database."""
    password = directory / "password"
    password.write_text(POSTGRES_PASSWORD)
    password.chmod(0o644)
    how = ("--no-sync", "--encoding=UTF8", "--no-locale", "--auth=scram-sha-256", f"--pwfile={password}")
    return [_of_postgres("initdb"), f"--username={POSTGRES_USER}", *how]


def _copied(primary: Server) -> list[str]:
    """Return what makes a copy of a running server, which follows it."""
    how = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
    return [_of_postgres("pg_basebackup"), f"--dbname={postgres_url(primary.port)}", *how]


def _as_nobody(directory: Path) -> list[str]:
    """Return what makes a command nobody's, since this server refuses to be root's."""
    if os.getuid():
        return []
    ids = [str(pwd.getpwnam("nobody").pw_uid), str(pwd.getpwnam("nobody").pw_gid)]
    os.chown(directory, *map(int, ids))
    return [program("setpriv"), "--reuid", ids[0], "--regid", ids[1], "--clear-groups"]


def postgres_url(port: int, user: str = "", password: str = "", *, host: str = LOOPBACK) -> str:
    """Return the URL of a database: the owner's, unless it is said whose."""
    user, password = user or POSTGRES_USER, quote(password or POSTGRES_PASSWORD, safe="")
    return f"postgresql://{user}:{password}@{host}:{port}/postgres"


def postgres_says(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Execute statements, and return the rows of the last; none where nobody answers."""
    import psycopg

    with suppress(psycopg.OperationalError), psycopg.connect(url, autocommit=True) as connection:
        cursors = [connection.execute(statement) for statement in statements]
        return cursors[-1].fetchall() if cursors[-1].description else []
    return []


def a_postgres() -> Iterator[Server]:
    """Serve PostgreSQL for the tests of a module: `postgres = pytest.fixture(scope="module")(a_postgres)`."""
    with postgres_server() as server:
        yield server
