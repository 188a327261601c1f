"""What only LangChain has: its vector stores, and what its CacheBackedEmbeddings promises."""

from __future__ import annotations

import asyncio
import logging
import pickle
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("langchain_core", reason="needs the extra `langchain`")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import BaseModel

from kura_cache_adapters import (
    CachedEmbeddingModel,
    LangChainCachedEmbeddings,
    LangChainEmbeddingModel,
    MemoryStore,
    VectorCountError,
)
from kura_cache_adapters._runtime import loop
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.frameworks import LangChain, Spy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kura_cache_adapters.testing.openai_server import OpenAIServer

TEXTS = ["the cat sat", "on the mat", "and purred", "until noon"]


@pytest.fixture
def spy() -> Spy:
    return Spy(FakeEmbeddingModel(roles=("query",)))


@pytest.fixture
def embedder(spy: Spy) -> Any:
    return LangChain().embedder(spy)


def test_it_is_an_embeddings_and_a_plain_class(embedder: Any, tmp_path: Path) -> None:
    adapter = LangChain().wrap(embedder, tmp_path)
    assert isinstance(adapter, Embeddings)
    assert LangChainCachedEmbeddings.aembed_documents is not Embeddings.aembed_documents
    assert LangChainCachedEmbeddings.aembed_query is not Embeddings.aembed_query
    with pytest.raises(TypeError):
        adapter.embed_documents(["a"], chunk_size=1)  # type: ignore[call-arg]


def test_it_is_pickled_with_its_source(tmp_path: Path) -> None:
    adapter = LangChainCachedEmbeddings.from_embeddings(DeterministicFakeEmbedding(size=3), tmp_path)
    vectors = adapter.embed_documents(TEXTS)
    copy = pickle.loads(pickle.dumps(adapter))
    assert copy.embed_documents(TEXTS) == vectors
    assert copy.cached.stats.hits == len(TEXTS)


# Vector stores, built twice from the same cache


def in_memory(embeddings: Embeddings) -> InMemoryVectorStore:
    return InMemoryVectorStore.from_texts(TEXTS, embeddings)


def faiss(embeddings: Embeddings) -> Any:
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    community = pytest.importorskip("langchain_community.vectorstores", reason="needs langchain-community")
    return community.FAISS.from_texts(TEXTS, embeddings)


def chroma(embeddings: Embeddings) -> Any:
    package = pytest.importorskip("langchain_chroma", reason="needs langchain-chroma")
    from chromadb import EphemeralClient
    from chromadb.config import Settings

    client = EphemeralClient(Settings(anonymized_telemetry=False))
    for collection in client.list_collections():
        client.delete_collection(collection.name)
    return package.Chroma.from_texts(TEXTS, embeddings, client=client)


@pytest.mark.parametrize("build", [in_memory, faiss, chroma])
async def test_a_vector_store_built_again_asks_the_model_nothing(
    build: Callable[[Embeddings], Any], embedder: Any, spy: Spy, tmp_path: Path
) -> None:
    answers = []
    for _ in range(2):
        spy.calls.clear()
        store = build(LangChain().wrap(embedder, tmp_path))
        found = store.similarity_search_with_score("the cat sat", k=3)
        later = await store.asimilarity_search("until noon", k=2)
        retrieved = store.as_retriever(search_kwargs={"k": 1}).invoke("the cat sat")
        answers.append(
            [
                [(document.page_content, score) for document, score in found],
                [document.page_content for document in [*later, *retrieved]],
            ]
        )
    assert spy.calls == []
    assert answers[0] == answers[1]
    assert len(answers[0][0]) == 3


async def test_a_vector_store_takes_documents_asynchronously(embedder: Any, spy: Spy, tmp_path: Path) -> None:
    documents = [Document(page_content=text) for text in TEXTS]
    for _ in range(2):
        store = InMemoryVectorStore(LangChain().wrap(embedder, tmp_path))
        await store.aadd_documents(documents)
        await store.aadd_documents([])
        store.add_texts([])
        assert len(await store.asimilarity_search("the cat sat", k=9)) == len(TEXTS)
    assert sorted(spy.texts) == sorted([*TEXTS, "the cat sat"])


