"""Key-value stores of LangChain and LlamaIndex as caches."""

from __future__ import annotations

import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    KeyValueStore,
    MemoryStore,
    TieredStore,
    UnsupportedError,
    open_cache,
)
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.testing import FakeEmbeddingModel, StoreContract
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of
from tests.servers import a_redis, redis_server, said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from kura_cache_adapters.protocols import EmbeddingStore
    from tests.servers import Server

TEXTS = ["the cat sat", "on the mat", "and purred"]


def local_files(path: Path) -> Any:
    storage = pytest.importorskip("langchain_classic.storage", reason="needs langchain-classic")
    return storage.LocalFileStore(path)


def in_memory() -> Any:
    return pytest.importorskip(
        "langchain_core.stores", reason="needs the extra `langchain`"
    ).InMemoryByteStore()


def simple() -> Any:
    package = "llama_index.core.storage.kvstore"
    return pytest.importorskip(package, reason="needs the extra `llama-index`").SimpleKVStore()


def langchains_redis(port: int) -> Any:
    storage = pytest.importorskip("langchain_community.storage", reason="needs langchain-community")
    return storage.RedisStore(redis_url=f"redis://127.0.0.1:{port}", namespace="app")


def llama_indexs_redis(port: int) -> Any:
    name, reason = "llama_index.storage.kvstore.redis", "needs llama-index-storage-kvstore-redis"
    return pytest.importorskip(name, reason=reason).RedisKVStore(f"redis://127.0.0.1:{port}")


def held_in(store: Any) -> list[Any]:
    """List the values that are in a store of whatever kind."""
    if hasattr(store, "mget"):
        return [*store.mget([*store.yield_keys()])]
    return [value for collection in store.to_dict().values() for value in collection.values()]


class TestLocalFileStore(StoreContract):
    examples = 8

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: KeyValueStore(local_files(tmp_path))


class TestInMemoryByteStore(StoreContract):
    @pytest.fixture
    def open_store(self) -> Callable[[], EmbeddingStore]:
        store = in_memory()
        return lambda: KeyValueStore(store, batch=7)


class TestSimpleKVStore(StoreContract):
    @pytest.fixture
    def open_store(self) -> Callable[[], EmbeddingStore]:
        store = simple()
        return lambda: KeyValueStore(store, batch=7)


redis = pytest.fixture(scope="module")(a_redis)


@pytest.fixture(params=[langchains_redis, pytest.param(llama_indexs_redis, marks=pytest.mark.long)])
def on_redis(request: Any, redis: Server) -> Callable[[], Any]:
    """Return what opens a framework's own store on a server that holds nothing."""
    pytest.importorskip("redis", reason="needs redis")
    request.param(redis.port)  # skips where it cannot be opened
    said(redis.port, "FLUSHALL")
    return lambda: request.param(redis.port)


def test_a_server_behind_a_framework_is_a_cache(on_redis: Callable[[], Any]) -> None:
    model, other = FakeEmbeddingModel(), FakeEmbeddingModel("another", dimension=3)
    for _ in range(2):
        cached = CachedEmbeddingModel(model, on_redis())
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
        assert CachedEmbeddingModel(other, on_redis()).embed_sync(TEXTS) == other.lists(TEXTS)
    assert (model.calls, other.calls) == ([TEXTS], [TEXTS])
    cache = open_cache(on_redis())
    assert {info.identity.model_name: info.entries for info in cache.spaces()} == {"fake": 3, "another": 3}
    assert cached.forget(TEXTS[:1]).there == 1
    assert cache.verify().sound
    assert cache.rm("another").entries == 3
    assert [info.entries for info in cache.spaces()] == [2]
    cache.clear()
    assert cache.spaces() == []


class Reopened(KeyValueStore):
    """A store that is opened again where it is unpickled: its client cannot travel."""

    def __init__(self, opened: Callable[[], Any]) -> None:
        super().__init__(opened())
        self._opened = opened

    def __reduce__(self) -> Any:
        return Reopened, (self._opened,)


