"""PostgresStore over a private server: the contract, concurrency, roles, faults, forks and cleaning."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import (
    CachedEmbeddingModel,
    PostgresStore,
    Remote,
    UnsupportedError,
    open_cache,
    open_store,
)
from kura_cache_adapters.errors import MissingExtraError
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.protocols import KeepsParts
from kura_cache_adapters.testing import FakeEmbeddingModel, StoreContract
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of
from tests.faults.proxy import Proxy
from tests.servers import (
    Server,
    a_postgres,
    pgbouncer,
    postgres_says,
    postgres_server,
    postgres_url,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

psycopg = pytest.importorskip("psycopg", reason="needs the extra `postgres`")

SECRET = "a secret of the team's own"

postgres = pytest.fixture(scope="module")(a_postgres)
tables = count()


def patient_store(url: str, **options: Any) -> PostgresStore:
    """Open a store that waits longer than others: these machines are busy."""
    return PostgresStore(url, **{"timeout": 60, "connect_timeout": 30, **options})


@pytest.fixture
def table() -> str:
    """Name tables that no other test has."""
    return f"cache_{next(tables)}"


@pytest.fixture
def opening(postgres: Server, table: str) -> Callable[..., PostgresStore]:
    """Return what opens a store in the same tables each time."""
    return lambda **options: patient_store(postgres_url(postgres.port), **{"table": table, **options})


@pytest.fixture
def own_database(postgres: Server, table: str) -> Callable[[], str]:
    """Return what makes a database, and tells its URL."""

    def make() -> str:
        postgres_says(postgres_url(postgres.port), f"CREATE DATABASE {table}")
        return postgres_url(postgres.port).replace("/postgres", f"/{table}")

    return make


@pytest.fixture
def store(opening: Callable[..., PostgresStore]) -> PostgresStore:
    return opening()


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def open_store(self, opening: Any) -> Any:
        return opening


class TestPostgresStoreInASchema(StoreContract):
    examples = 5

    @pytest.fixture
    def open_store(self, opening: Any) -> Any:
        return lambda: opening(schema='of "a" 100% team', batch=7)


class TestSignedPostgresStore(StoreContract):
    examples = 5

    @pytest.fixture
    def open_store(self, opening: Any) -> Any:
        return lambda: opening(sign=SECRET)


def put(store: PostgresStore, numbers: list[int], dimension: int = 5) -> None:
    store.space(IDENTITY).put_many(map(key_of, numbers), vectors_of(numbers, dimension))


def found(store: PostgresStore, numbers: list[int]) -> list[int]:
    """Look numbers up; return those that are found, each with the vector that is its own."""
    hits = store.space(IDENTITY).get_many(map(key_of, numbers))
    there = [numbers[at] for at in hits.positions]
    assert np.array_equal(hits.vectors.reshape(-1, 5), vectors_of(there))
    return there


def put_anew(url: str, table: str, numbers: list[int]) -> None:
    put(patient_store(url, table=table), numbers)


def test_threads_and_processes_that_make_the_tables_at_once_all_succeed(postgres: Server, table: str) -> None:
    url, apart = postgres_url(postgres.port), multiprocessing.get_context("forkserver")
    apart.set_forkserver_preload([__name__])
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with ProcessPoolExecutor(4, apart) as processes, ThreadPoolExecutor(8) as threads:
        with psycopg.connect(url) as first:
            first.execute("SELECT pg_advisory_xact_lock(1802856033)")
            jobs = [processes.submit(put_anew, url, table, [at, 100]) for at in range(4)]
            jobs += [threads.submit(put_anew, url, table, [at, 100]) for at in range(4, 12)]
            until(lambda: postgres_says(url, waiting) == [(12,)], "not all are about to make the tables")
        for job in jobs:
            job.result()
    assert found(patient_store(url, table=table), [*range(12), 100]) == [*range(12), 100]


def test_writes_and_deletes_in_opposite_orders_wait_for_no_other(
    postgres: Server, store: PostgresStore
) -> None:
    put(store, [0])
    space = store.space(IDENTITY)
    together, many = Barrier(4), list(range(600))

    def work(worker: int) -> None:
        numbers = many[:: 1 if worker % 2 else -1]
        for turn in range(6):
            together.wait()
            vectors = vectors_of(numbers) + np.float32(worker + turn)
            if worker == 3:
                space.delete_many(map(key_of, numbers))
            else:
                space.put_many(map(key_of, numbers), vectors)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert "deadlock" not in (postgres.directory / "server.log").read_text()


@pytest.fixture
def bouncer(postgres: Server) -> Iterator[Server]:
    with pgbouncer(postgres, pool=2) as server:
        yield server


def test_it_works_behind_pgbouncer(bouncer: Server, table: str) -> None:
    store = patient_store(postgres_url(bouncer.port), table=table, batch=16)

    def work(worker: int) -> None:
        numbers = list(range(100 * worker, 100 * worker + 100))
        for _ in range(3):
            put(store, numbers)
            assert found(store, numbers) == numbers

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert len([*store.space(IDENTITY).keys()]) == 600


def test_a_wrong_password_is_told_and_never_shown(
    postgres: Server, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = patient_store(postgres_url(postgres.port, password="MARKED-wrong"), table=table)
    with pytest.raises(ConnectionError, match="password authentication failed") as error:
        found(store, [1])
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), store)
    assert cached.embed_sync(["a"]) == FakeEmbeddingModel().lists(["a"])
    shown = [repr(store), str(error.value), repr(error.value), repr(store.space(IDENTITY)), caplog.text]
    assert "MARKED" not in " ".join(shown)
    assert "kura" in repr(store)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://kura:MARKED/x@host/d",
        "postgresql://kura:12/MARKED@host/d",
        "postgresql://kura:M@R:MARKED@host/d",
        "postgresql://kura:M@MARKED@host/d",
        "postgresql://kura:M?R@MARKED@host/d",
        "MARKED",
        "a=MARKED",
    ],
)
def test_an_address_that_is_none_is_refused_without_being_quoted(address: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded") as error:
        PostgresStore(address)
    assert "MARKED" not in str(error.value)
    assert error.value.__cause__ is error.value.__context__ is None


def test_who_may_only_read_reads_and_makes_nothing(postgres: Server, opening: Any, table: str) -> None:
    url = postgres_url(postgres.port)
    grant = f"GRANT SELECT ON {table}, {table}_spaces TO {table}_reader"
    postgres_says(url, f"CREATE ROLE {table}_reader LOGIN PASSWORD 'reads'")
    reader = patient_store(postgres_url(postgres.port, f"{table}_reader", "reads"), table=table)
    assert found(reader, [1]) == []
    assert reader.spaces() == []
    with pytest.raises(PermissionError, match="schema public"):
        put(reader, [1])
    put(opening(), [1, 2])
    postgres_says(url, grant)
    assert found(reader, [1, 2, 3]) == [1, 2]
    assert reader.spaces() == [IDENTITY]
    with pytest.raises(PermissionError, match=f"denied for table {table}"):
        put(reader, [3])


def test_tables_that_were_dropped_are_made_again(postgres: Server, store: PostgresStore, table: str) -> None:
    put(store, [1])
    postgres_says(postgres_url(postgres.port), f"DROP TABLE {table}, {table}_spaces")
    assert found(store, [1]) == []
    assert store.space(IDENTITY).delete_many([key_of(1)]) == 0
    put(store, [2])
    assert found(store, [1, 2]) == [2]
    assert store.spaces() == [IDENTITY]


def test_a_server_that_was_killed_is_used_again_when_it_is_back(table: str) -> None:
    with postgres_server() as server:
        store = patient_store(postgres_url(server.port), table=table)
        put(store, [1])
        with ThreadPoolExecutor(4) as threads:  # several connections lie idle
            list(threads.map(found, [store] * 8, [[1]] * 8))
        server.signal(signal.SIGQUIT)
        assert server.process is not None
        server.process.wait()
        with pytest.raises(ConnectionError, match="refused"):
            found(store, [1])
        server.start()
        assert found(store, [1]) == [1]
        put(store, [2])
        server.signal(signal.SIGQUIT)
        server.process.wait()
        server.start()
        put(store, [3])  # over what was a connection to the one before
        assert found(store, [1, 2, 3]) == [1, 2, 3]


def test_a_server_that_waits_costs_a_deadline(postgres: Server, opening: Any, table: str) -> None:
    store = opening(timeout=0.3)
    put(store, [1])
    with psycopg.connect(postgres_url(postgres.port)) as other:
        other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        for call in (found, put):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                call(store, [1])
            assert 0.3 <= time.monotonic() - began < 10
    assert found(store, [1]) == [1]


def test_what_nobody_waits_for_any_more_does_not_go_on_at_the_server(
    postgres: Server, opening: Any, table: str
) -> None:
    psycopg.capabilities.has_cancel_safe() or pytest.skip("needs libpq 17")
    store = opening(timeout=0.2)
    put(store, [1])
    with psycopg.connect(postgres_url(postgres.port)) as other:
        other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                found(store, [1])
        waiting = f"SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND NOT granted"
        until(lambda: other.execute(waiting).fetchall() == [(0,)], "the server still waits for the lock")


@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout"])
def test_what_the_server_cancels_is_asked_once(
    setting: str, postgres: Server, table: str, opening: Any
) -> None:
    put(opening(), [1])
    store = patient_store(f"{postgres_url(postgres.port)}?options=-c%20{setting}%3D50ms", table=table)
    with psycopg.connect(postgres_url(postgres.port)) as other:
        other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(OSError, match="canceling statement"):
            found(store, [1])
    told = f"canceling statement due to {setting.replace('_', ' ')}"
    assert (postgres.directory / "server.log").read_text().count(told) == 1


def test_a_database_that_only_read_for_a_while_is_written_to_at_once(
    own_database: Callable[[], str], table: str
) -> None:
    url = own_database()
    store = patient_store(url, table=table)
    put(store, [1])
    store.close()
    change = f"ALTER DATABASE {table} {{}} default_transaction_read_only"
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(change.format("SET") + " = on")
        with ThreadPoolExecutor(4) as threads:  # several connections lie idle
            list(threads.map(store.connections.rows, ["SELECT pg_sleep(0.2)"] * 4))
        with pytest.raises(PermissionError, match="read-only"):
            put(store, [2])
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(store.connections.rows, ["SELECT pg_sleep(0.2)"] * 4))
        owner.execute(change.format("RESET"))
    put(store, [2])
    assert found(store, [1, 2]) == [1, 2]


def test_a_server_that_is_far_away_has_its_time_for_each_query(
    postgres: Server, store: PostgresStore, table: str
) -> None:
    put(store, [1])
    proxy = Proxy(postgres.port, delay=0.15)  # and a connection is five answers
    far = patient_store(postgres_url(proxy.port), table=table, timeout=0.5)
    proxy.set("delay")
    assert found(far, [1]) == [1]
    proxy.close()


def test_a_guarded_call_that_has_to_connect_has_the_time_for_that(
    postgres: Server, store: PostgresStore, table: str
) -> None:
    put(store, [1])
    proxy = Proxy(postgres.port, delay=0.12)
    far = patient_store(postgres_url(proxy.port), table=table)
    remote = Remote(far, read_timeout=0.45, connect_timeout=20)
    space = remote.space(IDENTITY)
    assert len(space.get_many([key_of(1)]).positions) == 1
    proxy.set("delay")
    with ThreadPoolExecutor(1) as threads:
        threads.submit(far.connections.rows, "SELECT pg_sleep(1)")
        until(lambda: not far.connected, "the connection is not in use")
        assert len(space.get_many([key_of(1)]).positions) == 1
    assert remote.tier_stats()[0].timeouts == 0
    proxy.close()


def test_a_connection_that_has_answered_meanwhile_is_not_closed(store: PostgresStore) -> None:
    put(store, [1])
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(store.connections.rows, ["SELECT pg_sleep(0.2)"] * 3))
    asked = time.monotonic()
    assert found(store, [1]) == [1]
    store.disconnect(before=asked)
    assert len(store.connections._idle) == 1
    assert found(store, [1]) == [1]
    store.disconnect(before=time.monotonic())
    assert not store.connected


_HUNG = """
import sys, time
from kura_cache_adapters import PostgresStore, Remote
from kura_cache_adapters.testing.stores import IDENTITY, key_of
from tests.faults.proxy import Proxy

