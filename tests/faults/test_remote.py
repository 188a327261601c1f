"""Servers that are dead, slow, frozen, full or lying: the cache goes on without them, in time, and heals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import PostgresStore, RedisStore
from kura_cache_adapters.stores import remote
from tests.faults.crowd import WRONG, processes, start
from tests.faults.proxy import Proxy
from tests.faults.remote_lab import CONNECT, READ, SLACK, RemoteLab
from tests.servers import (
    a_postgres,
    free_port,
    postgres_says,
    postgres_url,
    program,
    redis_server,
    said,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers import Server

if sys.platform != "linux":
    pytest.skip("servers are stopped by Linux's signals", allow_module_level=True)

CROWD = "8 clients; SIGSTOP, kill -9, restart"
MODES = ("hang", "delay", "drip", "cut", "short", "garble", "refuse", "echo")


def redis_at(port: int, user: str = "", host: str = "127.0.0.1") -> Any:
    return RedisStore(f"redis://{user}{host}:{port}/0")


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    pytest.importorskip("redis", reason="needs the extra `redis`")
    with redis_server() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[Server]:
    """Serve a Redis that the test may kill; what it has is not written to disk."""
    pytest.importorskip("redis", reason="needs the extra `redis`")
    with redis_server() as server:
        yield server


def clear(way: str, port: int) -> None:
    if way == "redis":
        said(port, "FLUSHALL")
    else:
        postgres_says(postgres_url(port), "DROP TABLE IF EXISTS kura_cache, kura_cache_spaces")


def struck(lab: RemoteLab) -> int:
    """Return how many calls the guard has given up or seen fail."""
    (stats,) = lab.remote.tier_stats()
    return stats.errors + stats.timeouts


def postgres_at(port: int) -> Any:
    return PostgresStore(postgres_url(port))


postgres = pytest.fixture(scope="module")(a_postgres)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try for a moment alone, when a cache is closed, to write what waits."""
    monkeypatch.setattr(remote, "_FLUSH", 0.2)


WAYS: dict[str, Callable[[int], Any]] = {"redis": redis_at, "postgres": postgres_at}
QUICK = [("redis", mode, "behind") for mode in MODES] + [("postgres", "hang", "behind")]
LONG = [
    pytest.param(*each, marks=pytest.mark.long)
    for each in product(WAYS, MODES, ("behind", "through"))
    if each not in QUICK
]


