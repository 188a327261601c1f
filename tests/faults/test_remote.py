"""Servers that are dead, slow, frozen, full or lying: the cache goes on without them, in time, and heals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import Breaker, PostgresStore
from tests.faults.crowd import WRONG, processes, start
from tests.faults.proxy import Proxy
from tests.faults.remote_lab import CONNECT, READ, SLACK, RemoteLab
from tests.faults.remote_ways import BACKENDS, READER, REDIS, TABLES, WAYS, way_of
from tests.servers import a_postgres, a_redis, free_port, pgbouncer, postgres_url, said, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers import Server

if sys.platform != "linux":
    pytest.skip("servers are stopped by Linux's signals", allow_module_level=True)

CROWD = "8 clients; SIGSTOP, kill -9, restart"
MODES = ("hang", "delay", "drip", "cut", "short", "garble", "refuse", "echo", "forget")

redis = pytest.fixture(scope="module")(a_redis)
postgres = pytest.fixture(scope="module")(a_postgres)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Any:
    """Return a kind of server; each case is one of every kind, unless it says which."""
    return way_of(request.param)


@pytest.fixture
def server(way: Any, request: pytest.FixtureRequest) -> Server:
    """Return a server of the kind, empty, that outlives the test."""
    server: Server = request.getfixturevalue(way.name)
    way.clear(server.port)
    return server


@pytest.fixture
def own(way: Any, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Serve what the test may kill; one that takes long to be made is started again for the next test."""
    if not way.outlives:
        with way.serve() as server:
            yield server
        return
    server = request.getfixturevalue("server")
    yield server
    server.kill()
    server.start()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait no five seconds, in the end, for a server that takes nothing."""
    monkeypatch.setattr("kura_cache_adapters.stores.remote._FLUSH", 0.1)


def only(*names: str, long: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Have a case for some kinds of servers alone, in the quick half or the long one."""
    slow = [pytest.param(name, marks=pytest.mark.long) for name in long]
    return pytest.mark.parametrize("way", [*names, *slow], indirect=True)


def struck(lab: RemoteLab) -> int:
    """Return how many calls the guard has given up or seen fail."""
    (stats,) = lab.remote.tier_stats()
    return stats.errors + stats.timeouts


def ask_until_struck(lab: RemoteLab, seconds: float) -> None:
    """Embed for so many seconds, and on until the guard has seen the fault."""
    lab.ask_for(seconds)
    end = time.monotonic() + 20
    while not struck(lab):
        assert time.monotonic() < end, "the guard has seen no fault"
        lab.ask()


PATIENT = {"read_timeout": 5.0}  # where nothing may fail, on a machine that has other things to do
networks = count()
QUICK = [("redis", mode, "behind") for mode in MODES if mode != "forget"]
QUICK += [("postgres", mode, "behind") for mode in ("hang", "cut", "garble", "forget")]
LONG = [
    pytest.param(*each, marks=pytest.mark.long)
    for each in product(WAYS, MODES, ("behind", "through"))
    if each not in QUICK
]


@pytest.mark.parametrize(("way", "mode", "write"), [*QUICK, *LONG], indirect=["way"])
def test_a_network_that_does_anything_costs_one_deadline(
    way: Any, mode: str, write: str, server: Server, tmp_path: Path
) -> None:
    proxy = Proxy(server.port)
    options = {"write": write}
    lab = RemoteLab(
        f"{mode}, written {write}", way.name, tmp_path, lambda: way.open(proxy.port), options=options
    )
    lab.ask()
    proxy.set(mode)
    ask_until_struck(lab, 0.8)
    if mode != "forget":
        proxy.set("pass")
    lab.recover()
    assert lab.judge().good
    proxy.close()


@only("postgres", long=("redis",))
def test_a_firewall_that_forgets_many_connections_costs_one_deadline(
    way: Any, server: Server, tmp_path: Path
) -> None:
    proxy = Proxy(server.port)
    options = {"breaker": Breaker(rest=0.7, longest=60)}  # one try for each of them would take too long
    lab = RemoteLab(
        "eight idle connections forgotten", way.name, tmp_path, lambda: way.open(proxy.port), options=options
    )
    lab.ask()
    way.connect(lab.remote.store, 8)
    proxy.set("forget")
    lab.ask()
    assert struck(lab)
    lab.recover()
    assert lab.judge().good
    proxy.close()


