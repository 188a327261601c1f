"""What people have paid for elsewhere is kept: nothing of it is asked of the model again."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import pickle
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import (
    Adopted,
    CachedEmbeddingModel,
    CacheOptions,
    DimensionMismatchError,
    Embedded,
    Event,
    JSONLCheckpointManager,
    MemoryStore,
)
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.frameworks import LangChain, Spy
from tests.servers import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TEXTS = [f"text number {at}" for at in range(2000)]
FEW = TEXTS[:20]


def of(fake: FakeEmbeddingModel, cache: Any, **keywords: Any) -> CachedEmbeddingModel:
    return CachedEmbeddingModel(fake, cache, **keywords)


def backed(fake: FakeEmbeddingModel, store: Any, **options: Any) -> Any:
    """Return a real CacheBackedEmbeddings around an embedder that counts."""
    classic = pytest.importorskip("langchain_classic.embeddings", reason="needs langchain-classic")
    options = {"key_encoder": "sha256", **options}
    return classic.CacheBackedEmbeddings.from_bytes_store(LangChain().embedder(Spy(fake)), store, **options)


def byte_store(kind: str, path: Path) -> Any:
    storage = pytest.importorskip("langchain_classic.storage", reason="needs langchain-classic")
    return storage.LocalFileStore(path / "old") if kind == "files" else storage.InMemoryByteStore()


def key_values(texts: list[str], fake: FakeEmbeddingModel) -> Any:
    """Return a SimpleKVStore that a LlamaIndex embedding has filled."""
    pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.storage.kvstore import SimpleKVStore

    class Embedding(BaseEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            return fake.lists([text])[0]

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    embedding = Embedding(embeddings_cache=SimpleKVStore())
    embedding.get_text_embedding_batch(texts)
    return embedding


@pytest.fixture
def redis_url() -> Iterator[str]:
    """Serve Redis on a free port of loopback."""
    with redis_server() as server:
        yield f"redis://127.0.0.1:{server.port}"


def assert_adopted(old: Any, fake: FakeEmbeddingModel, path: Path) -> None:
    """Adopt all of an old cache at once, and lazily: the model is never asked."""
    for way, cache in (("at once", path / "one"), ("lazily", path / "other")):
        asked = FakeEmbeddingModel()
        cached = of(asked, cache, fallback=old if way == "lazily" else None)
        if way == "at once":
            assert cached.adopt(old, TEXTS) == Adopted(2000, 0, 2000, 0, 2000)
            assert cached.adopt(old, [*TEXTS, *TEXTS]) == Adopted(2000, 2000, 0, 0, 0)
        assert np.array_equal(cached.embed_array_sync(TEXTS), fake.array(TEXTS))
        assert asked.texts == []
        assert (cached.stats.stored, cached.stats.misses) == (2000, 0)
        assert of(asked, cache).missing(TEXTS) == []


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_what_langchains_cache_holds_is_adopted(kind: str, tmp_path: Path) -> None:
    fake = FakeEmbeddingModel()
    old = backed(fake, byte_store(kind, tmp_path), namespace="fake")
    old.embed_documents(TEXTS)
    assert_adopted(old, fake, tmp_path)


def test_what_a_llama_index_store_holds_is_adopted(tmp_path: Path) -> None:
    fake = FakeEmbeddingModel()
    embedding = key_values(TEXTS, fake)
    file = tmp_path / "kept.json"
    embedding.embeddings_cache.persist(str(file))
    assert_adopted(embedding.embeddings_cache, fake, tmp_path / "store")
    assert_adopted(embedding, fake, tmp_path / "embedding")
    assert_adopted(file, fake, tmp_path / "file")
    assert_adopted(type(embedding.embeddings_cache).from_persist_path(str(file)), fake, tmp_path / "loaded")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_redisvl_holds_is_adopted_by_the_models_name(redis_url: str, tmp_path: Path) -> None:
    redisvl = pytest.importorskip("redisvl.extensions.cache.embeddings", reason="needs redisvl")
    fake, old = FakeEmbeddingModel(), redisvl.EmbeddingsCache(redis_url=redis_url)
    old.mset(
        [
            {"content": text, "model_name": "fake", "embedding": vector}
            for text, vector in zip(TEXTS, fake.lists(TEXTS), strict=True)
        ]
    )
    assert_adopted(old, fake, tmp_path)
    assert of(FakeEmbeddingModel("another"), MemoryStore()).adopt(old, FEW) == Adopted(20)
    key = old._make_cache_key(FEW[3], "fake")
    old._get_redis_client().hset(key, "embedding", "[1, 2")
    assert of(FakeEmbeddingModel(), MemoryStore()).adopt(old, FEW) == Adopted(20, 0, 19, 1, 19)
    old.disconnect()


def test_an_async_client_alone_is_refused_with_the_cure() -> None:
    redisvl = pytest.importorskip("redisvl.extensions.cache.embeddings", reason="needs redisvl")
    redis = pytest.importorskip("redis.asyncio")
    old = redisvl.EmbeddingsCache(async_redis_client=redis.Redis(port=1))
    with pytest.raises(ValueError, match="redis_client="):
        of(FakeEmbeddingModel(), MemoryStore()).adopt(old, FEW)


def upper(text: str) -> str:
    return text.upper()


@pytest.mark.filterwarnings("ignore:Using default key encoder")
@pytest.mark.parametrize("encoder", ["sha1", "sha256", "sha512", "blake2b", upper])
def test_the_keys_of_langchains_cache_are_its_own_business(encoder: Any, tmp_path: Path) -> None:
    fake, options = FakeEmbeddingModel(), {"namespace": "" if callable(encoder) else "space"}
    old = backed(fake, byte_store("memory", tmp_path), key_encoder=encoder, **options)
    old.embed_documents(FEW)
    cached = of(FakeEmbeddingModel(), MemoryStore())
    assert cached.adopt(old, [*FEW, "unknown"]) == Adopted(21, 0, 20, 0, 20)
    assert cached.embed_sync(FEW) == fake.lists(FEW)


def test_queries_are_adopted_from_a_store_of_their_own_alone(tmp_path: Path) -> None:
    fake, asked = FakeEmbeddingModel(roles=("query",)), FakeEmbeddingModel(roles=("query",))
    old = backed(fake, byte_store("memory", tmp_path), query_embedding_cache=byte_store("files", tmp_path))
    old.embed_documents(["a"])
    old.embed_query("q")
    cached = of(asked, MemoryStore())
    assert cached.adopt(old, ["a", "q"], role="query") == Adopted(2, 0, 1, 0, 1)
    assert cached.embed_sync(["q"], role="query") == fake.lists(["q"], "query")
    assert of(asked, MemoryStore(), fallback=old).embed_sync(["q"], role="query") == fake.lists(
        ["q"], "query"
    )
    assert asked.texts == []
    mixed = backed(fake, byte_store("memory", tmp_path), query_embedding_cache=True)
    mixed.embed_query("q")
    with pytest.raises(ValueError, match="no 'query' vectors"):
        cached.adopt(mixed, ["q"], role="query")
    lazily = of(asked, MemoryStore(), fallback=mixed)
    assert lazily.embed_sync(["q"], role="query") == fake.lists(["q"], "query")
    assert lazily.stats.misses == 1


def test_a_model_that_tells_no_roles_apart_takes_either(tmp_path: Path) -> None:
    fake, asked = FakeEmbeddingModel(), FakeEmbeddingModel()
    old = backed(fake, byte_store("memory", tmp_path), query_embedding_cache=byte_store("files", tmp_path))
    old.embed_documents(["a"])
    old.embed_query("q")
    assert of(asked, MemoryStore()).adopt(old, ["a", "q"]) == Adopted(2, 0, 2, 0, 2)
    assert of(asked, MemoryStore(), fallback=old).embed_sync(["q", "a"], role="query") == fake.lists(
        ["q", "a"]
    )
    assert asked.texts == []


def test_stores_of_vectors_need_no_encoder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classic = pytest.importorskip("langchain_classic.embeddings", reason="needs langchain-classic")
    from langchain_core.stores import InMemoryStore

    fake, asked = FakeEmbeddingModel(roles=("query",)), FakeEmbeddingModel(roles=("query",))
    old = classic.CacheBackedEmbeddings(
        LangChain().embedder(Spy(fake)), InMemoryStore(), query_embedding_store=InMemoryStore()
    )
    CachedEmbeddingModel(old, MemoryStore(), model_name="fake")
    cached = of(asked, MemoryStore())
    assert cached.adopt(old, ["q"], role="query") == Adopted(1)
    assert caplog.records == []
    old.embed_documents(["a"])
    assert old.embed_query("q") == fake.lists(["q"], "query")[0]
    assert (
        cached.adopt(old, ["a", "q"]) == cached.adopt(old, ["a", "q"], role="query") == Adopted(2, 0, 1, 0, 1)
    )
    assert cached.embed_sync(["q"], role="query") == fake.lists(["q"], "query")


DAMAGE: dict[str, bytes] = {
    "cut": b"[0.1, 0.2",
    "no text": b"\xff\xfe",
    "null": b"null",
    "nan": b"[NaN, 0, 0, 0, 0, 0, 0, 0]",
    "short": b"[0.5, 0.5]",
    "words": b'["a", "b", "c", "d", "e", "f", "g", "h"]',
    "mapping": b'{"a": 1}',
    "empty": b"[]",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entries_are_left_out_and_counted(damage: str, tmp_path: Path) -> None:
    fake, store = FakeEmbeddingModel(), byte_store("memory", tmp_path)
    old = backed(fake, store)
    old.embed_documents(FEW)
    encode = old.document_embedding_store.key_encoder
    store.mset([(encode(text), DAMAGE[damage]) for text in FEW[5:8]])
    counted = 0 if damage == "null" else 3  # null is LangChain's word for what is not there
    assert of(FakeEmbeddingModel(), MemoryStore()).adopt(old, FEW) == Adopted(20, 0, 17, counted, 17)
    asked = FakeEmbeddingModel()
    lazily = of(asked, MemoryStore(), fallback=old)
    assert lazily.embed_sync(FEW) == fake.lists(FEW)
    assert asked.texts == FEW[5:8]


def test_damaged_entries_of_a_key_value_file_are_left_out_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    file.write_text('{"embeddings": {"a": {"id": [0.5, 0.25]}, "b": {}, "c": 3, "d": {"id": "x"}}}')
    cached = of(FakeEmbeddingModel(), MemoryStore())
    assert cached.adopt(file, ["a", "b", "c", "d", "e"]) == Adopted(5, 0, 1, 3, 1)
    assert cached.embed_sync(["a"]) == [[0.5, 0.25]]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"data": {}}', '{"embeddings": 3}'])
def test_another_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text(content)
    with pytest.raises(ValueError, match="no file of a SimpleKVStore with embeddings"):
        of(FakeEmbeddingModel(), MemoryStore()).adopt(tmp_path / "kept.json", ["a"])


@pytest.mark.parametrize("old", [3, object(), {"a": [1.0]}, FakeEmbeddingModel()])
def test_what_is_no_old_cache_is_refused_by_what_is_taken(old: object) -> None:
    with pytest.raises(TypeError, match=r"CacheBackedEmbeddings, .*redisvl's .*summaries.*function"):
        of(FakeEmbeddingModel(), MemoryStore()).adopt(old, ["a"])
    with pytest.raises(TypeError, match="nothing can be adopted"):
        of(FakeEmbeddingModel(), MemoryStore(), fallback=old)


def test_an_embedding_without_a_cache_is_refused() -> None:
    embedding = key_values([], FakeEmbeddingModel())
    embedding.embeddings_cache = None
    with pytest.raises(ValueError, match="no embeddings_cache"):
        of(FakeEmbeddingModel(), MemoryStore()).adopt(embedding, ["a"])


def test_vectors_of_another_dimension_are_never_adopted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = backed(FakeEmbeddingModel(dimension=4), byte_store("memory", tmp_path))
    old.embed_documents(FEW)
    fake = FakeEmbeddingModel()
    of(fake, tmp_path / "cache").embed_sync(["before"])
    with pytest.raises(DimensionMismatchError):
        of(fake, tmp_path / "cache").adopt(old, FEW)
    lazily = of(fake, tmp_path / "cache", fallback=old)
    assert lazily.embed_sync(["before", *FEW]) == fake.lists(["before", *FEW])
    assert lazily.embed_sync(["more", FEW[0]]) == fake.lists(["more", FEW[0]])
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    [warning] = warnings
    assert warning.startswith(
        "The fallback CacheBackedEmbeddings has vectors of 4 dimensions, the model's have 8"
    )


def test_a_function_is_an_old_cache_of_any_make() -> None:
    fake, kept = FakeEmbeddingModel(), dict(zip(FEW, FakeEmbeddingModel().lists(FEW), strict=True))

    def look_up(texts: list[str]) -> list[Any]:
        return [*map(kept.get, texts)]

    cached = of(fake, MemoryStore(), fallback=functools.partial(look_up))
    assert cached.adopt(look_up, [*FEW[:5], "new"]) == Adopted(6, 0, 5, 0, 5)
    assert cached.embed_sync([*FEW, "new"]) == fake.lists([*FEW, "new"])
    assert (fake.texts, cached.stats.adopted, cached.stats.hits) == (["new"], 15, 5)


def test_a_check_refuses_the_vectors_of_another_model_before_anything_is_stored(tmp_path: Path) -> None:
    old = backed(FakeEmbeddingModel("other"), byte_store("memory", tmp_path))
    old.embed_documents(FEW)
    fake = FakeEmbeddingModel()
    cached = of(fake, MemoryStore())
    with pytest.raises(
        ValueError, match="CacheBackedEmbeddings has other vectors than fake makes: of 3 texts"
    ):
        cached.adopt(old, ["unknown", *FEW], check=3)
    assert (fake.texts, cached.stats.stored) == (FEW[:3], 0)
    assert of(FakeEmbeddingModel("other"), MemoryStore()).adopt(old, FEW, check=3).stored == 20


KILLED = """
import os, signal, sys
from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters.testing import FakeEmbeddingModel
def look_up(texts):
    if texts[0] == "text number 1024":
        os.kill(os.getpid(), signal.SIGKILL)
    return FakeEmbeddingModel().lists(texts)
