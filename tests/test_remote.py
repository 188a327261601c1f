"""The guard around a store on a server: its deadlines, its circuit, its backlog, and lists of caches."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pytest

from kura_cache_adapters import (
    ArrowStore,
    Breaker,
    Cache,
    CachedEmbeddingModel,
    CacheOptions,
    Guarded,
    MemoryStore,
    Remote,
    Stored,
    TieredStore,
    UnreachableError,
    open_cache,
)
from kura_cache_adapters._guard import backlog
from kura_cache_adapters._guard.breaker import Circuit
from kura_cache_adapters.protocols import Hits
from kura_cache_adapters.stores import as_store, remote
from kura_cache_adapters.testing import FakeEmbeddingModel, StoreContract
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore

QUICK: dict[str, Any] = {
    "read_timeout": 0.1,
    "connect_timeout": 0.1,
    "breaker": Breaker(rest=0.1, longest=0.2),
}
KEYS = [*map(key_of, range(9))]
VECTORS = vectors_of([*range(9)])


class TestWrittenThrough(StoreContract):
    write: ClassVar[Literal["behind", "through"]] = "through"
    examples = 8

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: Remote(ArrowStore(tmp_path / "cache"), write=self.write)


class TestMemoryWrittenThrough(TestWrittenThrough):
    persistent = False

    @pytest.fixture
    def open_store(self) -> Callable[[], EmbeddingStore]:
        return lambda: Remote(MemoryStore(), write=self.write)


class TestMemoryWrittenBehind(TestMemoryWrittenThrough):
    write = "behind"


class TestWrittenBehind(TestWrittenThrough):
    write = "behind"


class Server:
    """A store whose calls hang or fail for as long as it is told so, and are counted."""

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.well = threading.Event()
        self.well.set()
        self.error: Exception | None = None
        self.calls: list[tuple[str, int]] = []
        self.closed = 0

    def space(self, identity: ModelIdentity) -> Any:
        return ServedSpace(self, self.inner.space(identity))

    def spaces(self) -> list[ModelIdentity]:
        return self.inner.spaces()

    def close(self) -> None:
        self.closed += 1

    def recover(self) -> None:
        self.error = None
        self.well.set()

    def asked(self, name: str) -> list[int]:
        return [keys for each, keys in self.calls if each == name]


class ServedSpace:
    def __init__(self, server: Server, space: Any) -> None:
        self.server, self.inner = server, space

    def __getattr__(self, name: str) -> Any:
        if name not in {"get_many", "put_many", "delete_many", "keys", "stats"}:
            raise AttributeError(name)

        def call(*given: Any, **named: Any) -> Any:
            self.server.calls.append((name, len(given[0]) if given else 0))
            self.server.well.wait(30)
            if self.server.error is not None:
                raise self.server.error
            return getattr(self.inner, name)(*given, **named)

        return call


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.well.set()


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def seconds_of(call: Callable[[], object]) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def test_a_store_that_hangs_costs_one_deadline_then_next_to_nothing(server: Server) -> None:
    space = Remote(server, **QUICK).space(IDENTITY)
    space.put_many(KEYS, VECTORS)
    server.well.clear()
    assert 0.1 <= seconds_of(lambda: space.get_many(KEYS)) < 0.4
    times = sorted(seconds_of(lambda: space.get_many(KEYS)) for _ in range(300))
    assert times[270] < 0.003
    assert not len(space.get_many(KEYS).positions)


def test_it_is_found_well_in_a_thread_and_by_one_probe_at_a_time(server: Server) -> None:
    space = Remote(server, **QUICK).space(IDENTITY)
    space.put_many(KEYS, VECTORS)
    server.well.clear()
    space.get_many(KEYS)
    server.calls.clear()
    until(lambda: len(space.get_many(KEYS).positions) or server.asked("get_many"))
    for _ in range(20):
        space.get_many(KEYS)
    assert len(server.asked("get_many")) == 1
    server.well.set()
    until(lambda: len(space.get_many(KEYS).positions) == 9)
    assert np.array_equal(space.get_many(KEYS).vectors, VECTORS)


def test_few_calls_hang_at_once(server: Server) -> None:
    options = {**QUICK, "read_timeout": 0.001, "connect_timeout": 0.001}
    options["breaker"] = Breaker(rest=0.001, longest=0.001)
    space = Remote(server, **options).space(IDENTITY)
    server.well.clear()
    for _ in range(200):
        space.get_many(KEYS)
        time.sleep(0.002)
    assert 1 < len(server.asked("get_many")) <= 16
    server.well.set()
    until(lambda: space.get_many(KEYS) is not None and space._guard.circuits["read"].closed)


def test_each_probe_that_fails_doubles_the_rest_up_to_the_longest() -> None:
    circuit, rests = Circuit(Breaker(rest=0.01, longest=0.04)), []
    circuit.failed(1.0, 1.0)
    for _ in range(4):
        rests.append(circuit.waits)
        time.sleep(circuit.waits)
        assert circuit.probe(1.0)
        assert not circuit.probe(1.0)
        circuit.failed(0.1, 1.0)
    assert rests == pytest.approx([0.01, 0.02, 0.04, 0.04], abs=0.005)


def test_a_probe_that_does_not_come_back_has_failed() -> None:
    circuit = Circuit(Breaker(rest=0.01, longest=0.04))
    circuit.failed(1.0, 1.0)
    time.sleep(0.011)
    assert circuit.probe(0.01)
    time.sleep(0.011)
    assert not circuit.probe(0.01)
    assert 0.01 < circuit.waits <= 0.02


def test_what_a_probe_finds_does_not_shorten_the_next_rest_but_what_a_call_finds_does() -> None:
    circuit = Circuit(Breaker(rest=0.01, longest=1.0))
    circuit.failed(1.0, 1.0)
    assert circuit.worked(probe=True)
    circuit.failed(1.0, 1.0)
    assert circuit.waits > 0.01
    circuit.worked(probe=True)
    circuit.worked()
    circuit.failed(1.0, 1.0)
    assert circuit.waits <= 0.01


def test_a_time_out_of_the_stores_own_opens_the_circuit_at_once(server: Server) -> None:
    space = Remote(server, **QUICK).space(IDENTITY)
    space.get_many(KEYS)
    server.error = TimeoutError("timed out")
    server.calls.clear()
    for _ in range(20):
        space.get_many(KEYS)
    assert len(server.calls) == 1


def test_errors_open_the_circuit_when_there_are_five_of_them(server: Server) -> None:
    space = Remote(server, **QUICK).space(IDENTITY)
    space.get_many(KEYS)
    server.error = PermissionError(13, "forbidden")
    server.calls.clear()
    for _ in range(20):
        space.get_many(KEYS)
    assert len(server.calls) == 5


def test_an_error_is_no_miss(server: Server) -> None:
    store = Remote(server, **QUICK)
    space = store.space(IDENTITY)
    space.put_many(KEYS[:4], VECTORS[:4])
    space.get_many(KEYS)
    server.error = PermissionError(13, "forbidden")
    space.get_many(KEYS)
    server.error = None
    server.well.clear()
    space.get_many(KEYS)
    (stats,) = store.tier_stats()
    assert (stats.hits, stats.misses, stats.errors, stats.timeouts) == (4, 5, 1, 1)
    time.sleep(0.02)
    assert 0.01 < store.tier_stats()[0].open_seconds < 5


def test_an_answer_that_is_none_is_an_error(server: Server) -> None:
    store = Remote(server, **QUICK)
    space = store.space(IDENTITY)
    space.put_many(KEYS, VECTORS)
    answer = Hits(np.array([99]), VECTORS[:1])
    server.inner.space(IDENTITY).get_many = lambda keys: answer  # type: ignore[method-assign]  # noqa: ARG005
    assert not len(space.get_many(KEYS).positions)
    assert store.tier_stats()[0].errors == 1


def test_what_waits_to_be_written_is_found_before_it_is(server: Server) -> None:
    space = Remote(server, **QUICK).space(IDENTITY)
    space.put_many(KEYS[:1], VECTORS[:1])
    server.well.clear()
    assert seconds_of(lambda: space.put_many(KEYS[1:], VECTORS[1:])) < 0.05
    hits = space.get_many([key_of(99), *KEYS[1:]])
    assert hits.positions.tolist() == [*range(1, 9)]
    assert np.array_equal(hits.vectors, VECTORS[1:])
    server.well.set()
    until(lambda: server.inner.space(IDENTITY).stats().rows == 9)


def test_a_backlog_that_is_full_drops_and_counts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_BACKLOG", 4 * (VECTORS[0].nbytes + 200))
    store = Remote(server, **QUICK)
    space = store.space(IDENTITY)
    space.put_many(KEYS[:1], VECTORS[:1])
    server.well.clear()
    space.put_many(KEYS[1:], VECTORS[1:])
    (stats,) = store.tier_stats()
    assert (stats.backlog, stats.dropped) == (4, 4)
    assert space.dropped() == {*KEYS[5:]}
    assert not space.dropped()


def test_what_waits_is_counted_once_also_of_another_type(server: Server) -> None:
    store = Remote(server, **QUICK)
    server.error = ConnectionError()
    for vectors in (VECTORS, VECTORS.astype(np.float64)):
        store.space(IDENTITY).put_many(KEYS, vectors)
    (stats,) = store.tier_stats()
    assert (stats.backlog, store.backlog.nbytes) == (9, 9 * (VECTORS[0].nbytes * 2 + 200))
    server.error = None
    until(lambda: store.backlog.flush(1.0))
    assert not store.backlog.nbytes


def test_what_is_put_anew_while_it_is_written_is_written_too(server: Server) -> None:
    store = Remote(server, **{**QUICK, "read_timeout": 10})
    space = store.space(IDENTITY)
    space.put_many(KEYS, VECTORS)
    server.well.clear()
    space.put_many(KEYS, VECTORS)
    until(lambda: len(server.asked("put_many")) == 2)
    space.put_many(KEYS[:1], VECTORS[:1])
    server.well.set()
    assert store.backlog.flush(5.0)
    assert server.asked("put_many") == [9, 9, 1]


def test_of_a_first_put_behind_one_batch_is_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, waiting = Remote(server, **QUICK), []
    monkeypatch.setattr(store.backlog, "add", lambda _, keys, vectors: waiting.append((len(keys), vectors)))
    numbers = [*range(backlog.BATCH + 9)]
    store.space(IDENTITY).put_many([*map(key_of, numbers)], vectors_of(numbers))
    assert server.asked("put_many") == [backlog.BATCH]
    ((count, vectors),) = waiting
    assert count == 9
    assert np.array_equal(vectors, vectors_of(numbers[backlog.BATCH :]))


def test_a_server_of_another_dimension_hides_nothing_that_is_here(server: Server, tmp_path: Path) -> None:
    local = ArrowStore(tmp_path)
    local.space(IDENTITY).put_many(KEYS[:8], VECTORS[:8])
    server.inner.space(IDENTITY).put_many(KEYS[8:], vectors_of([8], 7))
    space = TieredStore(MemoryStore(), local, Remote(server, **QUICK)).space(IDENTITY)
    alone = space.get_many(KEYS[8:])
    assert (len(alone.positions), alone.invalid) == (0, 1)
    assert np.array_equal(space.get_many(KEYS).vectors, VECTORS[:8])


def test_the_local_tier_owes_what_was_dropped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_BACKLOG", 4 * (VECTORS[0].nbytes + 200))
    guarded = Remote(server, **QUICK)
    space = TieredStore(ArrowStore(tmp_path), guarded).space(IDENTITY)
    space.put_many(KEYS[:1], VECTORS[:1])
    server.well.clear()
    space.put_many(KEYS[1:], VECTORS[1:])
    server.well.set()
    until(lambda: guarded.backlog.flush(1.0) and guarded.guard.circuits["write"].closed)
    for number in range(10, 13):  # what was dropped comes with these, as there is room
        space.put_many([key_of(number)], vectors_of([number]))
        guarded.backlog.flush(1.0)
    served = server.inner.space(IDENTITY)
    assert np.array_equal(served.get_many(KEYS).vectors, VECTORS)


def test_what_the_server_never_takes_is_not_owed(server: Server) -> None:
    server.inner.space(IDENTITY).put_many([key_of(99)], vectors_of([99], 7))
    server.error = ConnectionError()
    store = Remote(server, **QUICK)
    space = store.space(IDENTITY)
    space.put_many(KEYS, VECTORS)
    server.error = None
    until(lambda: store.tier_stats()[0].dropped == 9)
    assert not space.dropped()
    assert not store.tier_stats()[0].backlog


def test_what_is_forgotten_while_it_waits_is_never_written(server: Server, tmp_path: Path) -> None:
    guarded = Remote(server, **QUICK)
    store = TieredStore(ArrowStore(tmp_path), guarded)
    space = store.space(IDENTITY)
    space.put_many(KEYS[:1], VECTORS[:1])
    server.error = ConnectionError()
    space.put_many(KEYS[1:], VECTORS[1:])
    assert not Cache(store).forget(KEYS[1:2]).complete
    ArrowStore(tmp_path).forget(KEYS[2:3], days=1, within=None)  # as another process does
    until(lambda: len(space.get_many(KEYS).positions) == 7)
    server.error = None
    until(lambda: guarded.backlog.flush(1.0))
    assert server.inner.space(IDENTITY).get_many(KEYS).positions.tolist() == [0, *range(3, 9)]


def test_a_look_up_does_not_wait_for_a_server_to_forget(server: Server, tmp_path: Path) -> None:
    space = TieredStore(Remote(server, **QUICK), ArrowStore(tmp_path)).space(IDENTITY)
    space.put_many(KEYS, VECTORS)
    ArrowStore(tmp_path).forget(KEYS[:1], days=1, within=None)
    until(lambda: space.get_many(KEYS).positions.tolist() == [*range(1, 9)])
    assert not server.asked("delete_many")


def test_closing_writes_what_waits_and_gives_up_what_it_cannot(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Remote(server, **QUICK)
    space = store.space(IDENTITY)
    space.put_many(KEYS[:1], VECTORS[:1])
    space.put_many(KEYS[1:4], VECTORS[1:4])
    store.close()
    assert server.inner.space(IDENTITY).stats().rows == 4
    server.well.clear()
    space.put_many(KEYS[4:], VECTORS[4:])
    store.space(replace(IDENTITY, model_name="another")).put_many(KEYS[:1], VECTORS[:1])
    monkeypatch.setattr(remote, "_FLUSH", 0.5)
    assert seconds_of(store.close) < 1
    assert store.tier_stats()[0].dropped == 6
    assert not store.tier_stats()[0].backlog
    (told,) = [each for each in caplog.messages if "not written" in each]
    assert "6 entries were not written" in told
    assert '["./cache", "redis://..."]' in told


@pytest.mark.parametrize("dead", ["hangs", "refuses"])
def test_closing_writes_what_waits_to_a_server_that_is_well_again_in_time(server: Server, dead: str) -> None:
    stores = [Remote(server, **{**QUICK, "breaker": Breaker()}), Remote(server, **QUICK)]
    for at, store in enumerate(stores):
        store.space(IDENTITY).put_many(KEYS[at : at + 1], VECTORS[at : at + 1])
    if dead == "hangs":
        server.well.clear()
    else:
        server.error = ConnectionRefusedError()
    for at, store in enumerate(stores):
        store.space(IDENTITY).put_many(KEYS[3 * at + 2 :][:3], VECTORS[3 * at + 2 :][:3])
    threading.Timer(0.6, server.recover).start()
    backlog.empty([each.backlog for each in stores], remote._FLUSH)
    assert [store.tier_stats()[0].dropped for store in stores] == [0, 0]
    assert np.array_equal(server.inner.space(IDENTITY).get_many(KEYS[:8]).vectors, VECTORS[:8])


def test_a_read_only_remote_writes_nothing_and_the_local_tier_all(server: Server, tmp_path: Path) -> None:
    local, guarded = ArrowStore(tmp_path), Remote(server, write="never", **QUICK)
    TieredStore(local, guarded).space(IDENTITY).put_many(KEYS, VECTORS)
    assert local.space(IDENTITY).stats().rows == 9
    assert not server.asked("put_many")


def test_a_local_tier_is_written_before_a_server(server: Server, tmp_path: Path) -> None:
    local = ArrowStore(tmp_path)
    server.well.clear()
    space = TieredStore(local, Remote(server, write="through", **QUICK)).space(IDENTITY)
    writer = threading.Thread(target=space.put_many, args=(KEYS, VECTORS))
    writer.start()
    until(lambda: server.asked("put_many"))
    assert local.space(IDENTITY).stats().rows == 9
    server.well.set()
    writer.join()


def test_a_server_that_is_not_read_is_not_waited_for_by_writes(server: Server) -> None:
    space = Remote(server, write="through", **QUICK).space(IDENTITY)
    space.put_many(KEYS[:1], VECTORS[:1])
    server.well.clear()
    space.get_many(KEYS)
    assert seconds_of(lambda: space.put_many(KEYS, VECTORS)) < 0.05


def test_what_the_local_tier_could_not_store_is_not_stored(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    space = TieredStore(ArrowStore(tmp_path / "file"), Remote(server, **QUICK)).space(IDENTITY)
    with pytest.raises(OSError, match=r".+"):
        space.put_many(KEYS, VECTORS)


def test_operators_are_told_that_a_server_does_not_answer(server: Server) -> None:
    store = Remote(server, **QUICK)
    space = store.space(IDENTITY)
    space.put_many(KEYS[:1], VECTORS[:1])
    server.well.clear()
    with pytest.raises(UnreachableError, match="no answer"):
        space.delete_many(KEYS)
    space.put_many(KEYS[1:], VECTORS[1:])
    with pytest.raises(UnreachableError, match="does not take"):
        store.spaces()


def test_what_an_operator_copies_to_a_server_arrives_or_is_an_error(server: Server, tmp_path: Path) -> None:
    here = open_cache(tmp_path)
    here.store.space(IDENTITY).put_many(KEYS, VECTORS)
    there = open_cache(Remote(server, **QUICK))
    assert here.copy_to(there) == 9
    assert here.copy_to(there) == 0
    assert server.inner.space(IDENTITY).stats().rows == 9
    server.error = PermissionError(13, "forbidden")
    with pytest.raises(PermissionError):
        here.copy_to(there)
    with pytest.raises(PermissionError):
        there.missing(IDENTITY, KEYS)


def test_pickled_it_has_its_options_and_nothing_that_waits(tmp_path: Path) -> None:
    store = Remote(ArrowStore(tmp_path), write="through", read_timeout=0.5)
    again = pickle.loads(pickle.dumps(store))
    assert (again.write, again._options) == ("through", store._options)
    assert repr(again) == repr(store)


def test_options_that_are_none_are_refused() -> None:
    endless = ({"read_timeout": float("inf")}, {"connect_timeout": float("nan")}, {"read_timeout": 1e10})
    for wrong in ({"write": "always"}, {"read_timeout": 0.0}, {"connect_timeout": -1.0}, *endless):
        with pytest.raises(ValueError, match="Remote needs"):
            Remote(MemoryStore(), **wrong)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_writes_nothing_that_its_parent_has_waiting(tmp_path: Path, server: Server) -> None:
    store = Remote(server, **QUICK)
    space = store.space(IDENTITY)
    space.put_many(KEYS[:1], VECTORS[:1])
    server.well.clear()
    space.put_many(KEYS[1:], VECTORS[1:])

    def child() -> None:
        server.well.set()
        server.calls.clear()
        found = len(space.get_many(KEYS).positions)
        (tmp_path / "told").write_text(f"{found} {store.tier_stats()[0].backlog} {server.asked('put_many')}")

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert (tmp_path / "told").read_text() == "1 0 []"
    assert store.tier_stats()[0].backlog == 8


AT_EXIT = """
import sys, threading
from kura_cache_adapters import ArrowStore, Remote
from kura_cache_adapters.stores import remote
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of