@pytest.mark.parametrize(("way", "mode", "write"), [*QUICK, *LONG])
def test_a_network_that_does_anything_costs_one_deadline(
    way: str, mode: str, write: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(way)
    clear(way, server.port)
    proxy = Proxy(server.port)
    options = {"write": write}
    lab = RemoteLab(f"{mode}, written {write}", way, tmp_path, lambda: WAYS[way](proxy.port), options=options)
    lab.ask()
    proxy.set(mode)
    lab.ask_for(0.8)
    assert struck(lab)
    proxy.set("pass")
    lab.recover()
    assert lab.judge().good
    proxy.close()


def test_a_frozen_server_costs_one_deadline_and_is_found_well_again(
    own_redis: Server, tmp_path: Path
) -> None:
    lab = RemoteLab("SIGSTOP, SIGCONT", "redis", tmp_path, lambda: redis_at(own_redis.port))
    lab.ask()
    own_redis.signal(signal.SIGSTOP)
    lab.ask_for(1.0)
    assert struck(lab)
    own_redis.signal(signal.SIGCONT)
    lab.recover()
    assert lab.judge().good


def test_a_killed_server_that_comes_back_empty_is_filled_again(own_redis: Server, tmp_path: Path) -> None:
    lab = RemoteLab("kill -9, restart", "redis", tmp_path, lambda: redis_at(own_redis.port), keeps=False)
    lab.ask()
    own_redis.kill()
    lab.ask_for(0.8)
    assert struck(lab)
    own_redis.start()
    lab.recover()
    lab.ask()
    assert lab.judge().good
    assert said(own_redis.port, "DBSIZE") != b":0\r\n"


def test_a_replica_that_takes_over_is_written_to(own_redis: Server, tmp_path: Path) -> None:
    with redis_server("--replicaof", "127.0.0.1", str(own_redis.port)) as replica:
        until(lambda: b"master_link_status:up" in said(replica.port, "INFO replication"), "no replication")
        proxy = Proxy(own_redis.port)
        lab = RemoteLab("fail-over to a replica", "redis", tmp_path, lambda: redis_at(proxy.port))
        lab.ask()
        lab.recover()
        until(lambda: said(replica.port, "DBSIZE") == said(own_redis.port, "DBSIZE"), "no replication")
        own_redis.kill()
        proxy.target = replica.port
        lab.ask_for(0.5)  # it only reads, still
        assert struck(lab)
        said(replica.port, "REPLICAOF NO ONE")
        lab.recover()
        assert lab.judge().good
        proxy.close()


@pytest.mark.usefixtures("hurried")
def test_a_server_that_was_never_there_is_missed_once(tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="needs the extra `redis`")
    lab = RemoteLab("nobody listens", "redis", tmp_path, lambda: redis_at(free_port()), keeps=False)
    lab.ask_for(0.5)
    assert struck(lab)
    assert lab.judge().good


def test_a_flushed_server_is_a_miss(redis: Server, tmp_path: Path) -> None:
    lab = RemoteLab("FLUSHALL", "redis", tmp_path, lambda: redis_at(redis.port), keeps=False)
    lab.ask()
    said(redis.port, "FLUSHALL")
    lab.ask()
    lab.recover()
    assert not struck(lab)
    assert lab.judge().good


def test_a_full_server_is_still_read_and_gets_the_rest_when_it_has_room(tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="needs the extra `redis`")
    with redis_server("--maxmemory", "100mb") as server:
        lab = RemoteLab("maxmemory reached", "redis", tmp_path, lambda: redis_at(server.port))
        lab.ask()
        said(server.port, "CONFIG SET maxmemory 1")
        lab.ask_for(0.8)
        assert struck(lab)
        assert lab.remote.guard.circuits["read"].closed
        said(server.port, "CONFIG SET maxmemory 100mb")
        lab.recover()
        assert lab.judge().good


def test_a_server_whose_disk_is_full_gets_the_rest_when_it_has_room(tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="needs the extra `redis`")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no small disk can be mounted")
    try:
        with redis_server("--dir", str(disk), "--appendonly", "yes") as server:
            lab = RemoteLab("disk full", "redis", tmp_path, lambda: redis_at(server.port))
            lab.ask()
            with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
            lab.ask_for(1.5)
            assert struck(lab)
            (disk / "filler").unlink()
            lab.recover()
            assert lab.judge().good
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.usefixtures("hurried")
def test_who_may_not_read_is_told_of_errors_and_has_no_misses(tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="needs the extra `redis`")
    with redis_server("--requirepass", "right") as server:
        user = ":wrong@"
        lab = RemoteLab("wrong password", "redis", tmp_path, lambda: redis_at(server.port, user), keeps=False)
        lab.ask_for(0.5)
        (stats,) = lab.remote.tier_stats()
        assert stats.errors
        assert not stats.misses
        assert lab.judge().good


@pytest.mark.usefixtures("hurried")
def test_who_may_only_read_reads_and_writes_to_this_machine(redis: Server, tmp_path: Path) -> None:
    said(redis.port, "FLUSHALL")
    said(redis.port, "ACL SETUSER reader on >secret ~* +@read +client +hello")
    lab = RemoteLab(
        "a role that may not write",
        "redis",
        tmp_path,
        lambda: redis_at(redis.port, "reader:secret@"),
        keeps=False,
    )
    lab.ask_for(0.5)
    assert struck(lab)
    assert lab.remote.guard.circuits["read"].closed
    assert lab.judge().good
    said(redis.port, "ACL DELUSER reader")


@pytest.mark.parametrize("fault", ["another version's entries", "entries of other keys", "poisoned entries"])
def test_entries_that_are_not_what_they_say_are_misses(fault: str, redis: Server, tmp_path: Path) -> None:
    said(redis.port, "FLUSHALL")
    lab = RemoteLab(fault, "redis", tmp_path, lambda: redis_at(redis.port), keeps=False)
    lab.ask(20)
    lab.recover()
    client: Any = redis_at(redis.port).client
    names = sorted(name for name in client.scan_iter(count=1000) if client.type(name) == b"string")
    values = client.mget(names)
    assert len(names) >= 20
    for at, name in enumerate(names):
        value = bytearray(values[at])
        if fault.startswith("another"):
            value[0] += 1
        elif fault.startswith("entries"):
            value = values[at - 1]
        else:
            value[-4:] = np.float32(1.0).tobytes()
        client.set(name, bytes(value))
    client.close()
    store, elsewhere, remote = lab.machine("elsewhere")
    lab.ledger.ask(elsewhere, sorted(lab.ledger.acknowledged))
    assert elsewhere.stats.misses == len(lab.ledger.acknowledged)
    assert elsewhere.stats.invalid_entries
    assert remote.tier_stats()[0].misses
    store.close()
    assert lab.judge().good


def connects(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


@contextmanager
def network_of_its_own(port: int) -> Iterator[str]:
    """Serve Redis in a network namespace behind a pair of virtual cards; yield the name of ours."""
    name = f"kura{port}"
    ours, theirs = f"k{port}a", f"k{port}b"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        ip("netns", "add", name)
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        ip("addr", "add", "10.213.77.1/30", "dev", ours)
        ip("link", "set", ours, "up")
        for words in (("addr", "add", "10.213.77.2/30", "dev", theirs), ("link", "set", theirs, "up")):
            ip("-n", name, *words)
        yield ours
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made: {getattr(error, 'stderr', error)!r}")
    finally:
        with suppress(OSError):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_a_network_that_is_down_costs_one_deadline(tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="needs the extra `redis`")
    port, binary = free_port(), program("redis-server")
    with network_of_its_own(port) as card:
        command = ["ip", "netns", "exec", f"kura{port}", binary, "--port", str(port), "--save", ""]
        server = subprocess.Popen(
            [*command, "--protected-mode", "no", "--bind", "10.213.77.2"], stdout=subprocess.DEVNULL
        )
        try:
            until(lambda: connects("10.213.77.2", port), "redis-server did not start")
            lab = RemoteLab("network down", "redis", tmp_path, lambda: redis_at(port, host="10.213.77.2"))
            lab.ask()
            subprocess.run(["ip", "link", "set", card, "down"], check=True)
            lab.ask_for(1.0)
            assert struck(lab)
            subprocess.run(["ip", "link", "set", card, "up"], check=True)
            lab.recover()
            assert lab.judge().good
        finally:
            server.kill()
            server.wait()


def embed_together(path: Path, port: int, number: int, together: Any) -> None:
    """Embed texts that others embed, too, in a process of its own; its exit code says what was wrong."""
    lab = RemoteLab(CROWD, "redis", path / f"client {number}", lambda: redis_at(port))
    together.wait()
    lab.ask_for(3.0)
    lab.recover()
    lab.store.close()
    (path / f"client {number}" / "acknowledged").write_text("\n".join(lab.ledger.acknowledged))
    outcome = lab.ledger.outcome
    late = sum(took > READ + CONNECT + 4 * SLACK for _, took in lab.remote.calls)  # eight on two cores
    os._exit(
        WRONG if outcome.wrong else 10 * bool(outcome.raised) + 20 * bool(late) + 40 * bool(outcome.stuck)
    )


@pytest.mark.long
def test_eight_clients_survive_a_server_that_is_frozen_and_killed(own_redis: Server, tmp_path: Path) -> None:
    together = processes.Barrier(9)
    clients = [start(embed_together, tmp_path, own_redis.port, number, together) for number in range(8)]
    together.wait()
    time.sleep(0.5)
    own_redis.signal(signal.SIGSTOP)
    time.sleep(0.5)
    own_redis.signal(signal.SIGCONT)
    time.sleep(0.2)
    own_redis.kill()
    own_redis.start()
    for client in clients:
        client.join(60)
    assert [client.exitcode for client in clients] == [0] * 8
    for number in range(8):
        path = tmp_path / f"client {number}"
        lab = RemoteLab(CROWD, "redis", path, lambda: redis_at(own_redis.port), keeps=False)
        lab.ledger.acknowledged.update((path / "acknowledged").read_text().splitlines())
        assert len(lab.ledger.acknowledged) > 3
        assert lab.judge().good