@pytest.mark.long
class TestLangChainsRedis(StoreContract):
    @pytest.fixture
    def open_store(self, redis: Server) -> Callable[[], EmbeddingStore]:
        pytest.importorskip("redis", reason="needs redis")
        said(redis.port, "FLUSHALL")
        return lambda: Reopened(partial(langchains_redis, redis.port))


@pytest.mark.long
class TestLlamaIndexsRedis(StoreContract):
    @pytest.fixture
    def open_store(self, redis: Server) -> Callable[[], EmbeddingStore]:
        llama_indexs_redis(redis.port)  # skips where it is not installed
        said(redis.port, "FLUSHALL")
        return lambda: Reopened(partial(llama_indexs_redis, redis.port))


def test_a_server_that_has_gone_costs_misses_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("redis", reason="needs redis")
    with redis_server() as server:
        store = langchains_redis(server.port)
        CachedEmbeddingModel(FakeEmbeddingModel(), store).embed_sync(TEXTS)
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, store)
    for _ in range(2):
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
    assert cached.stats.load_failures
    assert not cached.forget(TEXTS).complete
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) <= 2


class Plain:
    """A store of LangChain's shape over a dict, which writes down what it is asked."""

    most = 1000

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.calls: list[tuple[str, int]] = []

    def asked(self, name: str, many: Sequence[Any]) -> None:
        if len(many) > self.most:
            message = f"{len(many)} keys are too many"
            raise ValueError(message)
        self.calls.append((name, len(many)))

    def mget(self, keys: Sequence[str]) -> list[Any]:
        self.asked("mget", keys)
        return [self.values.get(key) for key in keys]

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        self.asked("mset", key_value_pairs)
        self.values.update(key_value_pairs)

    def mdelete(self, keys: Sequence[str]) -> None:
        self.asked("mdelete", keys)
        for key in keys:
            self.values.pop(key, None)

    def yield_keys(self) -> Iterator[str]:
        self.calls.append(("yield_keys", 0))
        yield from list(self.values)


class Limited(Plain):
    """A store that takes a hundred keys a call, as DynamoDB does."""

    most = 100


class AsyncOnly(Plain):
    """A store whose sync methods are not there."""

    def mget(self, keys: Sequence[str]) -> list[Any]:
        raise NotImplementedError

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        raise NotImplementedError

    def mdelete(self, keys: Sequence[str]) -> None:
        raise NotImplementedError

    def yield_keys(self) -> Iterator[str]:
        raise NotImplementedError

    async def amget(self, keys: Sequence[str]) -> list[Any]:
        return Plain.mget(self, keys)

    async def amset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        Plain.mset(self, key_value_pairs)

    async def amdelete(self, keys: Sequence[str]) -> None:
        Plain.mdelete(self, keys)

    async def ayield_keys(self) -> AsyncIterator[str]:
        for key in list(self.values):
            yield key


class TestAsyncOnlyStore(StoreContract):
    examples = 5

    @pytest.fixture
    def open_store(self) -> Callable[[], EmbeddingStore]:
        store = AsyncOnly()
        return lambda: KeyValueStore(store)


@pytest.mark.parametrize("make", ["local", "memory", "simple"])
def test_a_store_of_a_framework_is_a_cache_as_it_is(make: str, tmp_path: Path) -> None:
    store = {"local": lambda: local_files(tmp_path), "memory": in_memory, "simple": simple}[make]()
    model = FakeEmbeddingModel()
    for _ in range(2):
        cached = CachedEmbeddingModel(model, cache=store)
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
    assert model.calls == [TEXTS]
    with open_cache(store) as cache:
        (info,) = cache.spaces()
        assert (info.identity.model_name, info.entries) == (model.model_name, len(TEXTS))
        assert cache.verify().sound


