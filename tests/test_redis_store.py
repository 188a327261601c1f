"""RedisStore over real servers: one, and a cluster of three."""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, MemoryStore, RedisStore, TieredStore, open_cache
from kura_cache_adapters.errors import MissingExtraError, UnsupportedError
from kura_cache_adapters.stores import ArrowStore, entry, registry
from kura_cache_adapters.testing import FakeEmbeddingModel, StoreContract
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of
from tests.servers import a_redis, redis_cluster, redis_server, said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kura_cache_adapters.protocols import EmbeddingStore
    from tests.servers import Server

redis = pytest.importorskip("redis", reason="needs the extra `redis`")
server = pytest.fixture(scope="module")(a_redis)

PAGE = Path(__file__).parents[1] / "docs" / "stores.md"
SECRET = "what only the writers of this cache have"
PASSWORD = "p%2Fss-MARKED"
TEXTS = [f"text {at}" for at in range(700)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with redis_cluster() as nodes:
        yield f"redis://127.0.0.1:{nodes[1].port}"


@pytest.fixture
def url(server: Server) -> str:
    """Return an address whose keys are this test's own."""
    return f"{bare(server)}?prefix={token_hex(4)}"


def bare(server: Server) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


def opened(url: str) -> Any:
    """Open a store by its URL, without what may be put around it."""
    store = registry.open_store(url)
    return getattr(store, "store", store)


class OverRedis(StoreContract):
    examples = 8
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def open_store(self, server: Server) -> Callable[[], EmbeddingStore]:
        prefix = token_hex(4)
        return lambda: RedisStore(bare(server), prefix=prefix, **self.options)


class TestPlain(OverRedis):
    examples = 25


class TestTTL(OverRedis):
    options: ClassVar[dict[str, Any]] = {"ttl": timedelta(hours=1), "batch": 7}


class TestSigned(OverRedis):
    options: ClassVar[dict[str, Any]] = {"sign": SECRET}


class TestCluster(OverRedis):
    options: ClassVar[dict[str, Any]] = {"cluster": True, "ttl": 3600}

    @pytest.fixture
    def open_store(self, cluster: str) -> Callable[[], EmbeddingStore]:
        prefix = token_hex(4)
        return lambda: RedisStore(cluster, prefix=prefix, **self.options)


# What is on the server, and what is not


def test_a_look_up_is_one_command_for_256_keys_and_touches_nothing(server: Server, url: str) -> None:
    opened(url).space(IDENTITY).put_many(map(key_of, range(600)), vectors_of([*range(600)]))
    space = opened(url).space(IDENTITY)
    space.get_many([key_of(0)])
    said(server.port, "CONFIG RESETSTAT")
    space.get_many(map(key_of, range(600)))
    told = said(server.port, "INFO commandstats").decode()
    assert "cmdstat_mget:calls=3," in told
    assert not [
        word for word in ("cmdstat_get:", "cmdstat_expire", "cmdstat_touch", "cmdstat_set") if word in told
    ]


def test_with_a_ttl_the_server_drops_what_was_written(url: str) -> None:
    store = opened(f"{url}&ttl=0.3s")
    store.space(IDENTITY).put_many(map(key_of, range(3)), vectors_of([0, 1, 2]))
    first = f"{store.prefix}:{IDENTITY.digest[:16]}:".encode() + key_of(0)
    assert 0 < store.client.pttl(first) <= 300
    assert len(store.space(IDENTITY).get_many([key_of(1)]).positions) == 1
    time.sleep(0.35)
    assert not len(store.space(IDENTITY).get_many(map(key_of, range(3))).positions)
    assert not list(store.space(IDENTITY).keys())


def test_without_a_ttl_nothing_expires(url: str) -> None:
    store = opened(url)
    store.space(IDENTITY).put_many([key_of(1)], vectors_of([1]))
    assert {store.client.ttl(name) for name in store.client.scan_iter(f"{store.prefix}:*")} == {-1}


def test_after_a_flush_all_are_misses_and_what_is_written_is_listed_again() -> None:
    model = FakeEmbeddingModel()
    with redis_server() as own:
        cached = CachedEmbeddingModel(model, RedisStore(bare(own)))
        for _ in range(2):
            assert cached.embed_sync(["a", "b"]) == model.lists(["a", "b"])
            assert [each.model_name for each in RedisStore(bare(own)).spaces()] == ["fake"]
            said(own.port, "FLUSHALL")
            assert RedisStore(bare(own)).spaces() == []
    assert model.calls == [["a", "b"]] * 2


@pytest.mark.parametrize("poison", ["bit", "another key", "another version", "text", "a list", "a NaN"])
def test_a_poisoned_value_is_a_miss_and_is_written_again(url: str, poison: str) -> None:
    model, store = FakeEmbeddingModel(), opened(url)
    cached = CachedEmbeddingModel(model, store)
    cached.embed_sync(["one", "two", "three"])
    start = f"{store.prefix}:{store.spaces()[0].digest[:16]}:".encode()
    key, other = (bytes.fromhex(cached.cache_key(text)) for text in ("two", "one"))
    value = store.client.get(start + key)
    vector = entry.decode(key, value)
    values: dict[str, Any] = {
        "bit": value[:20] + bytes([value[20] ^ 1]) + value[21:],
        "another key": store.client.get(start + other),
        "another version": bytes([3]) + value[1:],
        "text": b"hello",
        "a NaN": entry.encode(key, np.full_like(vector, np.nan)),
    }
    store.client.delete(start + key)
    if poison == "a list":
        store.client.rpush(start + key, b"x")
    else:
        store.client.set(start + key, values[poison])
    for _ in range(2):
        again = CachedEmbeddingModel(model, opened(url))
        assert again.embed_sync(["one", "two", "three"]) == model.lists(["one", "two", "three"])
    assert model.calls[1:] == [["two"]]


def test_who_has_not_the_secret_makes_no_vector_that_is_read(url: str) -> None:
    model, liar = FakeEmbeddingModel(), FakeEmbeddingModel("liar")
    liar.model_name = "fake"
    CachedEmbeddingModel(liar, opened(url)).embed_sync(TEXTS)
    CachedEmbeddingModel(liar, opened(f"{url}&sign={'wrong' * 5}")).embed_sync(TEXTS[:9])
    reader = CachedEmbeddingModel(model, opened(f"{url}&sign={'right' * 5}"))
    assert reader.embed_sync(TEXTS) == model.lists(TEXTS)
    assert reader.stats.hits == 0
    again = CachedEmbeddingModel(model, opened(f"{url}&sign={'right' * 5}"))
    assert again.embed_sync(TEXTS) == model.lists(TEXTS)
    assert again.stats.hits == len(TEXTS)


def test_prefixes_are_taken_as_they_are_written(server: Server) -> None:
    for prefix in ("a*b", "a[b]", "a?", "a\\", "ü"):
        mine, other = (RedisStore(bare(server), prefix=prefix + end) for end in ("", "x"))
        other.space(IDENTITY).put_many([key_of(2)], vectors_of([2]))
        mine.space(IDENTITY).put_many([key_of(1)], vectors_of([1]))
        assert list(mine.space(IDENTITY).keys()) == [key_of(1)]


# Operators


def test_forget_and_rm_reach_the_server(url: str) -> None:
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), opened(url))
    cached.embed_sync(["a", "b", "c"])
    with open_cache(url) as cache:
        receipt = cached.forget(["a"])
        assert (receipt.complete, len(cache)) == (True, 2)
        (info,) = cache.spaces()
        assert (info.entries, info.dimension is not None) == (2, True)
        cache.rm(info)
        assert cache.spaces() == []
        assert not [*RedisStore(url.partition("?")[0], prefix=url[-8:]).client.scan_iter(f"{url[-8:]}*")]