model = CachedEmbeddingModel(FakeEmbeddingModel(), sys.argv[1])
model.adopt(look_up, [f"text number {at}" for at in range(2000)])
"""


def test_what_was_adopted_before_a_kill_is_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert of(FakeEmbeddingModel(), tmp_path).adopt(nothing, TEXTS) == Adopted(2000, 1024, 976, 0, 976)


def test_a_function_that_is_wrong_is_heard_of() -> None:
    cached = of(FakeEmbeddingModel(), MemoryStore())
    with pytest.raises(AttributeError):
        cached.adopt(lambda text: text.upper(), FEW)
    with pytest.raises(ValueError, match="answered 20 texts with 1 vectors"):
        cached.adopt(lambda texts: texts[:1], FEW)


def test_the_summaries_of_a_kura_manager_are_adopted(tmp_path: Path) -> None:
    kinds = pytest.importorskip("kura.types", reason="needs the extra `kura`")
    fake = FakeEmbeddingModel()
    bare = [
        kinds.ConversationSummary(chat_id=str(at), summary=f"summary {at}", metadata={}) for at in range(5)
    ]
    texts = [str(each) for each in bare]
    full = [
        each.model_copy(update={"embedding": vector})
        for each, vector in zip(bare, fake.lists(texts), strict=True)
    ]
    manager = JSONLCheckpointManager(tmp_path / "checkpoints")
    manager.save_checkpoint("summaries", full)
    cached = of(FakeEmbeddingModel(), MemoryStore())
    assert cached.adopt(manager, [*texts, *map(str, full), "other"]) == Adopted(11, 0, 10, 0, 10)
    assert cached.embed_sync(texts) == fake.lists(texts)


# The fallback in the way of a text


def slow(kept: FakeEmbeddingModel) -> tuple[list[list[str]], Callable[[list[str]], list[Any]]]:
    calls: list[list[str]] = []

    def look_up(texts: list[str]) -> list[Any]:
        calls.append([*texts])
        time.sleep(0.05)
        return [
            vector if int(text[-1]) % 2 else None
            for text, vector in zip(texts, kept.lists(texts), strict=True)
        ]

    return calls, look_up


async def test_the_fallback_is_asked_once_for_a_text_that_many_calls_want() -> None:
    fake = FakeEmbeddingModel()
    calls, look_up = slow(fake)
    cached = of(fake, MemoryStore(), fallback=look_up)
    answers = await asyncio.gather(*(cached.embed(FEW) for _ in range(5)))
    assert all(answer == fake.lists(FEW) for answer in answers)
    assert sorted(text for call in calls for text in call) == sorted(FEW)
    assert sorted(fake.texts) == sorted(text for text in FEW if not int(text[-1]) % 2)
    stats = cached.stats
    assert (stats.misses, stats.adopted, stats.duplicates) == (10, 10, 80)


def test_the_fallback_is_asked_in_chunks_and_each_is_stored_before_the_model_is_asked() -> None:
    fake, store = FakeEmbeddingModel(), MemoryStore()
    calls, look_up = slow(fake)
    options = CacheOptions(chunk_size=8)

    def fail(_: list[str]) -> None:
        message = "no model today"
        raise ConnectionError(message)

    fake.fault = fail
    cached = of(fake, store, fallback=look_up, options=options)
    with pytest.raises(ConnectionError):
        cached.embed_sync(FEW)
    assert [len(call) for call in calls] == [8]
    assert len(cached.missing(FEW[:8])) == 4


def test_events_tell_adopted_texts_from_embedded_ones() -> None:
    fake = FakeEmbeddingModel()
    events: list[Event] = []
    _, look_up = slow(fake)
    options = CacheOptions(observers=[events.append], progress=True)
    of(fake, MemoryStore(), fallback=look_up, options=options).embed_sync(FEW)
    embedded = [event for event in events if isinstance(event, Embedded)]
    assert sum(event.adopted for event in embedded) == sum(event.texts for event in embedded) == 10


def test_a_fallback_that_fails_costs_one_warning_and_the_models_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = FakeEmbeddingModel()

    def broken(texts: list[str]) -> list[Any]:
        raise ConnectionError(texts[0])

    cached = of(fake, MemoryStore(), fallback=broken)
    assert cached.embed_sync(FEW) == fake.lists(FEW)
    assert cached.embed_sync(["more"]) == fake.lists(["more"])
    [warning] = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert "Could not read the fallback" in warning
    assert FEW[0] not in warning
    with pytest.raises(ConnectionError):
        cached.adopt(broken, ["yet another"])


def test_a_fallback_changes_no_key(tmp_path: Path) -> None:
    old = backed(FakeEmbeddingModel(), byte_store("memory", tmp_path))
    plain, lazily = of(FakeEmbeddingModel(), tmp_path), of(FakeEmbeddingModel(), tmp_path, fallback=old)
    assert plain.identity() == lazily.identity()
    assert plain.cache_key("a") == lazily.cache_key("a")


def nothing(texts: list[str]) -> list[Any]:
    return [[0.5] * 8 for _ in texts]


def test_a_model_with_a_fallback_survives_pickling(tmp_path: Path) -> None:
    twin = pickle.loads(pickle.dumps(of(FakeEmbeddingModel(), tmp_path, fallback=nothing)))
    assert twin.embed_sync(["a"]) == [[0.5] * 8]


def test_without_a_cache_there_is_nothing_to_keep_and_the_model_answers() -> None:
    fake = FakeEmbeddingModel()
    bare = of(fake, None, fallback=nothing)
    assert bare.embed_sync(["a"]) == fake.lists(["a"])
    assert bare.adopt(nothing, ["a"]) == Adopted(1, 0, 1, 0, 0)


# What is merely seen through


def test_a_filled_cache_that_is_seen_through_is_named_with_the_cure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = backed(FakeEmbeddingModel(), byte_store("files", tmp_path))

    def wrap(**keywords: Any) -> list[str]:
        caplog.clear()
        CachedEmbeddingModel(old, MemoryStore(), model_name="fake", **keywords)
        return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]

    assert wrap() == []
    old.embed_documents(FEW)
    [warning] = wrap()
    assert "model.adopt(it, texts)" in warning
    assert "fallback=it" in warning
    assert wrap(fallback=old) == []


def test_an_old_cache_beneath_another_wrapper_is_named_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package = pytest.importorskip("llama_index.embeddings.langchain", reason="needs it")
    old = backed(FakeEmbeddingModel(), byte_store("memory", tmp_path))
    old.embed_documents(FEW)
    CachedEmbeddingModel(package.LangchainEmbedding(old), MemoryStore(), model_name="fake")
    [warning] = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert warning.startswith("CacheBackedEmbeddings is seen through")


def test_a_refused_embeddings_cache_names_the_way_to_keep_it() -> None:
    embedding = key_values(FEW, FakeEmbeddingModel())
    with pytest.raises(ValueError, match=r"fallback="):
        CachedEmbeddingModel(embedding, MemoryStore(), model_name="fake")
    from kura_cache_adapters import LlamaIndexCachedEmbedding

    with pytest.raises(ValueError, match=r"fallback="):
        LlamaIndexCachedEmbedding(of(FakeEmbeddingModel(), None), embeddings_cache=embedding.embeddings_cache)


def test_entries_with_infinity_are_damaged() -> None:
    cached = of(FakeEmbeddingModel(), MemoryStore())
    assert cached.adopt(lambda texts: [[math.inf] for _ in texts], ["a"]) == Adopted(1, 0, 0, 1, 0)