async def test_an_async_only_store_serves_async_callers_and_sync_ones_in_their_loop() -> None:
    store, model = AsyncOnly(), FakeEmbeddingModel()
    assert await CachedEmbeddingModel(model, store).embed(TEXTS) == model.lists(TEXTS)
    assert CachedEmbeddingModel(model, store).embed_sync(TEXTS) == model.lists(TEXTS)
    assert model.calls == [TEXTS]


def test_a_store_with_a_limit_is_asked_in_batches() -> None:
    store, model = Limited(), FakeEmbeddingModel()
    texts = [f"text {at}" for at in range(450)]
    for _ in range(2):
        cached = CachedEmbeddingModel(model, KeyValueStore(store, batch=100))
        assert cached.embed_sync(texts) == model.lists(texts)
        assert cached.stats.load_failures == cached.stats.save_failures == 0
    assert sum(map(len, model.calls)) == len(texts)
    assert max(count for _, count in store.calls) == 100


def test_look_ups_and_writes_list_nothing() -> None:
    store, model = Plain(), FakeEmbeddingModel()
    for _ in range(2):
        assert CachedEmbeddingModel(model, store).embed_sync(TEXTS) == model.lists(TEXTS)
    assert "yield_keys" not in {name for name, _ in store.calls}


@pytest.mark.parametrize("spoil", ["cut", "other", "text", "none", "list", "short answer"])
def test_a_store_that_loses_or_garbles_values_costs_misses(
    spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, model = Plain(), FakeEmbeddingModel()
    CachedEmbeddingModel(model, store).embed_sync(TEXTS)
    paths = [path for path in store.values if not path.endswith("_identity")]
    values = [store.values[path] for path in paths]
    store.values |= {
        "cut": {paths[0]: values[0][:-1]},
        "other": {paths[0]: values[1]},
        "text": {paths[0]: "text"},
        "none": {paths[0]: None},
        "list": {paths[0]: [1]},
        "short answer": {},
    }[spoil]
    if spoil == "short answer":
        store.mget = lambda keys: [store.values.get(key) for key in keys[1:]]  # type: ignore[method-assign]
    again = CachedEmbeddingModel(model, store)
    assert again.embed_sync(TEXTS) == model.lists(TEXTS)
    assert sum(map(len, model.calls[1:])) == (3 if spoil == "short answer" else 1)
    says = {"text": "the value is a str, not bytes", "other": "1 of them are damaged, another key's"}
    assert says.get(spoil, "") in caplog.text


def test_garbled_dicts_cost_misses() -> None:
    store, model = simple(), FakeEmbeddingModel()
    CachedEmbeddingModel(model, store).embed_sync(TEXTS)
    entries = next(held for name, held in store.to_dict().items() if len(name) > len("kura-cache"))
    one, two, three = entries
    entries[one], entries[two], entries[three] = {}, {"entry": "no base64!"}, {"entry": 5}
    again = CachedEmbeddingModel(model, store)
    assert again.embed_sync(TEXTS) == model.lists(TEXTS)
    assert (again.stats.invalid_entries, again.stats.load_failures, len(model.calls)) == (3, 0, 2)
    assert CachedEmbeddingModel(model, store).embed_sync(TEXTS) == model.lists(TEXTS)
    assert len(model.calls) == 2


@pytest.mark.parametrize("make", [Plain, simple, in_memory])
def test_a_space_that_is_removed_leaves_nothing_behind(make: Callable[[], Any]) -> None:
    store, model = make(), FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, store)
    cached.embed_sync(TEXTS)
    CachedEmbeddingModel(FakeEmbeddingModel("another"), store).embed_sync(TEXTS)
    cache = open_cache(store)
    assert len(cache.spaces()) == 2
    receipt = cache.rm(model.model_name)
    assert receipt.entries == len(TEXTS)
    assert [info.identity.model_name for info in cache.spaces()] == ["another"]
    cache.clear()
    assert cache.spaces() == []
    assert held_in(store) == []
    assert cached.embed_sync(TEXTS) == model.lists(TEXTS)