port, url = int(sys.argv[1]), sys.argv[2]
proxy = Proxy(port)
store = PostgresStore(url.replace(str(port), str(proxy.port)), timeout=60, batch=1)
space, ask = store.space(IDENTITY), store.connections.rows

def ask_until_it_hangs(*given, **named):
    asked.append(given)
    if len(asked) > 1:
        proxy.set("hang")
    return ask(*given, **named)

asked, store.connections.rows = [], ask_until_it_hangs
assert not len(Remote(store).space(IDENTITY).get_many(map(key_of, range(3))).positions)
assert len(asked) > 1
print(time.monotonic())
"""


def test_a_process_that_ends_does_not_wait_for_a_server_that_hangs(postgres: Server) -> None:
    command = [sys.executable, "-c", _HUNG, str(postgres.port), postgres_url(postgres.port)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert time.monotonic() - float(told.stdout) < 5


def test_connections_are_kept_alive_and_an_address_may_say_how(postgres: Server, table: str) -> None:
    for options, idle in (("", 30), ("?keepalives_idle=7", 7)):
        store = patient_store(postgres_url(postgres.port) + options, table=table)
        found(store, [1])
        (connection,) = store.connections._idle
        with socket.socket(fileno=os.dup(connection.fileno())) as plug:
            assert plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == idle


def test_a_time_for_connecting_in_a_url_is_the_guards_and_the_drivers() -> None:
    for told, libpqs in (("7", 7), ("0.5", 1), ("7.0", 7)):
        guarded: Any = open_store(f"postgresql://localhost/vectors?connect_timeout={told}&read_timeout=3")
        assert guarded.guard._connect_timeout == float(told)
        assert guarded.store.connections._settings["connect_timeout"] == libpqs
        assert "read_timeout" not in guarded.store.connections.conninfo
    alone: Any = PostgresStore("postgresql://localhost/vectors?connect_timeout=7")
    assert int(alone.connections._settings["connect_timeout"]) == 7
    with pytest.raises(ValueError, match="positive"):
        open_store("postgresql://localhost/vectors?connect_timeout=0")


def test_a_server_that_is_stopped_costs_a_deadline(table: str) -> None:
    with postgres_server() as server:
        store = patient_store(postgres_url(server.port), table=table, timeout=0.3, connect_timeout=2)
        put(store, [1])
        server.signal_all(signal.SIGSTOP)
        for least in (0.3, 1.9):  # over the connection that there is, and for a new one
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                found(store, [1])
            assert least <= time.monotonic() - began < 10
        server.signal_all(signal.SIGCONT)
        assert found(store, [1]) == [1]


def test_a_forked_child_has_connections_of_its_own(store: PostgresStore) -> None:
    put(store, [1])
    pid = os.fork()
    if not pid:
        status = 1
        try:
            put(store, [2])
            status = 0 if found(store, [1, 2]) == [1, 2] else 2
        finally:
            store.close()
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert found(store, [1, 2]) == [1, 2]


def test_a_forked_child_that_closes_the_store_leaves_the_connections_of_its_parent(
    store: PostgresStore,
) -> None:
    put(store, [1])
    [connection] = store.connections._idle
    pid = os.fork()
    if not pid:
        store.close()
        os._exit(store.connected)
    assert os.waitpid(pid, 0)[1] == 0
    assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_a_pool_may_be_handed_over_and_stays_its_owners(postgres: Server, table: str) -> None:
    pools = pytest.importorskip("psycopg_pool", reason="needs the extra `postgres`")
    from psycopg.rows import dict_row

    how = {"row_factory": dict_row}
    with pools.ConnectionPool(postgres_url(postgres.port), min_size=1, kwargs=how, open=True) as pool:
        store = PostgresStore(pool, table=table, connect_timeout=30)
        put(store, [1, 2])
        store.close()
        assert found(store, [1, 2, 3]) == [1, 2]
        copied = pickle.loads(pickle.dumps(store))
        assert found(copied, [1, 2, 3]) == [1, 2]
        pid = os.fork()
        if not pid:
            os._exit(0 if found(store, [1]) == [1] == found(store, [1]) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert "MARKED" not in repr(store) + repr(copied)
    assert found(copied, [1]) == [1]


def test_a_pool_may_ask_a_function_for_its_address() -> None:
    pools = pytest.importorskip("psycopg_pool", reason="needs the extra `postgres`")
    pool = pools.ConnectionPool(lambda: "postgresql://kura:MARKED@host/d", open=False)
    assert repr(PostgresStore(pool)).startswith("PostgresStore('host=host dbname=d user=kura'")


def age(postgres: Server, table: str, numbers: list[int], days: int) -> None:
    keys = ", ".join(f"'\\x{key_of(number).hex()}'" for number in numbers)
    old = f"UPDATE {table} SET stored_on = stored_on - {days} WHERE key IN ({keys})"
    postgres_says(postgres_url(postgres.port), old)


def test_prune_drops_the_days_that_are_too_old(postgres: Server, store: PostgresStore, table: str) -> None:
    put(store, list(range(9)))
    age(postgres, table, [0, 1], 40)
    age(postgres, table, [2], 20)
    space = store.space(IDENTITY)
    assert isinstance(space, KeepsParts)
    assert [part.entries for part in space.parts()] == [2, 1, 6]
    with open_cache(store) as cache:
        assert cache.prune(older_than=timedelta(days=30), dry_run=True).entries == 2
        assert found(store, list(range(9))) == list(range(9))
        receipt = cache.prune(older_than=timedelta(days=30))
        assert (receipt.entries, receipt.parts) == (2, 1)
        assert found(store, list(range(9))) == [2, 3, 4, 5, 6, 7, 8]
        size = space.stats().nbytes
        assert size == 7 * (32 + 16 + 5 * 4)
        assert cache.prune(max_bytes=size - 1).entries == 1
        assert found(store, list(range(9))) == [3, 4, 5, 6, 7, 8]
        assert "MARKED" not in repr(receipt)


def test_what_it_does_not_note_it_does_not_prune_by(store: PostgresStore) -> None:
    put(store, [1])
    with open_cache(store) as cache:
        with pytest.raises(UnsupportedError, match="older_than"):
            cache.prune(unused_for=timedelta(days=1))
        assert cache.compact().spaces == ()
        [info] = cache.spaces()
        assert info.last_use is None
        assert info.oldest_write is not None
    assert found(store, [1]) == [1]


def test_spaces_are_counted_and_removed(store: PostgresStore) -> None:
    other = ModelIdentity.of("another")
    put(store, [1, 2, 3])
    store.space(other).put_many([key_of(9)], vectors_of([9], 8))
    with open_cache(store) as cache:
        assert {info.identity: (info.entries, info.dimension) for info in cache.spaces()} == {
            IDENTITY: (3, 5),
            other: (1, 8),
        }
        assert cache.rm(IDENTITY).entries == 3
        assert store.spaces() == [other]
    put(store, [4], dimension=6)  # a space that is empty has no dimension


def test_forget_reaches_every_space_and_tells_what_was_there(store: PostgresStore) -> None:
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), store)
    cached.embed_sync(["a", "b", "c"])
    receipt = cached.forget(["a", "nobody"])
    assert receipt.complete
    assert receipt.there == 1
    cached.embed_sync(["a", "b", "c"])
    assert (cached.stats.misses, cached.stats.hits) == (4, 2)


def test_a_damaged_entry_is_a_miss_and_replaced_by_the_next_write(
    postgres: Server, store: PostgresStore, table: str
) -> None:
    put(store, [1, 2])
    damage = f"UPDATE {table} SET value = set_byte(value, 20, 255) WHERE key = '\\x{key_of(1).hex()}'"
    postgres_says(postgres_url(postgres.port), damage)
    hits = store.space(IDENTITY).get_many(map(key_of, [1, 2]))
    assert (hits.positions.tolist(), hits.invalid) == ([1], 1)
    with open_cache(store) as cache:
        assert not cache.verify().sound
    put(store, [1, 2])
    assert found(store, [1, 2]) == [1, 2]


def test_what_was_not_signed_is_a_miss_and_paid_once(opening: Any) -> None:
    put(opening(), [1])
    hits = opening(sign=SECRET).space(IDENTITY).get_many([key_of(1)])
    assert (len(hits.positions), hits.invalid) == (0, 1)
    put(opening(sign=SECRET), [1])
    assert found(opening(sign=SECRET), [1]) == [1]
    assert SECRET not in repr(opening(sign=SECRET))


def test_keys_are_listed_a_page_at_a_time(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kura_cache_adapters.stores.postgres._KEYS_AT_ONCE", 7)
    put(store, list(range(30)))
    assert list(store.space(IDENTITY).keys()) == sorted(map(key_of, range(30)))


def test_an_identity_that_cannot_be_read_is_ignored(
    postgres: Server, store: PostgresStore, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, [1])
    postgres_says(
        postgres_url(postgres.port),
        f"INSERT INTO {table}_spaces VALUES (7, 'what is this')",
        f"INSERT INTO {table} (space, key, value) VALUES (7, 'k', 'v')",
    )
    assert store.spaces() == [IDENTITY]
    assert "Ignored" in caplog.text


def test_a_url_has_options_of_the_store_and_of_the_driver(postgres: Server) -> None:
    options = "schema=of_urls&timeout=3&sslmode=disable&application_name=mine&batch=7"
    guarded = open_store(f"{postgres_url(postgres.port)}?{options}&read_timeout=30")
    assert isinstance(guarded, Remote)
    store = guarded.store
    assert isinstance(store, PostgresStore)
    put(store, [1, 2])
    assert found(store, [1, 2]) == [1, 2]
    names = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name = 'mine'"
    assert postgres_says(postgres_url(postgres.port), names) == [("mine",)]
    assert postgres_says(postgres_url(postgres.port), "SELECT count(*) FROM of_urls.kura_cache") == [(2,)]
    for wrong in ("nothing=1", "timeout=soon", "timeout=0", "timeout=inf", "batch=0"):
        with pytest.raises(ValueError, match="its options are: schema=") as error:
            open_store(f"{postgres_url(postgres.port)}?{wrong}")
        assert "MARKED" not in str(error.value)
        assert "MARKED" not in repr(error.value.__cause__)


def test_without_the_extra_its_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"kura-cache-adapters\[postgres\]"):
        open_store("postgresql://localhost/vectors")


def test_the_page_shows_the_tables_that_are_made() -> None:
    from kura_cache_adapters.stores.postgres_statements import Statements

    page = (Path(__file__).parents[1] / "docs" / "stores.md").read_text()
    shown = page.partition("```sql\n")[2].partition("```")[0]
    assert Statements.over("kura_cache", None).make.strip().endswith("\n" + shown.strip())