store = Remote(ArrowStore(sys.argv[1]), read_timeout=0.2)
space = store.space(IDENTITY)
space.put_many([key_of(0)], vectors_of([0]))
write, gate = space._waiting.write, threading.Event()
remote._FLUSH = 1.0
if sys.argv[2] == "hangs":
    space._waiting.write = lambda *_: gate.wait()
for number in range(1, 50):
    space.put_many([key_of(number)], vectors_of([number]))
"""


@pytest.mark.parametrize("server", ["well", "hangs"])
def test_a_process_that_ends_writes_what_waits_and_does_not_wait_for_a_dead_server(
    server: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", AT_EXIT, str(tmp_path), server]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ArrowStore(tmp_path).space(IDENTITY).stats().rows == (50 if server == "well" else 1)
    assert ("were not written" in ended.stderr) == (server == "hangs")


def test_without_threads_what_waits_is_written_by_those_who_come(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    store = Remote(server, **QUICK)
    space = store.space(IDENTITY)
    space.put_many(KEYS[:1], VECTORS[:1])
    space.put_many(KEYS[1:2], VECTORS[1:2])
    assert server.inner.space(IDENTITY).stats().rows == 2
    server.error = ConnectionError()
    space.put_many(KEYS[2:4], VECTORS[2:4])
    assert store.tier_stats()[0].backlog == 2
    server.error = None
    store.close()
    assert server.inner.space(IDENTITY).stats().rows == 4


def test_what_comes_while_the_writer_goes_is_written(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store, may_go = Remote(server, **QUICK), threading.Event()
    drain, submit = store.backlog._drain, store.backlog._threads.submit

    def linger(starter: int) -> None:
        drain(starter)
        may_go.wait(10)

    def slow(call: Callable[[], Any]) -> Any:
        writer = submit(call)
        until(lambda: server.asked("put_many") == [1, 1] and not store.backlog.waits)
        time.sleep(0.01)
        return writer

    space = store.space(IDENTITY)
    space.put_many(KEYS[:1], VECTORS[:1])
    monkeypatch.setattr(store.backlog, "_drain", linger)
    with monkeypatch.context() as patch:
        patch.setattr(store.backlog._threads, "submit", slow)
        space.put_many(KEYS[1:2], VECTORS[1:2])
    space.put_many(KEYS[2:3], VECTORS[2:3])
    may_go.set()
    until(lambda: server.asked("put_many") == [1, 1, 1])


def test_ctrl_c_in_the_midst_of_a_put_leaves_no_count_of_what_does_not_wait(server: Server) -> None:
    class Interrupted(dict[bytes, Any]):
        def update(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    store = Remote(server, **QUICK)
    space = store.space(IDENTITY)
    space.put_many(KEYS[:1], VECTORS[:1])
    space._waiting.rows = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        space.put_many(KEYS[1:3], VECTORS[1:3])
    space._waiting.rows = {}
    space.put_many(KEYS[3:5], VECTORS[3:5])
    assert store.backlog.flush(5.0)
    until(lambda: (store.tier_stats()[0].backlog, store.backlog.nbytes) == (0, 0))
    assert server.inner.space(IDENTITY).stats().rows == 3


def test_an_exception_of_a_signal_handler_ends_the_waiting(server: Server) -> None:
    def ring(*_: object) -> None:
        raise InterruptedError

    space = Remote(server, read_timeout=20.0).space(IDENTITY)
    server.well.clear()
    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(InterruptedError):
            space.get_many(KEYS)
    finally:
        signal.signal(signal.SIGALRM, former)
    server.well.set()
    assert not len(space.get_many(KEYS).positions)


def test_a_list_is_tiers_from_fast_to_slow(tmp_path: Path) -> None:
    store = as_store(["memory://", tmp_path / "a", None, f"parquet://{tmp_path / 'b'}"])
    assert isinstance(store, TieredStore)
    assert [type(each).__name__ for each in store.stores] == ["MemoryStore", "ArrowStore", "ParquetStore"]
    with pytest.raises(ValueError, match="at least one"):
        as_store([])
    assert as_store([None]) is None
    model = CachedEmbeddingModel(FakeEmbeddingModel(), [tmp_path / "a", str(tmp_path / "b")])
    model.embed_sync(["x"])
    assert open_cache(tmp_path / "b").stats().rows == open_cache(tmp_path / "a").stats().rows == 1


def test_what_is_held_is_counted_here_and_not_on_a_server(tmp_path: Path, server: Server) -> None:
    with open_cache([tmp_path, Remote(server, **QUICK)]) as cache:
        cache.store.space(IDENTITY).put_many(KEYS, VECTORS)
        server.inner.space(IDENTITY).put_many([key_of(99)], vectors_of([99]))
        assert (len(cache), cache.stats().rows, cache.spaces()[0].entries) == (9, 9, 9)


def test_a_store_that_was_handed_in_stays_open(tmp_path: Path, server: Server) -> None:
    memory = MemoryStore()
    with open_cache([memory, tmp_path, server]) as cache:
        cache.store.space(IDENTITY).put_many(KEYS, VECTORS)
    assert memory.space(IDENTITY).stats().rows == 9
    assert not server.closed


def test_read_only_look_ups_ask_all_tiers_and_fill_no_directory(tmp_path: Path, server: Server) -> None:
    store = TieredStore(ArrowStore(tmp_path / "a"), Remote(server, **QUICK))
    other = CachedEmbeddingModel(FakeEmbeddingModel(), Remote(server, **QUICK))
    vectors = other.embed_sync(["x"])
    other.cache.store.settle()  # type: ignore[union-attr]
    model = CachedEmbeddingModel(FakeEmbeddingModel(), store, options=CacheOptions(read_only=True))
    assert model.embed_sync(["x"]) == vectors
    assert model.stats.hits == 1
    assert not (tmp_path / "a").exists()


def test_each_tier_is_counted_apart(tmp_path: Path, server: Server) -> None:
    events: list[Any] = []
    numbers = count()

    def told(change: str) -> list[Guarded]:
        return [each for each in events if isinstance(each, Guarded) and each.change == change]

    store = TieredStore(ArrowStore(tmp_path / "a"), Remote(server, **QUICK))
    options = CacheOptions(observers=(events.append,))
    model = CachedEmbeddingModel(FakeEmbeddingModel(), store, options=options)
    model.embed_sync(["a", "b"])
    model.embed_sync(["a", "b", "c"])
    server.well.clear()
    model.embed_sync(["d"])
    here, there = model.stats.tiers
    assert (here.hits, here.misses, here.remote) == (2, 4, False)
    assert (there.hits, there.misses) == (0, 5)  # two of them again, once they were claimed
    assert (there.timeouts, there.remote) == (1, True)
    assert "time-outs 1" in str(there)
    assert "time-outs" not in str(here)
    (opened,) = told("open")
    assert (opened.action, opened.change, opened.stats.timeouts) == ("read", "open", 1)
    assert "no answer" in opened.reason
    server.well.set()
    until(lambda: model.embed_sync([f"text {next(numbers)}"]) and told("closed"))
    assert told("closed")[0].stats.timeouts == 1


@pytest.mark.parametrize("before", ["nothing", "memory", "a directory"])
def test_what_waits_for_a_server_is_stored_when_it_has_it(
    server: Server, tmp_path: Path, before: str
) -> None:
    guarded = Remote(server, write="through", **QUICK)
    ways: dict[str, list[Any]] = {"nothing": [], "memory": [MemoryStore()], "a directory": [tmp_path]}
    first = ways[before]
    events: list[Any] = []
    options = CacheOptions(observers=(events.append,))
    model, other = (
        CachedEmbeddingModel(FakeEmbeddingModel(), [*first, guarded], options=options) for _ in range(2)
    )
    here = before == "a directory"
    model.embed_sync(["a"])
    server.error = ConnectionError()
    model.embed_sync(["b", "c"])
    other.embed_sync(["d"])
    assert model.add(["e"], FakeEmbeddingModel().lists(["e"])) == here
    assert (model.stats.stored, other.stats.stored) == ((4, 1) if here else (1, 0))
    assert model.stats.tiers[-1].backlog == 4
    server.error = None
    until(lambda: guarded.backlog.flush(1.0) and (model.stats.stored, other.stats.stored) == (4, 1))
    stored = [each for each in events if isinstance(each, Stored)]
    assert sum(each.entries for each in stored) == 5
    assert sum(each.unwritten for each in stored) == (0 if here else 4)
    assert sum(each.nbytes for each in stored) == 5 * stored[0].nbytes


@pytest.mark.parametrize("why", ["no room", "closed", "read only"])
def test_what_a_server_never_gets_is_not_stored(
    server: Server, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(remote, "_FLUSH", 0.1)
    monkeypatch.setattr(remote, "_BACKLOG", 0 if why == "no room" else 1 << 20)
    events: list[Any] = []
    guarded = Remote(server, write="never" if why == "read only" else "through", **QUICK)
    model = CachedEmbeddingModel(
        FakeEmbeddingModel(), guarded, options=CacheOptions(observers=(events.append,))
    )
    server.error = ConnectionError()
    model.embed_sync(["a", "b"])
    if why == "closed":
        guarded.close()
    server.error = None
    guarded.backlog.flush(1.0)
    assert (model.stats.stored, model.stats.save_failures) == (0, 0)
    assert sum(each.unwritten for each in events if isinstance(each, Stored)) == 2
    dropped = [
        each.stats.dropped for each in events if isinstance(each, Guarded) and each.change == "dropped"
    ]
    assert dropped == [2] * (why != "read only")


def test_without_tiers_nothing_is_told_of_them(tmp_path: Path) -> None:
    model = CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path)
    model.embed_sync(["a"])
    assert model.stats.tiers == ()


def test_a_batch_that_waits_keeps_types_apart(server: Server) -> None:
    place = backlog.Waiting(lambda *_: None)
    place.rows = {KEYS[0]: VECTORS[0], KEYS[1]: VECTORS[1].astype(np.float64), KEYS[2]: VECTORS[2]}
    batch = place.batch()
    assert [*batch] == KEYS[:1]
    assert batch[KEYS[0]].dtype == np.float32


class InMemoryByteStore(dict[str, bytes]):
    """A store of the shape and the name of LangChain's."""

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        return [*map(self.get, keys)]

    mset, mdelete, yield_keys = dict[str, bytes].update, dict[str, bytes].clear, dict[str, bytes].keys