# What LangChain's own tests expect of CacheBackedEmbeddings, without its options


class Lengths(Embeddings):
    """Vectors of two small integers; one text makes it fail."""

    model_name = "lengths"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if "broken" in texts:
            message = "this text is broken"
            raise ValueError(message)
        return [[len(text), len(text) + 1] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        assert text
        return [5.0, 6.0]


@pytest.fixture
def lengths() -> LangChainCachedEmbeddings:
    return LangChainCachedEmbeddings.from_embeddings(Lengths(), MemoryStore(), model_name="lengths")


def held(adapter: LangChainCachedEmbeddings) -> int:
    store: Any = adapter.cached.cache_manager
    return sum(len([*store.space(identity).keys()]) for identity in store.spaces())


def test_documents_are_embedded_and_held(lengths: LangChainCachedEmbeddings) -> None:
    assert lengths.embed_documents(["1", "22", "a", "333"]) == [[1, 2], [2, 3], [1, 2], [3, 4]]
    assert held(lengths) == 4


def test_finished_batches_are_held_when_one_fails(lengths: LangChainCachedEmbeddings) -> None:
    texts = [f"{number}" for number in range(70)]
    with pytest.raises(ValueError, match="this text is broken"):
        lengths.embed_documents([*texts, "broken"])
    assert held(lengths) == 64


def test_a_query_is_held_too(lengths: LangChainCachedEmbeddings) -> None:
    assert lengths.embed_query("question") == [5.0, 6.0]
    assert held(lengths) == 1
    assert lengths.embed_documents(["question"]) == [[8, 9]]
    assert held(lengths) == 2


async def test_the_same_holds_asynchronously(lengths: LangChainCachedEmbeddings) -> None:
    assert await lengths.aembed_documents(["1", "22", "a", "333"]) == [[1, 2], [2, 3], [1, 2], [3, 4]]
    assert await lengths.aembed_query("question") == [5.0, 6.0]
    assert held(lengths) == 5
    with pytest.raises(ValueError, match="this text is broken"):
        await lengths.aembed_documents([f"{number:03}" for number in range(64)] + ["broken"])
    assert held(lengths) == 5 + 64


def test_equal_texts_have_equal_keys_in_every_process() -> None:
    adapter = LangChainCachedEmbeddings.from_embeddings(
        Lengths(), None, model_name="m", identity={"version": 1}
    )
    program = (
        "from kura_cache_adapters import CachedEmbeddingModel, CallableEmbeddingModel\n"
        "source = CallableEmbeddingModel(len, model_name='m', identity={'version': 1})\n"
        "print(CachedEmbeddingModel(source).cache_key('text'))"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == adapter.cached.cache_key("text")


# Where CacheBackedEmbeddings is wrong, as measured


def test_another_model_in_the_same_store_gets_its_own_vectors(tmp_path: Path) -> None:
    for name in ("first", "second", "BAAI/bge small:v1"):
        spy = Spy(FakeEmbeddingModel(name))
        adapter = LangChain().wrap(LangChain().embedder(spy), tmp_path)
        assert adapter.embed_documents(TEXTS) == spy.fake.lists(TEXTS)


def test_a_repeated_text_is_asked_for_once(embedder: Any, spy: Spy, tmp_path: Path) -> None:
    adapter = LangChain().wrap(embedder, tmp_path)
    assert adapter.embed_documents(["a"] * 5) == spy.fake.lists(["a"] * 5)
    assert spy.texts == ["a"]


def test_a_missing_vector_is_an_error_and_no_none(embedder: Any, spy: Spy, tmp_path: Path) -> None:
    adapter = LangChain().wrap(embedder, tmp_path)
    spy.change = lambda vectors: vectors[:1]
    with pytest.raises(VectorCountError):
        adapter.embed_documents(TEXTS)


def test_float32_is_no_trouble(embedder: Any, spy: Spy, tmp_path: Path) -> None:
    adapter = LangChain().wrap(embedder, tmp_path)
    spy.change = lambda vectors: list(np.array(vectors, np.float32))
    assert [adapter.embed_documents(TEXTS) for _ in range(2)] == [spy.fake.lists(TEXTS)] * 2


def test_cache_backed_embeddings_are_seen_through(embedder: Any, spy: Spy, tmp_path: Path) -> None:
    classic = pytest.importorskip("langchain_classic.embeddings", reason="needs langchain-classic")
    from langchain_classic.storage import InMemoryByteStore

    wrong = InMemoryByteStore()
    backed = classic.CacheBackedEmbeddings.from_bytes_store(
        embedder, wrong, query_embedding_cache=True, key_encoder="sha256"
    )
    adapter = LangChainCachedEmbeddings.from_embeddings(backed, tmp_path, model_name="fake")
    assert adapter.embed_documents(["x"]) == spy.fake.lists(["x"])
    assert adapter.embed_query("x") == spy.fake.lists(["x"], "query")[0]
    assert [*wrong.yield_keys()] == []
    direct = LangChain().wrap(embedder, tmp_path)
    assert direct.cached.cache_key("x") == adapter.cached.cache_key("x")


# As other libraries meet it


class AsyncOnly(Embeddings):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError

    def embed_query(self, text: str) -> list[float]:
        raise NotImplementedError

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return [[float(len(text))] for text in texts]

    async def aembed_query(self, text: str) -> list[float]:
        return [-float(len(text))]


async def test_an_embedder_with_async_methods_only_works_sync_and_async(tmp_path: Path) -> None:
    adapter = LangChainCachedEmbeddings.from_embeddings(AsyncOnly(), tmp_path, model_name="lengths-v1")
    assert await adapter.aembed_documents(["one", "three"]) == [[3.0], [5.0]]
    assert await asyncio.to_thread(adapter.embed_documents, ["one", "seven"]) == [[3.0], [5.0]]
    assert adapter.embed_query("four") == await adapter.aembed_query("four") == [-4.0]
    assert adapter.cached.stats.misses == 4


def test_its_model_is_the_models_name_as_of_any_embeddings(embedder: Any, tmp_path: Path) -> None:
    class Event(BaseModel):  # as Ragas tells of what it used
        model: str | None

    adapter = LangChain().wrap(embedder, tmp_path)
    assert Event(model=adapter.model).model == adapter.cached.model_name == "fake"


def through_a_cache_of_langchains(adapter: Any) -> Any:
    classic = pytest.importorskip("langchain_classic.embeddings", reason="needs langchain-classic")
    from langchain_classic.storage import InMemoryByteStore

    return classic.CacheBackedEmbeddings.from_bytes_store(
        adapter, InMemoryByteStore(), namespace=adapter.model, key_encoder="sha256"
    )


def through_llama_index(adapter: Any) -> Any:
    package = pytest.importorskip("llama_index.embeddings.langchain", reason="needs it")
    wrapped = package.LangchainEmbedding(adapter)
    assert wrapped.model_name == "fake"
    return SimpleNamespace(
        embed_documents=wrapped.get_text_embedding_batch, embed_query=wrapped.get_query_embedding
    )


def through_a_field(adapter: Any) -> Any:
    class Holder(BaseModel, arbitrary_types_allowed=True):
        embeddings: Embeddings

    return Holder(embeddings=adapter).embeddings


def through_a_chain(adapter: Any) -> Any:
    from langchain_core.runnables import RunnableLambda

    return SimpleNamespace(
        embed_documents=RunnableLambda(adapter.embed_documents).invoke,
        embed_query=RunnableLambda(adapter.embed_query).invoke,
    )


@pytest.mark.parametrize(
    "door", [through_a_cache_of_langchains, through_llama_index, through_a_field, through_a_chain]
)
def test_whoever_wraps_it_gets_its_vectors_and_its_name(
    door: Callable[[Any], Any], embedder: Any, spy: Spy, tmp_path: Path
) -> None:
    adapter = LangChain().wrap(embedder, tmp_path)
    wrapped = door(adapter)
    for _ in range(2):
        assert wrapped.embed_documents(TEXTS) == spy.fake.lists(TEXTS)
        assert wrapped.embed_query("q") == spy.fake.lists(["q"], "query")[0]
    assert sorted(spy.texts) == sorted([*TEXTS, "q"])


# A provider over real HTTP


@pytest.fixture
def openai_embeddings(openai_server: OpenAIServer) -> Iterator[Callable[..., Any]]:
    """Make LangChain's OpenAIEmbeddings, and close their clients in the end."""
    package = pytest.importorskip("langchain_openai", reason="needs langchain-openai")
    made: list[Any] = []

    def make(**options: Any) -> Any:
        made.append(package.OpenAIEmbeddings(check_embedding_ctx_length=False, **options))
        return made[-1]

    assert openai_server.url
    yield make
    for embeddings in made:
        embeddings.client._client.close()
        loop.run(embeddings.async_client._client.close())


def test_openai_through_langchain(
    openai_server: OpenAIServer,
    openai_embeddings: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = [f"text {number}" for number in range(10)]

    def make(**options: Any) -> LangChainCachedEmbeddings:
        options = {"chunk_size": 4, "dimensions": 8, **options}
        embeddings = openai_embeddings(model="text-embedding-3-small", **options)
        return LangChainCachedEmbeddings.from_embeddings(embeddings, tmp_path)

    openai_server.faults = ["late", "400"]
    with pytest.raises(Exception, match="told to answer 400"):
        make().embed_documents(texts)
    assert make().embed_documents(texts) == openai_server.lists(texts)
    assert openai_server.texts == [*texts[:4], *texts[4:8], *texts[4:8], *texts[8:]]
    before = len(openai_server.requests)
    changed = make(
        chunk_size=100,
        max_retries=0,
        timeout=5,
        api_key="sk-other-MARKED",
        default_headers={"Authorization": "MARKED"},
    )
    assert changed.embed_documents(texts) == openai_server.lists(texts)
    assert changed.embed_query(texts[0]) == openai_server.lists(texts[:1])[0]
    assert len(openai_server.requests) == before
    assert make(dimensions=4).cached.missing(texts) == [*range(10)]
    assert make(model_kwargs={"user": "x"}).cached.missing(texts) == []
    assert make(default_headers={"x-model": "MARKED"}).cached.missing(texts) == [*range(10)]
    assert make(default_query={"v": "1"}).cached.missing(texts) == [*range(10)]
    assert make(base_url="http://127.0.0.1:9/v1").cached.missing(texts) == [*range(10)]
    assert "MARKED" not in repr(changed) + caplog.text
    for path in tmp_path.rglob("*"):
        assert "MARKED" not in str(path)
        assert path.is_dir() or b"MARKED" not in path.read_bytes()


async def test_async_clients_may_be_chosen(
    openai_server: OpenAIServer, openai_embeddings: Callable[..., Any], tmp_path: Path
) -> None:
    source = LangChainEmbeddingModel(openai_embeddings(dimensions=8), use_async=True)
    source.runs_on = "background"  # one client for the loop and for sync callers
    cached = CachedEmbeddingModel(source, tmp_path)
    expected = openai_server.lists(TEXTS, "text-embedding-ada-002")
    assert await cached.embed(TEXTS) == expected
    assert cached.embed_sync([*TEXTS, "more"])[:-1] == expected
    assert len(openai_server.requests) == 2