def test_a_frozen_server_costs_one_deadline_and_is_found_well_again(
    way: Any, own: Server, tmp_path: Path
) -> None:
    lab = RemoteLab("SIGSTOP, SIGCONT", way.name, tmp_path, lambda: way.open(own.port))
    lab.ask()
    own.signal_all(signal.SIGSTOP)
    ask_until_struck(lab, 1.0)
    own.signal_all(signal.SIGCONT)
    lab.recover()
    assert lab.judge().good


def test_a_killed_server_that_comes_back_is_filled_again(way: Any, own: Server, tmp_path: Path) -> None:
    lab = RemoteLab("kill -9, restart", way.name, tmp_path, lambda: way.open(own.port), keeps=way.outlives)
    lab.ask()
    lab.recover()
    own.kill()
    ask_until_struck(lab, 0.8)
    own.start()
    lab.recover()
    lab.ask()
    assert lab.judge().good
    assert way.size(own.port)


@only("postgres")
def test_a_killed_process_of_a_server_is_survived_like_the_server(
    way: Any, own: Server, tmp_path: Path
) -> None:
    lab = RemoteLab("kill -9 of one backend", way.name, tmp_path, lambda: way.open(own.port))
    lab.ask()
    for _ in range(3):
        for (pid,) in way.says(own.port, f"SELECT pid {BACKENDS} LIMIT 1"):
            os.kill(pid, signal.SIGKILL)
        lab.ask_for(0.3)
    lab.recover()
    assert lab.judge().good


@pytest.mark.parametrize("fault", ["restarted between two calls", "idle connections cut"])
def test_connections_that_were_cut_between_two_calls_cost_nothing(
    fault: str, way: Any, own: Server, tmp_path: Path
) -> None:
    proxy = Proxy(own.port)
    keeps = way.outlives or not fault.startswith("restarted")
    lab = RemoteLab(fault, way.name, tmp_path, lambda: way.open(proxy.port), keeps, PATIENT)
    for _ in range(3):
        lab.ask()
        lab.recover()
        proxy.set("refuse")
        if fault.startswith("restarted"):
            way.restart(own)
        proxy.set("pass")
    lab.ask()
    lab.recover()
    assert not struck(lab)
    assert lab.judge().good
    proxy.close()


@only("postgres")
def test_connections_that_the_server_cuts_when_they_are_idle_cost_nothing(
    way: Any, server: Server, tmp_path: Path
) -> None:
    options = "options=-c%20idle_session_timeout%3D20ms"
    lab = RemoteLab(
        "idle_session_timeout",
        way.name,
        tmp_path,
        lambda: way.open(server.port, options=options),
        options=PATIENT,
    )
    for _ in range(5):
        lab.ask()
        lab.recover()
        time.sleep(0.06)
    assert not struck(lab)
    assert lab.judge().good


@pytest.mark.long
@only("postgres")
def test_a_bouncer_that_is_killed_is_found_well_again(way: Any, own: Server, tmp_path: Path) -> None:
    with pgbouncer(own, pool=4) as bouncer:
        lab = RemoteLab("PgBouncer: kill -9, restart", way.name, tmp_path, lambda: way.open(bouncer.port))
        lab.ask()
        bouncer.kill()
        ask_until_struck(lab, 0.8)
        bouncer.start()
        lab.recover()
        way.restart(own)  # behind it
        lab.ask_for(0.8)
        lab.recover()
        assert lab.judge().good


def test_a_replica_that_takes_over_is_written_to(way: Any, own: Server, tmp_path: Path) -> None:
    with way.replica(own) as replica:
        proxy = Proxy(own.port)
        lab = RemoteLab("fail-over to a replica", way.name, tmp_path, lambda: way.open(proxy.port))
        lab.ask()
        lab.recover()
        until(lambda: way.size(replica.port) == way.size(own.port), "no replication")
        own.kill()
        proxy.target = replica.port
        lab.ask_for(0.5)  # it only reads, still
        assert struck(lab)
        way.promote(replica.port)
        lab.recover()
        assert lab.judge().good
        proxy.close()


READ_ONLY = "ALTER SYSTEM {} default_transaction_read_only"
STRIKES: dict[str, Callable[[Any, Server], object]] = {
    "kill": lambda _, server: server.kill(),
    "freeze": lambda _, server: server.signal_all(signal.SIGSTOP),
    "read-only": lambda way, server: way.says(
        server.port, f"{READ_ONLY.format('SET')} = on", "SELECT pg_reload_conf()"
    ),
}


