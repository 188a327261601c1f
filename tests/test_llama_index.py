"""What only LlamaIndex has: settings, indexes, pipelines, events, limits, dicts and pickles."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")

import llama_index.core.instrumentation as instrument
from llama_index.core import MockEmbedding, Settings, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import PrivateAttr

from kura_cache_adapters import (
    CachedEmbeddingModel,
    IdentityError,
    LlamaIndexCachedEmbedding,
    LlamaIndexEmbeddingModel,
    MemoryStore,
    open_store,
)
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.frameworks import LlamaIndex, Spy

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters.testing.openai_server import OpenAIServer

TEXTS = ["the cat sat", "on the mat", "and purred", "until noon"]


@pytest.fixture
def spy() -> Spy:
    return Spy(FakeEmbeddingModel(roles=("query",)))


@pytest.fixture
def embedder(spy: Spy) -> Any:
    return LlamaIndex().embedder(spy)


@pytest.fixture
def adapter(embedder: Any, tmp_path: Path) -> LlamaIndexCachedEmbedding:
    return LlamaIndex().wrap(embedder, tmp_path)


def nodes() -> list[TextNode]:
    return [TextNode(text=text, id_=f"node-{at}") for at, text in enumerate(TEXTS)]


def test_it_is_a_base_embedding_that_overrides_all_six(adapter: LlamaIndexCachedEmbedding) -> None:
    assert BaseEmbedding.__name__ in [kind.__name__ for kind in type(adapter).__mro__]
    assert adapter.class_name() == "LlamaIndexCachedEmbedding"
    assert (adapter.model_name, adapter.embed_batch_size) == ("fake", 2048)
    for kind in ("query_embedding", "text_embedding", "text_embeddings"):
        for method in (f"_get_{kind}", f"_aget_{kind}"):
            assert method in vars(LlamaIndexCachedEmbedding)


def test_a_look_up_stays_one_batch(embedder: Any, spy: Spy, tmp_path: Path) -> None:
    adapter = LlamaIndex().wrap(embedder, tmp_path)
    texts = [f"{number}" for number in range(100)]
    adapter.get_text_embedding_batch(texts)
    assert {len(asked) for _, asked in spy.calls} == {4}
    events = LlamaDebugHandler(print_trace_on_end=False)
    adapter.callback_manager = CallbackManager([events])
    adapter.get_text_embedding_batch(texts)
    assert len(events.get_event_pairs(CBEventType.EMBEDDING)) == 1


def test_settings_and_an_index_built_again_ask_the_model_nothing(
    embedder: Any, spy: Spy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_embed_model", None)
    found = []
    for _ in range(2):
        spy.calls.clear()
        Settings.embed_model = LlamaIndex().wrap(embedder, tmp_path)
        index = VectorStoreIndex(nodes())
        answer = index.as_retriever(similarity_top_k=3).retrieve("the cat sat")
        found.append([(hit.node.node_id, hit.score) for hit in answer])
    assert spy.calls == []
    assert found[0] == found[1]
    assert len(found[0]) == 3


async def test_an_index_is_asked_asynchronously(adapter: LlamaIndexCachedEmbedding, spy: Spy) -> None:
    index = VectorStoreIndex(nodes(), embed_model=adapter, use_async=False)
    for _ in range(2):
        assert len(await index.as_retriever(similarity_top_k=2).aretrieve("until noon")) == 2
    assert sorted(spy.texts) == sorted([*TEXTS, "until noon"])


async def test_a_pipeline_embeds_nodes_in_order_and_once(embedder: Any, spy: Spy, tmp_path: Path) -> None:
    expected = spy.fake.lists([node.get_content(MetadataMode.EMBED) for node in nodes()])
    for number in range(3):
        adapter = LlamaIndex().wrap(embedder, tmp_path)
        pipeline = IngestionPipeline(transformations=[adapter], disable_cache=True)
        done = pipeline.run(nodes=nodes()) if number % 2 else await pipeline.arun(nodes=nodes())
        assert [node.node_id for node in done] == [node.node_id for node in nodes()]
        assert [node.embedding for node in done] == expected
    assert sorted(spy.texts) == sorted(TEXTS)


def test_a_pipeline_with_workers_embeds_nothing_twice(tmp_path: Path) -> None:
    model = CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path)
    adapter = LlamaIndexCachedEmbedding(model=model)
    expected = model.embed_sync([node.get_content(MetadataMode.EMBED) for node in nodes()])
    pipeline = IngestionPipeline(transformations=[adapter], disable_cache=True)
    done = pipeline.run(nodes=nodes(), num_workers=2)
    assert [(node.node_id, node.embedding) for node in done] == [
        (node.node_id, vector) for node, vector in zip(nodes(), expected, strict=True)
    ]
    assert open_store(tmp_path).space(model.identity()).stats().rows == len(TEXTS)


# Dicts and the ingestion cache


def test_its_dict_is_json_without_secrets_and_the_same_everywhere(tmp_path: Path) -> None:
    adapter = LlamaIndexCachedEmbedding(model=CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path))
    told = json.dumps(adapter.to_dict())
    assert str(tmp_path) not in told
    program = (
        "import json, sys\n"
        "from kura_cache_adapters import CachedEmbeddingModel, LlamaIndexCachedEmbedding\n"
        "from kura_cache_adapters.testing import FakeEmbeddingModel\n"
        "model = CachedEmbeddingModel(FakeEmbeddingModel(), sys.argv[1])\n"
        "print(json.dumps(LlamaIndexCachedEmbedding(model=model).to_dict()))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "elsewhere")]
    there = subprocess.run(command, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == told


def test_different_models_have_different_dicts_and_ingestion_caches(tmp_path: Path) -> None:
    def adapter(name: str, **parameters: Any) -> LlamaIndexCachedEmbedding:
        model = CachedEmbeddingModel(FakeEmbeddingModel(name), tmp_path, **parameters)
        return LlamaIndexCachedEmbedding(model=model)

    adapters = [adapter("one"), adapter("two"), adapter("one", prompt="x"), adapter("one", prompt="y")]
    assert len({json.dumps(each.to_dict(), sort_keys=True) for each in adapters}) == 4
    pipeline = IngestionPipeline(transformations=[])
    vectors = []
    for each in adapters[:2]:
        pipeline.transformations = [each]
        vectors.append(pipeline.run(nodes=nodes())[0].embedding)
    assert vectors == [FakeEmbeddingModel(name).lists(TEXTS[:1])[0] for name in ("one", "two")]


def test_a_dict_alone_makes_no_model(adapter: LlamaIndexCachedEmbedding) -> None:
    with pytest.raises(TypeError, match="model"):
        LlamaIndexCachedEmbedding.from_dict(adapter.to_dict())
    again = LlamaIndexCachedEmbedding.from_dict(adapter.to_dict(), model=adapter.cached)
    assert again.to_dict() == adapter.to_dict()


# Pickles


def test_it_is_pickled_whole(tmp_path: Path) -> None:
    source = LlamaIndexEmbeddingModel(MockEmbedding(embed_dim=4))
    model = CachedEmbeddingModel(source, tmp_path, release=3)
    adapter = LlamaIndexCachedEmbedding(model=model, embed_batch_size=100, num_workers=2)
    copy = pickle.loads(pickle.dumps(adapter))
    assert copy.to_dict() == adapter.to_dict()
    assert copy.get_text_embedding("a") == adapter.get_text_embedding("a") == [0.5] * 4


def test_an_embedder_that_pickling_would_change_is_refused(embedder: Any, spy: Spy) -> None:
    class Prompted(type(embedder)):  # type: ignore[misc]
        def __init__(self, prompt: str = "none", **fields: Any) -> None:
            super().__init__(**fields)
            object.__setattr__(self, "_prompt", prompt)

    Prompted.__qualname__ = "Prompted"
    source = LlamaIndexEmbeddingModel(Prompted(prompt="search: "), "prompted-v1")
    with pytest.raises(TypeError, match="does not survive pickling"):
        pickle.dumps(source)
    assert spy.calls == []


def test_an_embedder_that_loses_what_cannot_be_pickled_is_refused() -> None:
    class Preprocessing(MockEmbedding):
        _before: Any = PrivateAttr(None)

    embedder = Preprocessing(embed_dim=4)
    embedder._before = lambda text: text
    source = LlamaIndexEmbeddingModel(embedder, "mine")
    with pytest.raises(TypeError, match="does not survive pickling"):
        source.__getstate__()


def test_an_adapter_keeps_its_model(adapter: LlamaIndexCachedEmbedding) -> None:
    with pytest.raises(AttributeError, match="make another one"):
        adapter.cached = CachedEmbeddingModel(FakeEmbeddingModel("other"))


# Events, callbacks, limits


class Collected(BaseEventHandler):
    """Keeps the events that it is told."""

    events: list[Any]

    @classmethod
    def class_name(cls) -> str:
        return "Collected"

    def handle(self, event: Any, **_: Any) -> None:
        self.events.append(event)


async def test_it_emits_the_events_of_any_embedding(tmp_path: Path) -> None:
    fake = FakeEmbeddingModel(roles=("query",))
    debug = LlamaDebugHandler(print_trace_on_end=False)
    adapter = LlamaIndexCachedEmbedding(
        model=CachedEmbeddingModel(fake, tmp_path), callback_manager=CallbackManager([debug])
    )
    collected = Collected(events=[])
    dispatcher = instrument.get_dispatcher()  # type: ignore[attr-defined]
    dispatcher.add_event_handler(collected)
    try:
        adapter.get_text_embedding("a")
        await adapter.aget_query_embedding("q")
        adapter.get_text_embedding_batch(["a", "b"])
    finally:
        dispatcher.event_handlers.remove(collected)
    ends = [event for event in collected.events if type(event).__name__ == "EmbeddingEndEvent"]
    assert [event.chunks for event in ends] == [["a"], ["q"], ["a", "b"]]
    assert ends[2].embeddings == fake.lists(["a", "b"])
    assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == 3


class Limiter:
    """Counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def acquire(self) -> None:
        self.asked += 1

    async def async_acquire(self) -> None:
        self.asked += 1


