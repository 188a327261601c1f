"""RedisStore over a cluster whose slots move, and whose masters are frozen or die."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import ArrowStore, Breaker, CachedEmbeddingModel, RedisStore, Remote, TieredStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of
from tests.servers import redis_cluster, redis_server, said, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Server

redis = pytest.importorskip("redis", reason="needs the extra `redis`")

COUNT = 600
KEYS = [*map(key_of, range(COUNT))]
VECTORS = vectors_of([*range(COUNT)])


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Server]]:
    with redis_cluster() as served:
        yield served


@pytest.fixture
def space(nodes: list[Server]) -> Iterator[Any]:
    """Return a space full of entries."""
    store = RedisStore(url_of(nodes), cluster=True, timeout=0.3)
    store.space(IDENTITY).put_many(KEYS, VECTORS)
    yield store.space(IDENTITY)
    store.close()


def url_of(nodes: list[Server]) -> str:
    return f"redis://127.0.0.1:{nodes[0].port}"


def found(space: Any) -> int:
    hits = space.get_many(KEYS)
    assert hits.vectors.tobytes() == VECTORS[hits.positions].tobytes()
    return len(hits.positions)


class Mover:
    """Moves slots with a space's keys from the first node to the second, as an operator's tool does.

    In one direction alone: two nodes that take slots at one moment may agree on neither.
    """

    def __init__(self, nodes: list[Server], space: Any) -> None:
        self._port = nodes[1].port
        self._nodes = [redis.Redis(port=node.port) for node in nodes]
        self._ids = [node.execute_command("CLUSTER MYID").decode() for node in self._nodes]
        names: dict[int, list[bytes]] = {}
        for key in KEYS:
            name = space._start + key
            names.setdefault(space._store.client.keyslot(name), []).append(name)
        first = {slot: names[slot] for slot in names if self._count(slot)}
        self.names = dict(sorted(first.items(), key=lambda each: -len(each[1])))

    def move(self, slot: int, *, end: bool = True, keys: int | None = None) -> None:
        """Move a slot; `end=False` leaves it on its way, with so many of its keys there already."""
        self._set(1, slot, "IMPORTING", 0)
        self._set(0, slot, "MIGRATING", 1)
        for name in self.names[slot][:keys]:
            self._nodes[0].execute_command("MIGRATE", "127.0.0.1", self._port, name, 0, 5000)
        for node in (1, 0, 2) if end else ():
            self._set(node, slot, "NODE", 1)

    def _count(self, slot: int) -> int:
        return int(self._nodes[0].execute_command("CLUSTER COUNTKEYSINSLOT", slot))

    def _set(self, node: int, slot: int, state: str, other: int) -> None:
        self._nodes[node].execute_command("CLUSTER SETSLOT", slot, state, self._ids[other])


def test_slots_that_have_moved_or_are_on_their_way_cost_no_entry(nodes: list[Server], space: Any) -> None:
    mover = Mover(nodes, space)
    slots = [*mover.names]
    assert len(mover.names[slots[1]]) > 1
    for slot in slots[2:22]:
        mover.move(slot)
    assert found(space) == COUNT
    for slot in slots[22:42]:
        mover.move(slot)
    space.put_many(KEYS, VECTORS)
    mover.move(slots[0], end=False)
    mover.move(slots[1], end=False, keys=1)
    for _ in range(2):
        assert found(space) == COUNT
        space.put_many(KEYS, VECTORS)
    assert sorted(space.keys()) == sorted(KEYS)
    assert space.delete_many(KEYS) == COUNT
    assert found(space) == 0


def test_a_frozen_master_costs_a_few_timeouts_not_one_for_each_of_its_keys(
    nodes: list[Server], space: Any
) -> None:
    assert found(space) == COUNT
    nodes[2].signal(signal.SIGSTOP)
    try:
        for call in (space.get_many, space.delete_many):
            begun = time.monotonic()
            with pytest.raises(TimeoutError):
                call(KEYS[:256])
            assert time.monotonic() - begun < 2
    finally:
        nodes[2].signal(signal.SIGCONT)
    space.put_many(KEYS, VECTORS)
    assert found(space) == COUNT


@pytest.mark.parametrize("fault", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.long)])
def test_a_replica_that_takes_over_from_a_master_gets_what_waited_and_nothing_is_paid_twice(
    fault: signal.Signals, tmp_path: Path
) -> None:
    options = ("--cluster-node-timeout", "500")
    with (
        redis_cluster(3, *options) as nodes,
        redis_server("--cluster-enabled", "yes", "--repl-diskless-sync-delay", "0", *options) as replica,
    ):
        replicate(replica, nodes[2], nodes)
        remote = Remote(RedisStore(url_of(nodes), cluster=True), breaker=Breaker(rest=0.2, longest=0.4))
        model = FakeEmbeddingModel()
        with CachedEmbeddingModel(model, TieredStore(ArrowStore(tmp_path / "a"), remote)) as cached:
            cached.embed_sync([f"before {at}" for at in range(300)])
            assert remote.backlog.flush(5)
            nodes[2].signal(fault)
            texts = 300
            end = time.monotonic() + 15
            while remote.backlog.nbytes or not remote.guard.circuits["read"].closed or texts < 400:
                begun = time.monotonic()
                cached.embed_sync([f"after {texts + at}" for at in range(20)])
                assert time.monotonic() - begun < 3
                assert time.monotonic() < end
                texts += 20
                time.sleep(0.05)
            assert cached.stats.tiers[1].dropped == 0
        assert len(model.texts) == texts
        with CachedEmbeddingModel(model, TieredStore(ArrowStore(tmp_path / "b"), remote)) as cached:
            cached.embed_sync([f"before {at}" for at in range(300)])
            cached.embed_sync([f"after {at}" for at in range(300, texts)])
        assert len(model.texts) == texts
        remote.close()


def replicate(replica: Server, master: Server, nodes: list[Server]) -> None:
    """Make a server the replica of a master, and wait until it has all."""
    told = said(master.port, "CLUSTER MYID").split(b"\r\n")[1].decode()
    said(replica.port, f"CLUSTER MEET 127.0.0.1 {master.port}")
    until(lambda: b"cluster_known_nodes:4" in said(replica.port, "CLUSTER INFO"), "the replica met nobody")
    until(lambda: said(replica.port, f"CLUSTER REPLICATE {told}")[:3] == b"+OK", "the replica was refused")
    until(lambda: b"master_link_status:up" in said(replica.port, "INFO replication"), "it was not synced")
    until(lambda: all(b"slave" in said(node.port, "CLUSTER NODES") for node in nodes), "it is not known")


@pytest.mark.long
def test_a_master_that_is_dead_and_has_no_replica_leaves_the_cluster_alone_and_costs_no_text(
    tmp_path: Path,
) -> None:
    with redis_cluster(3, "--cluster-node-timeout", "500") as nodes:
        remote = Remote(RedisStore(url_of(nodes), cluster=True), breaker=Breaker(rest=0.2, longest=0.4))
        model = FakeEmbeddingModel()
        with CachedEmbeddingModel(model, TieredStore(ArrowStore(tmp_path / "a"), remote)) as cached:
            nodes[1].kill()
            texts = [f"text {at}" for at in range(300)]
            for start in range(0, 300, 50):
                cached.embed_sync(texts[start : start + 50])
            assert cached.embed_sync(texts) == FakeEmbeddingModel().lists(texts)
            tier = cached.stats.tiers[1]
            assert (tier.hits, tier.errors + tier.timeouts > 0) == (0, True)
        assert len(model.texts) == 300
        remote.close()