@pytest.mark.parametrize(
    "strike", ["kill", *(pytest.param(s, marks=pytest.mark.long) for s in STRIKES if s != "kill")]
)
@only("postgres")
def test_a_list_of_hosts_finds_the_one_that_takes_over(
    strike: str, way: Any, own: Server, tmp_path: Path
) -> None:
    with way.replica(own) as replica:
        hosts = f"127.0.0.1:{own.port},127.0.0.1:{replica.port}"
        url = postgres_url(0).replace("127.0.0.1:0", hosts) + "?target_session_attrs=read-write"
        lab = RemoteLab(f"two hosts, {strike}", way.name, tmp_path, lambda: PostgresStore(url))
        lab.ask()
        lab.recover()
        until(lambda: way.size(replica.port) == way.size(own.port), "no replication")
        STRIKES[strike](way, own)
        ask_until_struck(lab, 0.5)
        way.promote(replica.port)
        lab.recover()
        if strike == "read-only":
            way.says(own.port, READ_ONLY.format("RESET"))
        own.kill()  # else, well again, it would take writes, too
        assert lab.judge().good


@pytest.mark.usefixtures("impatient")
def test_a_server_that_was_never_there_is_missed_once(way: Any, tmp_path: Path) -> None:
    lab = RemoteLab("nobody listens", way.name, tmp_path, lambda: way.open(free_port()), keeps=False)
    ask_until_struck(lab, 0.5)
    assert lab.judge().good


@pytest.mark.parametrize(
    ("way", "flush"),
    [
        ("redis", "FLUSHALL"),
        ("postgres", f"TRUNCATE {TABLES}"),
        ("postgres", f"DROP TABLE {TABLES}"),
        ("postgres", "DROP TABLE kura_cache"),
        ("postgres", "DROP TABLE kura_cache_spaces"),
    ],
    indirect=["way"],
)
def test_a_flushed_server_is_a_miss(flush: str, way: Any, server: Server, tmp_path: Path) -> None:
    lab = RemoteLab(flush, way.name, tmp_path, lambda: way.open(server.port), keeps=False, options=PATIENT)
    for _ in range(3):
        lab.ask()
        lab.remote.backlog.flush(5.0)
        said(server.port, flush) if way is REDIS else way.says(server.port, flush)
        lab.ask()
        lab.recover()
    assert not struck(lab)
    assert way.size(server.port)
    assert lab.judge().good


@only("redis")
def test_a_full_server_is_still_read_and_gets_the_rest_when_it_has_room(
    way: Any, own: Server, tmp_path: Path
) -> None:
    lab = RemoteLab("maxmemory reached", way.name, tmp_path, lambda: way.open(own.port))
    lab.ask()
    said(own.port, "CONFIG SET maxmemory 1")
    ask_until_struck(lab, 0.8)
    assert lab.remote.guard.circuits["read"].closed
    said(own.port, "CONFIG SET maxmemory 100mb")
    lab.recover()
    assert lab.judge().good