def test_what_is_written_while_a_space_is_removed_is_listed(url: str) -> None:
    store = opened(url)
    space = store.space(IDENTITY)
    space.put_many([key_of(1)], vectors_of([1]))
    space.unlist()
    assert opened(url).spaces() == [IDENTITY]


def test_pruning_leaves_a_server_to_its_own_rules_and_says_so(url: str, tmp_path: Path) -> None:
    CachedEmbeddingModel(FakeEmbeddingModel(), opened(url)).embed_sync(["a"])
    with open_cache(url) as cache, pytest.raises(UnsupportedError, match=r"ttl=.*maxmemory"):
        cache.prune(older_than=0)
    tiers = TieredStore(MemoryStore(), ArrowStore(tmp_path), opened(url))
    CachedEmbeddingModel(FakeEmbeddingModel(), tiers).embed_sync(["a", "b"])
    receipt = open_cache(tiers).prune(older_than=0)
    assert receipt.entries == 2
    assert open_cache(opened(url)).store.space(tiers.spaces()[0]).stats().rows == 2


def test_who_may_only_read_reads_and_is_no_trouble(server: Server, url: str) -> None:
    model, prefix = FakeEmbeddingModel(), url[-8:]
    CachedEmbeddingModel(model, opened(url)).embed_sync(["a"])
    said(server.port, f"ACL SETUSER reader on >password ~{prefix}:* +@read +@connection")
    reader = opened(url.replace("//", "//reader:password@"))
    cached = CachedEmbeddingModel(model, reader)
    assert cached.embed_sync(["a", "b"]) == model.lists(["a", "b"])
    assert model.calls == [["a"], ["b"]]
    assert [each.model_name for each in reader.spaces()] == ["fake"]
    assert len([*reader.space(reader.spaces()[0]).keys()]) == 1