async def test_a_rate_limiter_is_asked_only_for_what_reaches_the_model(tmp_path: Path) -> None:
    limiter = Limiter()
    model = CachedEmbeddingModel(FakeEmbeddingModel(roles=("query",)), tmp_path)
    adapter = LlamaIndexCachedEmbedding(model=model, rate_limiter=limiter)
    for asked in (1, 1):
        adapter.get_text_embedding_batch(["a", "b"])
        assert limiter.asked == asked
    await adapter.aget_text_embedding_batch(["a", "c"])
    assert limiter.asked == 2
    for _ in range(2):
        adapter.get_query_embedding("a")
        await adapter.aget_query_embedding("a")
        await adapter.aget_text_embedding("c")
    assert limiter.asked == 3
    adapter.rate_limiter = other = Limiter()
    adapter.get_text_embedding("new")
    assert (limiter.asked, other.asked) == (3, 1)


def test_the_embedders_own_rate_limiter_sees_the_misses(embedder: Any, spy: Spy, tmp_path: Path) -> None:
    if "rate_limiter" not in type(embedder).model_fields:
        pytest.skip("this llama-index-core has no rate limiters")
    embedder.rate_limiter = limiter = Limiter()
    for _ in range(2):
        LlamaIndex().wrap(embedder, tmp_path).get_text_embedding_batch(TEXTS)
        assert limiter.asked == 1
    assert len(spy.calls) == 1