@pytest.mark.parametrize("make", [Plain, simple])
def test_what_is_forgotten_is_deleted_and_the_rest_is_still_listed(make: Callable[[], Any]) -> None:
    store, model = make(), FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, store)
    cached.embed_sync(TEXTS)
    for at, text in enumerate(TEXTS, 1):
        receipt = cached.forget([text])
        assert receipt.complete
        assert [keys for space in receipt.spaces for keys in space.keys] == [cached.cache_key(text)]
        assert open_cache(store).spaces() == [] or open_cache(store).spaces()[0].entries == len(TEXTS) - at
    assert open_cache(store).spaces() == []


def test_what_has_lost_its_note_is_forgotten_too_and_listed_again_when_more_is_stored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, model = Plain(), FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, store)
    cached.embed_sync(TEXTS)
    (note,) = [path for path in store.values if path.endswith("_identity")]
    for garbled in (None, b"", b"[1]", b"{", b'{"version": 1}', "text"):
        store.values[note] = garbled
        assert open_cache(store).spaces() == []
        (trouble,) = open_cache(store).verify().troubles
        assert "whose these entries are" in trouble.why
    assert "no note says whose" in caplog.text
    receipt = open_cache(store).forget([cached.cache_key(TEXTS[0])])
    assert [keys for space in receipt.spaces for keys in space.keys] == [cached.cache_key(TEXTS[0])]
    cached.embed_sync(["one more"])
    assert open_cache(store).verify().sound
    assert open_cache(store).spaces()[0].entries == len(TEXTS)


def test_a_note_of_another_model_lists_nothing_foreign() -> None:
    store = KeyValueStore(Plain())
    other = ModelIdentity.of("other")
    for identity in (IDENTITY, other):
        store.space(identity).put_many([key_of(1)], vectors_of([1]))
    values = store.store.values  # type: ignore[union-attr]
    mine, others = (f"kura-cache/{each.directory}/_identity" for each in (IDENTITY, other))
    values[mine] = values[others]
    assert store.spaces() == [other]


def test_a_store_that_does_not_delete_is_named_in_the_receipt() -> None:
    store, model = Plain(), FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, store)
    cached.embed_sync(TEXTS)
    store.mdelete = len  # type: ignore[assignment]
    receipt = cached.forget([TEXTS[0]])
    assert not receipt.complete
    with pytest.raises(UnsupportedError, match="did not let go of 3"):
        open_cache(store).clear()


def test_what_is_damaged_is_found_and_repaired() -> None:
    store, model = Plain(), FakeEmbeddingModel()
    CachedEmbeddingModel(model, store).embed_sync(TEXTS)
    path = next(path for path in store.values if not path.endswith("_identity"))
    store.values[path] = store.values[path][:-1] + b"?"
    cache = open_cache(store)
    assert sum(space.damaged for space in cache.verify().spaces) == 1
    cache.verify(repair=True)
    assert cache.verify().sound
    assert path not in store.values


def test_entries_lie_where_the_page_says_and_beside_what_is_not_ours() -> None:
    store = Plain()
    store.values |= {"mine": b"1", "kura-cache": b"2", "kura-cache/x": b"3", "kura-cached/a/b": b"4"}
    bridge = KeyValueStore(store)
    bridge.space(IDENTITY).put_many([key_of(1)], vectors_of([1]))
    root = f"kura-cache/{IDENTITY.directory}"
    assert {*store.values} > {f"{root}/{key_of(1).hex()}", f"{root}/_identity"}
    assert bridge.spaces() == [IDENTITY]
    bridge.space(IDENTITY).delete_many([key_of(1)])
    assert sorted(store.values) == ["kura-cache", "kura-cache/x", "kura-cached/a/b", "mine"]


