"""A cache's store as a place for bytes, under any name."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("langchain_core", reason="needs the extra `langchain`")

from hypothesis import given, settings
from hypothesis import strategies as st

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    JSONLStore,
    LangChainByteStore,
    MemoryStore,
    TieredStore,
    open_cache,
)
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.frameworks import LangChain, Spy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = ["the cat sat", "on the mat", "and purred"]

names = st.text(max_size=6) | st.just("long " * 700) | st.just("\ud800")
sizes = st.sampled_from([0, 1, 2, 1400, 1493, 1494, 1495, 1496, 1535, 1536, 3029, 3030, 3031, 20_000])
values = st.builds(lambda size, byte: bytes([byte]) * size, sizes, st.integers(0, 255))


@settings(deadline=None, database=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(names, values | st.none()), max_size=12))
def test_any_history_is_that_of_a_dict(history: list[tuple[str, bytes | None]]) -> None:
    store, model = LangChainByteStore(MemoryStore()), dict[str, bytes]()
    for name, value in history:
        if value is None:
            store.mdelete([name])
            model.pop(name, None)
        else:
            store.mset([(name, value)])
            model[name] = value
        assert store.mget([*model, name]) == [*model.values(), model.get(name)]
    assert sorted(store.yield_keys()) == sorted(model)


@settings(deadline=None, database=None, derandomize=True, max_examples=60)
@given(st.binary(max_size=5000), st.binary(max_size=2000))
def test_any_bytes_come_back(value: bytes, prefix: bytes) -> None:
    store = LangChainByteStore(MemoryStore())
    store.mset([("name" * len(prefix), value)])
    assert store.mget(["name" * len(prefix)]) == [value]


@pytest.mark.parametrize("kind", [ArrowStore, JSONLStore])
def test_values_outlive_the_process_and_replaced_ones_leave_no_rows(kind: Any, tmp_path: Path) -> None:
    store = LangChainByteStore(kind(tmp_path))
    store.mset([("a", bytes(9000)), ("b", b"b")])
    store.mset([("a", b"short")])
    again = pickle.loads(pickle.dumps(store))
    assert again.mget(["a", "b", "c"]) == [b"short", b"b", None]
    (info,) = open_cache(kind(tmp_path)).spaces()
    assert (info.identity.model_name, info.entries) == ("langchain-byte-store", 2)
    again.mdelete(["a", "b", "c"])
    assert [*store.yield_keys()] == []


def test_what_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    store = LangChainByteStore(tmp_path)
    for _ in range(3):
        store.mset([("a", bytes(9000)), ("b", b"b")])
    assert open_cache(tmp_path).spaces()[0].parts == 1


@pytest.mark.parametrize("size", [1, 5000])
def test_what_another_process_has_replaced_is_read_soon_also_behind_memory(tmp_path: Path, size: int) -> None:
    one, other = (LangChainByteStore(TieredStore(MemoryStore(), ArrowStore(tmp_path))) for _ in range(2))
    one.mset([("a", b"x" * size)])
    assert one.mget(["a"]) == [b"x" * size]
    other.mset([("a", b"y" * size)])
    end = time.monotonic() + 10
    while one.mget(["a"]) != [b"y" * size]:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("which", ["first", "further"])
def test_a_value_that_is_not_all_there_is_none(which: str) -> None:
    memory = MemoryStore()
    store = LangChainByteStore(memory)
    store.mset([("a", bytes(range(250)) * 20), ("b", b"b")])
    (identity,) = memory.spaces()
    space = memory.space(identity)
    keys = [*space.keys()]
    rows = dict(zip(keys, space.get_many(keys).vectors, strict=True))
    first = next(key for key, row in rows.items() if int(row[0]) & 255 == 0 and int(row[1]))
    further = next(key for key, row in rows.items() if int(row[0]) & 255 == 1)
    space.delete_many([{"first": first, "further": further}[which]])
    assert store.mget(["b"]) == [b"b"]
    assert store.mget(["a"]) == [None]
    store.mset([("a", b"anew")])
    assert store.mget(["a", "b"]) == [b"anew", b"b"]


def test_rows_that_were_never_ours_are_no_values() -> None:
    memory = MemoryStore()
    store = LangChainByteStore(memory)
    store.mset([("a", b"a")])
    (identity,) = memory.spaces()
    space = memory.space(identity)
    (key,) = space.keys()
    space.delete_many([key])
    space.put_many([key], np.full((1, 512), -1e30, np.float32))
    assert store.mget(["a"]) == [None]
    assert [*store.yield_keys()] == []


def test_of_writers_at_once_one_is_kept_whole() -> None:
    store = LangChainByteStore(MemoryStore())
    candidates = [bytes([at]) * 5000 for at in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            [*threads.map(lambda value: store.mset([("a", value)]), candidates)]
            (kept,) = store.mget(["a"])
            assert kept in candidates


def test_namespaces_are_apart_and_the_models_beside_them_untouched(tmp_path: Path) -> None:
    model = FakeEmbeddingModel()
    one, two = (LangChainByteStore(tmp_path, namespace=name) for name in ("one", "two"))
    CachedEmbeddingModel(model, one).embed_sync(TEXTS)  # as a cache, it is the store that it is in
    one.mset([("a", b"1"), ("ab", b"2")])
    assert two.mget(["a"]) == [None]
    assert sorted(one.yield_keys(prefix="ab")) == ["ab"]
    assert CachedEmbeddingModel(model, tmp_path).missing(TEXTS) == []
    assert len(open_cache(tmp_path).spaces()) == 2


def test_what_is_switched_off_is_refused() -> None:
    with pytest.raises(ValueError, match="switched off"):
        LangChainByteStore(None)  # type: ignore[arg-type]


def test_the_repr_names_the_store() -> None:
    store = MemoryStore(max_bytes=9)
    assert repr(LangChainByteStore(store)) == f"LangChainByteStore({store!r})"


@pytest.fixture
def cached_theirs(tmp_path: Path) -> Callable[[Any], Any]:
    classic = pytest.importorskip("langchain_classic.embeddings", reason="needs langchain-classic")

    def cached(embedder: Any) -> Any:
        make = classic.CacheBackedEmbeddings.from_bytes_store
        return make(embedder, LangChainByteStore(tmp_path), namespace="fake", key_encoder="sha256")

    return cached


async def test_cache_backed_embeddings_over_it_ask_their_model_once(cached_theirs: Any) -> None:
    spy = Spy(FakeEmbeddingModel(roles=("query",)))
    embedder = LangChain().embedder(spy)
    vectors = cached_theirs(embedder).embed_documents(TEXTS)
    assert cached_theirs(embedder).embed_documents(TEXTS) == vectors
    assert await cached_theirs(embedder).aembed_documents(TEXTS) == vectors
    assert sorted(spy.texts) == sorted(TEXTS)


def test_documents_of_a_retriever_are_kept_in_it(tmp_path: Path) -> None:
    storage = pytest.importorskip("langchain_classic.storage", reason="needs langchain-classic")
    from langchain_core.documents import Document

    documents = [Document(page_content="the cat sat " * 400, metadata={"page": 1}), Document(page_content="")]
    storage.create_kv_docstore(LangChainByteStore(tmp_path)).mset([*zip("ab", documents, strict=True)])
    assert storage.create_kv_docstore(LangChainByteStore(tmp_path)).mget(["a", "b"]) == documents
