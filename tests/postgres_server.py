"""A PostgreSQL server of the tests' own: in a private directory, on a free port of loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

PASSWORD = "MARKED-pa55/word@"
_QUOTED = "MARKED-pa55%2Fword%40"
_NOBODY = 65534  # a server refuses to be root's


class PostgresServer:
    """Start it, stop it at any signal, and start it again over the same files."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="kura-pg-"))
        self.port = _free_port()
        if os.getuid() == 0:
            os.chown(self.directory, _NOBODY, _NOBODY)
        password = self.directory / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        init = ["-D", self.directory / "files", "-U", "kura", "--pwfile", password, "-A", "scram-sha-256"]
        run = [*_as_nobody(), _program("initdb"), *init, "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(list(map(str, run)), check=True, capture_output=True, cwd=self.directory)
        self.start()

    @property
    def url(self) -> str:
        return self.url_for("kura", _QUOTED)

    def url_for(self, user: str, password: str, port: int | None = None) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{port or self.port}/postgres"

    def start(self) -> None:
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "fsync": "off"}
        options |= {"unix_socket_directories": self.directory, "max_connections": 60}
        told = [f"--{name}={value}" for name, value in options.items()]
        run = [*_as_nobody(), _program("postgres"), "-D", self.directory / "files", *told]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(list(map(str, run)), stdout=log, stderr=log, cwd=self.directory)
        self._await()

    def execute(self, *statements: str) -> list[tuple[object, ...]]:
        """Execute statements as the owner of all; return the rows of the last."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def stop(self, number: int = signal.SIGQUIT) -> None:
        """Stop it: SIGQUIT is an end without good-bye, SIGKILL one without anything."""
        self.process.send_signal(number)
        self.process.wait(30)

    def remove(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _await(self) -> None:
        import psycopg

        for _ in range(600):
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.directory / "log").read_text()
                time.sleep(0.05)
            else:
                return
        raise AssertionError((self.directory / "log").read_text())


def _program(name: str) -> str:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    path = os.pathsep.join([*map(str, reversed(versions)), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install postgresql")
    return found


def _as_nobody() -> Sequence[object]:
    """Return what comes before a command, so that it is not root's and ends with its parent."""
    dying = ["setpriv", "--pdeathsig", "QUIT"] if shutil.which("setpriv") else []
    ids = ["--reuid", _NOBODY, "--regid", _NOBODY, "--clear-groups"] if os.getuid() == 0 else []
    if ids and not dying:
        pytest.skip("needs setpriv, since PostgreSQL's server refuses to be root's")
    return [*dying, *ids]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