# LlamaIndex's own cache


def test_an_embeddings_cache_beneath_is_refused(embedder: Any, adapter: LlamaIndexCachedEmbedding) -> None:
    with pytest.raises(ValueError, match="leave it out"):
        LlamaIndexCachedEmbedding(model=adapter.cached, embeddings_cache=SimpleKVStore())
    with pytest.raises(ValueError, match="leave it out"):
        adapter.embeddings_cache = SimpleKVStore()
    if "embeddings_cache" not in type(embedder).model_fields:
        return
    embedder.embeddings_cache = SimpleKVStore()
    with pytest.raises(IdentityError, match=r"embeddings_cache.*Set it to None"):
        LlamaIndexEmbeddingModel(embedder)


# What LlamaIndex's own tests expect of embeddings_cache


async def test_what_its_cache_promises_holds(spy: Spy) -> None:
    adapter = LlamaIndexCachedEmbedding.from_embedding(MockEmbedding(embed_dim=4), MemoryStore())
    assert adapter.get_text_embedding("Hello") == [0.5] * 4
    assert adapter.cached.missing(["Hello"]) == []
    assert adapter.get_text_embedding_batch(["Hello"]) == [[0.5] * 4]
    assert await adapter.aget_text_embedding("Other") == [0.5] * 4
    assert adapter.cached.missing(["Other"]) == []


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("query_first", [False, True])
async def test_query_and_text_are_kept_apart(spy: Spy, *, query_first: bool, asynchronous: bool) -> None:
    face = LlamaIndex()
    adapter = face.wrap(face.embedder(spy), MemoryStore())
    text, query = spy.fake.lists(["Paris"])[0], spy.fake.lists(["Paris"], "query")[0]

    async def ask() -> None:
        if asynchronous:
            assert await adapter.aget_query_embedding("Paris") == query
        else:
            assert adapter.get_query_embedding("Paris") == query

    if query_first:
        await ask()
    for _ in range(2):
        if asynchronous:
            assert await adapter.aget_text_embedding_batch(["Paris"]) == [text]
            assert await adapter.aget_text_embedding("Paris") == text
        else:
            assert adapter.get_text_embedding_batch(["Paris"]) == [text]
            assert adapter.get_text_embedding("Paris") == text
        await ask()
    assert sorted(role for role, _ in spy.calls) == ["document", "query"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_found_and_missed_texts_keep_their_order(adapter: Any, spy: Spy, *, asynchronous: bool) -> None:
    adapter.get_text_embedding_batch(["Cached1", "Cached2"])
    spy.calls.clear()
    texts = ["Cached1", "Miss1", "Cached2", "Miss2"]
    if asynchronous:
        vectors = await adapter.aget_text_embedding_batch(texts)
    else:
        vectors = adapter.get_text_embedding_batch(texts)
    assert vectors == spy.fake.lists(texts)
    assert spy.calls == [("document", ["Miss1", "Miss2"])]


def test_openai_through_llama_index(
    openai_server: OpenAIServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package = pytest.importorskip("llama_index.embeddings.openai", reason="needs LlamaIndex's OpenAI")
    caplog.set_level(logging.DEBUG)
    texts = [f"text {number}" for number in range(10)]
    made: list[Any] = []

    def make(**options: Any) -> LlamaIndexCachedEmbedding:
        options = {"embed_batch_size": 4, "dimensions": 8, "max_retries": 0, **options}
        made.append(package.OpenAIEmbedding(model="text-embedding-3-small", **options))
        return LlamaIndexCachedEmbedding.from_embedding(made[-1], tmp_path)

    first = make()
    assert first.get_text_embedding_batch(texts) == openai_server.lists(texts)
    assert [len(request["input"]) for request in openai_server.requests] == [4, 4, 2]
    changed = make(
        embed_batch_size=7, api_key="sk-other-MARKED", default_headers={"User-Agent": "MARKED"}, timeout=3
    )
    assert changed.get_text_embedding_batch(texts) == openai_server.lists(texts)
    assert changed.get_query_embedding(texts[0]) == openai_server.lists(texts[:1])[0]
    assert changed.to_dict() == first.to_dict()
    assert len(openai_server.requests) == 3
    assert make(dimensions=4).cached.missing(texts) == [*range(10)]
    assert "MARKED" not in json.dumps(changed.to_dict()) + repr(changed) + caplog.text
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"MARKED" not in path.read_bytes()
    for embedder in made:
        if embedder._client is not None:
            embedder._client.close()


def test_a_langchain_embedding_is_seen_through(tmp_path: Path) -> None:
    package = pytest.importorskip("llama_index.embeddings.langchain", reason="needs its LangchainEmbedding")
    from langchain_core.embeddings import DeterministicFakeEmbedding

    from kura_cache_adapters import LangChainEmbeddingModel

    lang = DeterministicFakeEmbedding(size=3)
    adapter = LlamaIndexCachedEmbedding.from_embedding(package.LangchainEmbedding(lang), tmp_path)
    direct = CachedEmbeddingModel(LangChainEmbeddingModel(lang), tmp_path)
    assert adapter.cached.cache_key("x") == direct.cache_key("x")
    assert adapter.get_text_embedding_batch(["x", "y"]) == lang.embed_documents(["x", "y"])
    assert direct.missing(["x", "y"]) == []