def test_namespaces_are_apart() -> None:
    for store in (Plain(), simple()):
        one, two = (KeyValueStore(store, namespace=name) for name in ("one", "two"))
        one.space(IDENTITY).put_many([key_of(1)], vectors_of([1]))
        assert not len(two.space(IDENTITY).get_many([key_of(1)]).positions)
        assert (one.spaces(), two.spaces()) == ([IDENTITY], [])


def test_what_is_not_signed_is_a_miss_and_the_secret_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    store, model = Plain(), FakeEmbeddingModel()
    CachedEmbeddingModel(model, store).embed_sync(TEXTS)
    signed = KeyValueStore(store, sign="a secret of some length")
    for _ in range(2):
        assert CachedEmbeddingModel(model, signed).embed_sync(TEXTS) == model.lists(TEXTS)
    assert len(model.calls) == 2
    assert f"{len(TEXTS)} of them are damaged, another key's, of another signature" in caplog.text
    assert "secret" not in repr(signed) + caplog.text
    copy = pickle.loads(pickle.dumps(signed))
    assert len([*copy.space(copy.spaces()[0]).keys()]) == len(TEXTS)
    assert CachedEmbeddingModel(model, copy).missing(TEXTS) == []


def test_what_is_in_memory_does_not_outlive_the_process(tmp_path: Path) -> None:
    spaces = [KeyValueStore(make()).space(IDENTITY) for make in (in_memory, simple, Plain)]
    assert [space.volatile for space in spaces] == [True, True, False]


def test_a_directory_in_front_of_one_carries_what_it_refuses(tmp_path: Path) -> None:
    store, model = Plain(), FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, TieredStore(ArrowStore(tmp_path), KeyValueStore(store)))
    cached.embed_sync(TEXTS)
    fresh = CachedEmbeddingModel(model, TieredStore(MemoryStore(), KeyValueStore(store)))
    assert np.array_equal(fresh.embed_array_sync(TEXTS), cached.embed_array_sync(TEXTS))
    assert model.calls == [TEXTS]


@pytest.mark.parametrize(
    ("options", "match"),
    [({"namespace": "a b"}, "namespace"), ({"namespace": "../x"}, "namespace"), ({"batch": 0}, "batch")],
)
def test_what_a_store_could_not_take_is_refused_at_once(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        KeyValueStore(Plain(), **options)
    with pytest.raises(TypeError, match="neither a BaseStore"):
        KeyValueStore({})  # type: ignore[arg-type]


def test_it_is_pickled_with_its_options_and_shows_no_more_than_a_class() -> None:
    store = pickle.loads(pickle.dumps(KeyValueStore(Plain(), namespace="x", batch=3)))
    assert repr(store) == "KeyValueStore(Plain, namespace='x')"
    assert store.batch == 3


def test_no_key_is_asked_for_twice_in_a_call() -> None:
    store = Plain()
    space = KeyValueStore(store).space(IDENTITY)
    space.put_many([key_of(1)], vectors_of([1]))
    store.calls.clear()
    assert space.get_many([key_of(1)] * 3).positions.tolist() == [0, 1, 2]
    assert store.calls == [("mget", 1)]


def test_pruning_a_directory_in_front_leaves_the_store_behind_it_to_its_own_rules(tmp_path: Path) -> None:
    model = FakeEmbeddingModel()
    store = TieredStore(ArrowStore(tmp_path), KeyValueStore(Plain()))
    CachedEmbeddingModel(model, store).embed_sync(TEXTS)
    assert open_cache(store).prune(max_bytes=1).entries == len(TEXTS)
    assert CachedEmbeddingModel(model, store).embed_sync(TEXTS) == model.lists(TEXTS)
    assert model.calls == [TEXTS]
    with pytest.raises(UnsupportedError, match="own rules"):
        open_cache(store.stores[1]).prune(max_bytes=1)