def test_who_may_write_what_the_page_says_writes_and_reads_and_is_told_what_it_may_not(
    server: Server, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    rights = re.search(r"`ACL SETUSER writer on >password (.*)`", PAGE.read_text(encoding="utf-8"))
    assert rights is not None
    model, prefix = FakeEmbeddingModel(), url[-8:]
    said(server.port, f"ACL SETUSER writer on >password {rights[1].replace('~kura:*', f'~{prefix}:*')}")
    writer = url.replace("//", "//writer:password@")
    for ttl in ("", "&ttl=90d"):
        CachedEmbeddingModel(model, opened(writer + ttl)).embed_sync([f"a{ttl}"])
        assert CachedEmbeddingModel(model, opened(writer)).contains([f"a{ttl}"]) == [True]
    assert not caplog.records
    with open_cache(opened(writer)) as cache, pytest.raises(PermissionError, match="'unlink'"):
        cache.clear()
    said(server.port, "ACL SETUSER writer -mset")
    cached = CachedEmbeddingModel(model, opened(writer))
    assert cached.embed_sync(["b"]) == model.lists(["b"])
    assert "'mset'" in caplog.text
    told = caplog.text.replace(f"prefix='{prefix}'", "")
    assert prefix not in told  # nor the command, which would quote keys and values


# Clients, addresses, secrets


def test_a_client_of_its_owner_stays_open(server: Server) -> None:
    with redis.Redis(port=server.port) as client:
        store = RedisStore(client, prefix=token_hex(4))
        store.space(IDENTITY).put_many([key_of(1)], vectors_of([1]))
        store.close()
        assert client.connection_pool is store.client.connection_pool
        assert len(store.space(IDENTITY).get_many([key_of(1)]).positions) == 1
        with pytest.raises(TypeError, match="open it by URL"):
            pickle.dumps(store)


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (redis.asyncio.Redis, TypeError, r"no synchronous client.*redis://"),
        (lambda: 6379, TypeError, "no synchronous client"),
        (lambda: redis.Redis(decode_responses=True), ValueError, "decode_responses"),
        (lambda: "redis://localhost?decode_responses=true", ValueError, "decode_responses"),
        (lambda: "redis://localhost?tlt=3d", ValueError, "'tlt'"),
        (lambda: "http://localhost", ValueError, "percent-encode"),
    ],
)
def test_what_is_no_server_is_refused_at_once(wrong: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        RedisStore(wrong())


@pytest.mark.parametrize("cluster", [False, True])
def test_where_nobody_answers_there_is_no_connection(*, cluster: bool) -> None:
    store = RedisStore("redis://:MARKED@127.0.0.1:1/0", cluster=cluster)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1") as told:
        store.spaces()
    assert "MARKED" not in str(told.value)


@pytest.mark.parametrize(
    "options",
    [
        *({"batch": 0}, {"timeout": 0}, {"ttl": 0}, {"ttl": -1}, {"sign": "short"}),
        *({"timeout": float("inf")}, {"timeout": float("nan")}, {"ttl": 1e400}, {"ttl": timedelta.max}),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match=r"must (be|not|have)"):
        RedisStore("redis://localhost", **options)


def test_a_url_has_options_of_the_store_and_of_its_client(server: Server) -> None:
    store = opened(
        f"redis://127.0.0.1:{server.port}?db=3&ttl=2h&prefix=a%20b&client_name=me&batch=1e2&timeout=9"
    )
    assert (store.ttl, store.prefix, store.batch) == (7200, "a b", 100)
    told = store.client.client_info()
    assert (told["db"], told["name"]) == (3, "me")
    with pytest.raises(ValueError, match=r"its options are: prefix=.*ttl="):
        opened(f"redis://127.0.0.1:{server.port}?ttl=soon")


def test_tls_is_asked_for_by_the_scheme() -> None:
    pool = opened("rediss://localhost?ssl_cert_reqs=none").client.connection_pool
    assert pool.connection_class is redis.SSLConnection


def test_without_the_extra_its_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r"kura-cache-adapters\[redis\]"):
        opened("redis://localhost")


def test_no_password_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    model = FakeEmbeddingModel()
    with redis_server("--requirepass", "p/ss-MARKED") as own:
        right = f"redis://:{PASSWORD}@127.0.0.1:{own.port}/0"
        wrong = f"redis://:wrong-MARKED@127.0.0.1:{own.port}/0?sign={'MARKED' * 3}"
        shown = []
        for url, stored in ((right, 1), (wrong, 0)):
            store = opened(url)
            cached = CachedEmbeddingModel(model, store)
            assert cached.embed_sync(["a"]) == model.lists(["a"])
            assert (cached.stats.stored, cached.stats.load_failures) == (stored, 1 - stored)
            shown += [
                repr(store),
                repr(store.space(IDENTITY)),
                repr(cached),
                repr(pickle.loads(pickle.dumps(store))),
            ]
    for unreadable in (
        f"redis://:p/ss-MARKED@127.0.0.1:{own.port}/0",
        f"redis://:12/ss-MARKED@127.0.0.1:{own.port}/0",  # a port and a path to whoever reads it
        f"redis://:12#ss-MARKED@127.0.0.1:{own.port}/0",
        f"redis://:12?ss-MARKED@127.0.0.1:{own.port}/0",
        "redis:///:ss-MARKED@127.0.0.1/0",
        f"{right}?db=MARKED",
        f"{right}?MARK=3",
    ):
        with pytest.raises(ValueError, match=r"rediss?://") as caught:
            opened(unreadable)
        shown += [str(caught.value), repr(caught.value.__cause__), str(caught.value.__suppress_context__)]
    assert not [text for text in shown if "MARKED" in text]
    assert "MARKED" not in caplog.text
    assert "PermissionError: WRONGPASS" in caplog.text or "invalid username-password pair" in caplog.text


# Processes and threads


def test_a_forked_child_has_connections_of_its_own(url: str) -> None:
    space = opened(f"{url}&timeout=20").space(IDENTITY)
    keys, vectors, stop = [*map(key_of, range(300))], vectors_of([*range(300)]), threading.Event()
    space.put_many(keys, vectors)

    def right() -> bool:
        return np.array_equal(space.get_many(keys).vectors, vectors)

    def look() -> None:
        while not stop.is_set():
            assert right()

    with ThreadPoolExecutor(2) as threads:
        looking = [threads.submit(look) for _ in range(2)]
        try:
            ends = [_ended(right) for _ in range(5)]
        finally:
            stop.set()
    assert ends == [0] * 5
    assert [each.result() for each in looking] == [None, None]


def test_a_fork_leaves_no_lock_of_the_client_held_in_the_child(url: str) -> None:
    store = opened(f"{url}&timeout=20")
    space, held, done = store.space(IDENTITY), threading.Event(), threading.Event()
    space.put_many([key_of(1)], vectors_of([1]))

    def hold() -> None:
        with store.client.connection_pool._lock:
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if not child:
        signal.alarm(30)
        os._exit(0 if len(space.get_many([key_of(1)]).positions) else 1)
    ended = os.waitpid(child, 0)[1]
    done.set()
    holder.join()
    assert ended == 0


def _ended(right: Callable[[], bool]) -> int:
    """Fork a child that looks, and look beside it; return how it ended."""
    child = os.fork()
    if not child:
        signal.alarm(30)
        os._exit(0 if right() and right() else 1)
    assert right()
    return os.waitpid(child, 0)[1]


def test_a_server_that_is_frozen_costs_the_timeout_and_nothing_is_tried_twice() -> None:
    with redis_server() as own:
        space = RedisStore(bare(own), timeout=0.2).space(IDENTITY)
        space.put_many([key_of(1)], vectors_of([1]))
        own.signal(signal.SIGSTOP)
        start = time.perf_counter()
        with pytest.raises(TimeoutError):
            space.get_many([key_of(1)])
        assert 0.19 < time.perf_counter() - start < 0.39
        own.signal(signal.SIGCONT)
        assert len(space.get_many([key_of(1)]).positions) == 1


def test_a_server_that_was_started_again_is_found_again() -> None:
    with redis_server() as own:
        store = RedisStore(bare(own))
        model = FakeEmbeddingModel()
        cached = CachedEmbeddingModel(model, store)
        cached.embed_sync(["a"])
        own.kill()
        assert cached.embed_sync(["a"]) == model.lists(["a"])
        assert cached.stats.load_failures == 1
        own.start()
        cached.embed_sync(["a"])
        assert CachedEmbeddingModel(model, RedisStore(bare(own))).embed_sync(["a"]) == model.lists(["a"])
    assert len(model.calls) == 3