def guards(cache: object) -> list[tuple[str, Any]]:
    """Return the tiers on servers of what is opened, without asking anyone."""
    opened: Any = as_store(cache)
    stores = opened.stores if isinstance(opened, TieredStore) else [opened]
    return [(each.write, each) for each in stores if isinstance(each, Remote)]


@pytest.mark.parametrize("volatile", [None, [MemoryStore()], [None, MemoryStore()], InMemoryByteStore()])
def test_a_server_behind_nothing_that_lasts_is_written_through(tmp_path: Path, volatile: object) -> None:
    pytest.importorskip("redis", reason="needs the extra `redis`")
    url = "redis://127.0.0.1:1/0"
    assert [write for write, _ in guards([volatile, url])] == ["through"]
    assert [write for write, _ in guards([volatile, [tmp_path], url])] == ["behind"]


def test_a_url_of_a_server_is_guarded_and_has_the_guards_options(tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="needs the extra `redis`")
    url = "redis://me:MARKED-secret@127.0.0.1:1/0"
    ((write, alone),) = guards(url)
    assert write == "through"
    assert [write for write, _ in guards([tmp_path, url])] == ["behind"]
    assert [write for write, _ in guards(["memory://", url])] == ["through"]
    ((write, guarded),) = guards([tmp_path, f"{url}?ttl=1d&write=never&read_timeout=0.125"])
    assert (write, guarded._options["read_timeout"], guarded.store.ttl) == ("never", 0.125, 86_400)
    with pytest.raises(ValueError, match="write is 'always'") as refused:
        as_store(f"{url}?write=always")
    assert not len(alone.space(IDENTITY).get_many(KEYS).positions)
    told = [repr(alone), repr(alone.space(IDENTITY)), str(alone.tier_stats()), str(refused.value)]
    assert not any("MARKED" in each for each in told)
    with pytest.raises(Exception, match=r"127.0.0.1:1") as error:
        alone.spaces()
    assert "MARKED" not in str(error.value)


def test_the_log_tells_once_of_a_server_that_is_gone_and_no_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("redis", reason="needs the extra `redis`")
    monkeypatch.setattr(remote, "_FLUSH", 0.1)
    url = "redis://me:MARKED-secret@127.0.0.1:1/0"
    model = CachedEmbeddingModel(FakeEmbeddingModel(), [tmp_path, url])
    for number in range(20):
        model.embed_sync([f"text {number}"])
    model.cache.close()  # type: ignore[union-attr]
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([each for each in told if "could not read" in each]) == 1
    assert "MARKED" not in caplog.text