@contextmanager
def small_disk(path: Path, megabytes: int = 8) -> Iterator[Path]:
    """Mount a disk that is soon full."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Leave no byte free meanwhile."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    yield
    (disk / "filler").unlink()


def test_a_server_whose_disk_is_full_gets_the_rest_when_it_has_room(way: Any, tmp_path: Path) -> None:
    with way.serve() as own, small_disk(own.directory / "disk") as disk:
        way.keep_on(own, disk)
        lab = RemoteLab("disk full", way.name, tmp_path, lambda: way.open(own.port))
        lab.ask()
        with filled(disk):
            ask_until_struck(lab, 0.8)
        lab.recover()
        assert lab.judge().good
        own.kill()


@pytest.mark.long
@only("postgres")
def test_a_server_that_has_no_room_for_its_log_ends_and_is_found_well_again(way: Any, tmp_path: Path) -> None:
    with way.serve() as own, small_disk(own.directory / "disk", 40) as disk:
        way.log_on(own, disk)
        lab = RemoteLab("disk of the log full", way.name, tmp_path, lambda: way.open(own.port))
        lab.ask()
        with filled(disk):
            way.says(own.port, *["SELECT pg_switch_wal()", "CREATE TABLE filler (a int)"] * 5)
            ask_until_struck(lab, 0.8)
        assert "PANIC" in (own.directory / "server.log").read_text()
        own.kill()
        own.start()
        lab.recover()
        assert lab.judge().good
        own.kill()


@pytest.mark.usefixtures("impatient")
def test_who_may_not_read_is_told_of_errors_and_has_no_misses(
    way: Any, server: Server, tmp_path: Path
) -> None:
    who = ("stranger", "wrong")
    lab = RemoteLab("wrong password", way.name, tmp_path, lambda: way.open(server.port, *who), keeps=False)
    lab.ask_for(0.5)
    (stats,) = lab.remote.tier_stats()
    assert stats.errors
    assert not stats.misses
    assert lab.judge().good


def fill(way: Any, server: Server, path: Path) -> None:
    """Have another machine write what will be asked for."""
    lab = RemoteLab("written before", way.name, path, lambda: way.open(server.port))
    lab.ask(20)
    lab.recover()
    assert lab.judge().good


def read_alone(lab: RemoteLab) -> None:
    """Ask for what is there and what is not; only reading goes well."""
    lab.ask(20)
    ask_until_struck(lab, 0.5)
    assert lab.remote.guard.circuits["read"].closed
    assert lab.remote.tier_stats()[0].hits >= 20


@pytest.mark.usefixtures("impatient")
def test_who_may_only_read_reads_and_writes_to_this_machine(way: Any, server: Server, tmp_path: Path) -> None:
    fill(way, server, tmp_path / "before")
    way.add_reader(server.port)
    lab = RemoteLab(
        "a role that may not write", way.name, tmp_path, lambda: way.open(server.port, *READER), keeps=False
    )
    read_alone(lab)
    assert lab.judge().good
    way.drop_reader(server.port)


@pytest.mark.usefixtures("impatient")
@pytest.mark.long
def test_a_replica_is_read_and_not_written_to(way: Any, own: Server, tmp_path: Path) -> None:
    fill(way, own, tmp_path / "before")
    with way.replica(own) as replica:
        until(lambda: way.size(replica.port) == way.size(own.port), "no replication")
        lab = RemoteLab("a replica", way.name, tmp_path, lambda: way.open(replica.port), keeps=False)
        read_alone(lab)
        assert lab.judge().good


@only("postgres")
def test_a_database_that_is_read_only_for_a_while_gets_the_rest_afterwards(
    way: Any, own: Server, tmp_path: Path
) -> None:
    fill(way, own, tmp_path / "before")
    lab = RemoteLab("default_transaction_read_only", way.name, tmp_path, lambda: way.open(own.port))
    change = "ALTER DATABASE postgres {} default_transaction_read_only"
    way.says(own.port, change.format("SET") + " = on")  # what providers do when a disk is nearly full
    read_alone(lab)
    way.says(own.port, "SET default_transaction_read_only = off", change.format("RESET"))
    lab.recover()
    assert lab.judge().good


@pytest.mark.usefixtures("impatient")
@only("postgres")
def test_a_table_of_another_program_is_left_alone(way: Any, server: Server, tmp_path: Path) -> None:
    way.says(server.port, "CREATE TABLE kura_cache (id int)")
    fault = "another program's table"
    lab = RemoteLab(fault, way.name, tmp_path, lambda: way.open(server.port), keeps=False)
    ask_until_struck(lab, 0.5)
    assert not way.size(server.port)
    assert lab.judge().good


@pytest.mark.parametrize("fault", ["another version's entries", "entries of other keys", "poisoned entries"])
def test_entries_that_are_not_what_they_say_are_misses(
    fault: str, way: Any, server: Server, tmp_path: Path
) -> None:
    lab = RemoteLab(fault, way.name, tmp_path, lambda: way.open(server.port), keeps=False)
    lab.ask(20)
    lab.recover()

    def spoilt(values: list[bytes]) -> list[bytes]:
        assert len(values) >= 20
        if fault.startswith("entries"):
            return [*values[1:], values[0]]
        if fault.startswith("another"):
            return [bytes([value[0] + 1]) + value[1:] for value in values]
        return [value[:-4] + np.float32(1.0).tobytes() for value in values]

    way.rewrite(server.port, spoilt)
    store, elsewhere, remote = lab.machine("elsewhere")
    lab.ledger.ask(elsewhere, sorted(lab.ledger.acknowledged))
    assert elsewhere.stats.misses == len(lab.ledger.acknowledged)
    assert elsewhere.stats.invalid_entries
    assert remote.tier_stats()[0].misses
    store.close()
    assert lab.judge().good


def test_a_server_that_takes_nobody_any_more_is_left_alone(way: Any, tmp_path: Path) -> None:
    with way.serve(*way.few) as server:
        lab = RemoteLab("no connection left", way.name, tmp_path, lambda: way.open(server.port))
        lab.ask()
        with way.exhausted(server):
            ask_until_struck(lab, 0.6)
        lab.recover()
        assert lab.judge().good


@only("postgres", long=("redis",))
def test_a_server_that_answers_nobody_for_a_while_costs_one_deadline(
    way: Any, server: Server, tmp_path: Path
) -> None:
    lab = RemoteLab("busy, or its table locked", way.name, tmp_path, lambda: way.open(server.port))
    lab.ask()
    with way.busy(server, 1.0):
        ask_until_struck(lab, 1.0)
    lab.recover()
    assert lab.judge().good


@only("postgres")
def test_statements_that_the_server_cancels_are_errors(way: Any, server: Server, tmp_path: Path) -> None:
    options = "options=-c%20statement_timeout%3D30ms"
    lab = RemoteLab("statement_timeout", way.name, tmp_path, lambda: way.open(server.port, options=options))
    lab.ask()
    lab.recover()
    with way.busy(server, 0.8):
        ask_until_struck(lab, 0.8)
    lab.recover()
    assert lab.judge().good


@contextmanager
def network_of_its_own() -> Iterator[tuple[str, str, list[str]]]:
    """Make a network namespace behind a pair of virtual cards.

    Yield the name of our card, the address of theirs, and the words before a command that is run there.
    """
    number = next(networks)  # one that is deleted is there for a while
    name, ours, theirs = (f"k{os.getpid()}{kind}{number}" for kind in "nab")
    network = f"10.213.{(os.getpid() + 100 * number) % 256}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        ip("netns", "add", name)
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        ip("addr", "add", f"{network}.1/30", "dev", ours)
        ip("link", "set", ours, "up")
        for words in (("addr", "add", f"{network}.2/30", "dev", theirs), ("link", "set", theirs, "up")):
            ip("-n", name, *words)
    except (OSError, subprocess.CalledProcessError) as error:
        delete_network(name)
        pytest.skip(f"no network namespace can be made: {getattr(error, 'stderr', error)!r}")
    try:
        yield ours, f"{network}.2", ["ip", "netns", "exec", name]
    finally:
        delete_network(name)


def delete_network(name: str) -> None:
    with suppress(OSError):
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_a_network_that_is_down_costs_one_deadline(way: Any, tmp_path: Path) -> None:
    with network_of_its_own() as (card, host, within), way.serve(host=host, within=within) as server:
        lab = RemoteLab("network down", way.name, tmp_path, lambda: way.open(server.port, host=host))
        lab.ask()
        subprocess.run(["ip", "link", "set", card, "down"], check=True)
        ask_until_struck(lab, 1.0)
        subprocess.run(["ip", "link", "set", card, "up"], check=True)
        lab.recover()
        assert lab.judge().good


def embed_together(path: Path, name: str, port: int, number: int, together: Any) -> None:
    """Embed texts that others embed, too, in a process of its own; its exit code says what was wrong."""
    lab = RemoteLab(CROWD, name, path / f"client {number}", partial(WAYS[name].open, port))
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
def test_eight_clients_survive_a_server_that_is_frozen_and_killed(
    way: Any, own: Server, tmp_path: Path
) -> None:
    together = processes.Barrier(9)
    clients = [start(embed_together, tmp_path, way.name, own.port, number, together) for number in range(8)]
    together.wait()
    time.sleep(0.5)
    own.signal_all(signal.SIGSTOP)
    time.sleep(0.5)
    own.signal_all(signal.SIGCONT)
    time.sleep(0.2)
    own.kill()
    own.start()
    for client in clients:
        client.join(60)
    assert [client.exitcode for client in clients] == [0] * 8
    for number in range(8):
        path = tmp_path / f"client {number}"
        lab = RemoteLab(CROWD, way.name, path, lambda: way.open(own.port), keeps=way.outlives)
        lab.ledger.acknowledged.update((path / "acknowledged").read_text().splitlines())
        assert len(lab.ledger.acknowledged) > 3
        assert lab.judge().good
