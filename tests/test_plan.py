"""What a call would find, send and cost is known before, to the token, and the model is not touched."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, MemoryStore
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from kura_cache_adapters.testing.openai_server import OpenAIServer

WORDS = ["a cat", "a dog that barks", "a cat", "", "naïve 🐈 café", "a dog that barks", "tokenisation"]


class Counting(FakeEmbeddingModel):
    """A model that counts, and writes down what as."""

    asked: list[tuple[int, str]] = []  # noqa: RUF012 - one for the test

    def count_tokens(self, texts: list[str], *, role: str = "document") -> list[int] | None:
        self.asked.append((len(texts), role))
        return [len(text.split()) for text in texts]


@pytest.fixture
def vocabulary(monkeypatch: pytest.MonkeyPatch, openai_server: OpenAIServer) -> Any:
    """Have the server bill by OpenAI's own tokenizer, whose vocabulary LlamaIndex brings along."""
    tiktoken = pytest.importorskip("tiktoken", reason="needs the extra `prices`")
    core = pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(core.__file__).parent / "_static" / "tiktoken_cache"))
    encoding = tiktoken.get_encoding("cl100k_base")
    openai_server.count_tokens = lambda text: len(encoding.encode_ordinary(text))
    return encoding


def test_a_plan_says_what_a_call_then_does() -> None:
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, MemoryStore())
    cached.embed_sync(["a", "b"])
    texts = ["a", "a", "b", "new", "new", "newer"]
    plan, before = cached.plan(texts), cached.stats
    assert cached.contains(texts) == [True, True, True, False, False, False]
    cached.embed_sync(texts)
    after = cached.stats
    assert (plan.texts, plan.cached, plan.duplicates, plan.missing) == (6, 3, 1, 2)
    assert (plan.cached, plan.missing) == (after.hits - before.hits, after.misses - before.misses)
    assert (plan.duplicates, plan.characters) == (after.duplicates - before.duplicates, len("new" + "newer"))


def test_a_plan_touches_no_model_and_stores_nothing(tmp_path: Path) -> None:
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, tmp_path / "cache")
    cached.plan(["a"])
    assert cached.contains(["a"]) == [False]
    assert model.calls == []
    assert not (tmp_path / "cache").exists()


def test_what_is_not_known_is_none_and_what_is_not_asked_costs_nothing() -> None:
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), MemoryStore())
    assert (cached.plan(["a"]).tokens, cached.plan(["a"], price_per_million=3).cost) == (None, None)
    assert "tokens: unknown, cost: unknown" in str(cached.plan(["a"]))
    cached.embed_sync(["a"])
    assert (cached.plan(["a"]).tokens, cached.plan(["a"]).cost) == (0, 0.0)
    counting = CachedEmbeddingModel(Counting(), MemoryStore())
    assert (counting.plan(["a b"]).tokens, counting.plan(["a b"]).cost) == (2, None)


def test_a_source_counts_in_the_role_that_is_asked_for() -> None:
    cached = CachedEmbeddingModel(Counting(roles=["query"]), MemoryStore())
    assert cached.plan(["a b", "a b"], role="query", price_per_million=1_000_000).cost == 2.0
    assert Counting.asked[-1] == (1, "query")
    with pytest.raises(ValueError, match="quary"):
        cached.plan(["a"], role="quary")


def test_a_plan_of_many_texts_holds_few_of_their_vectors(tmp_path: Path) -> None:
    texts = [str(at) for at in range(20_000)]
    cached = CachedEmbeddingModel(FakeEmbeddingModel(dimension=512), tmp_path)
    cached.add(texts, np.random.default_rng(7).random((20_000, 512), np.float32))
    tracemalloc.start()
    try:
        assert cached.plan(texts).cached == len(texts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 25e6  # the vectors have 41 MB


def test_a_cache_around_a_cache_counts_too(tmp_path: Path) -> None:
    inner = CachedEmbeddingModel(Counting(roles=["query"]), tmp_path)
    inner.embed_sync(["a b"])
    outer = CachedEmbeddingModel(inner, MemoryStore())
    assert outer.plan(["a b", "c d e"], role="query").tokens == 5
    assert CachedEmbeddingModel(FakeEmbeddingModel()).count_tokens(["a"]) is None


def test_without_a_cache_a_plan_has_every_text() -> None:
    cached = CachedEmbeddingModel(Counting())
    plan = cached.plan(["a b", "a b"])
    assert (plan.cached, plan.duplicates, plan.missing, plan.tokens) == (0, 0, 2, 4)


@pytest.mark.usefixtures("vocabulary")
@pytest.mark.parametrize("role", ["document", "query"])
@pytest.mark.parametrize("cache", [True, False], ids=["cached", "bare"])
def test_the_cost_is_what_the_server_bills_to_the_token(
    openai_server: OpenAIServer, tmp_path: Path, role: str, *, cache: bool
) -> None:
    from kura_cache_adapters import OpenAIEmbeddingModel

    model = OpenAIEmbeddingModel(model_batch_size=2, roles={"query": {"prefix": "search for: "}})
    cached = CachedEmbeddingModel(model, tmp_path if cache else None, options=CacheOptions(wait_for_others=0))
    cached.embed_sync(WORDS[:1], role=role)
    before = openai_server.billed
    plan = cached.plan(WORDS, role=role, price_per_million=7)
    assert openai_server.billed == before
    cached.embed_sync(WORDS, role=role)
    billed = openai_server.billed - before
    assert plan.tokens == billed > 10
    assert plan.cost == billed * 7 / 1_000_000


@pytest.mark.usefixtures("vocabulary")
@pytest.mark.parametrize("framework", ["langchain", "llama_index"])
def test_embedders_of_frameworks_cost_what_the_server_bills(
    openai_server: OpenAIServer, tmp_path: Path, framework: str
) -> None:
    embedder: Any
    if framework == "langchain":
        module = pytest.importorskip("langchain_openai", reason="needs langchain-openai")
        embedder = module.OpenAIEmbeddings(check_embedding_ctx_length=False)
    else:
        module = pytest.importorskip("llama_index.embeddings.openai", reason="needs that package")
        embedder = module.OpenAIEmbedding()
    texts = ["a cat", "a\ndog\n\nthat barks", "a cat", "naïve 🐈 café"]
    cached = CachedEmbeddingModel(embedder, tmp_path, model_name="renamed")
    plan = cached.plan(texts, price_per_million=1)
    cached.embed_sync(texts)
    assert plan.tokens == openai_server.billed > 10


@pytest.mark.usefixtures("vocabulary")
def test_the_price_is_that_of_the_models_address() -> None:
    pytest.importorskip("genai_prices", reason="needs the extra `prices`")
    from openai import AsyncOpenAI

    from kura_cache_adapters import OpenAIEmbeddingModel

    there = AsyncOpenAI(base_url="https://api.openai.com/v1", api_key="sk-test")
    plan = CachedEmbeddingModel(OpenAIEmbeddingModel(client=there), MemoryStore()).plan(["tokens " * 500_000])
    assert plan.tokens is not None
    assert plan.cost == plan.tokens * 0.02 / 1_000_000
    unknown = CachedEmbeddingModel(OpenAIEmbeddingModel("mine", client=there), MemoryStore()).plan(["a"])
    assert (unknown.tokens, unknown.cost) == (None, None)
    elsewhere = CachedEmbeddingModel(OpenAIEmbeddingModel(), MemoryStore()).plan(["a"])
    assert (elsewhere.tokens, elsewhere.cost) == (1, None)


def test_a_loaded_local_model_counts_what_it_computes_and_one_that_is_not_stays_unloaded(
    minilm: Path,
) -> None:
    from kura_cache_adapters import SentenceTransformerEmbeddingModel

    model = SentenceTransformerEmbeddingModel(path=minilm, identity={"by": "me"})
    cached = CachedEmbeddingModel(model, MemoryStore())
    assert cached.plan(["a cat"]).tokens is None
    assert model._model is None
    model.prepare()
    named = CachedEmbeddingModel(model.model, MemoryStore())
    assert named.plan(["a cat", "word " * 1_000]).tokens == 4 + 256


def test_a_plan_imports_no_library_of_a_model(tmp_path: Path) -> None:
    code = (
        "import sys; from kura_cache_adapters import CachedEmbeddingModel as C, OpenAIEmbeddingModel as O; "
        f"C(O(), {str(tmp_path)!r}).plan(['a']); print({{'openai', 'torch'}} & {{*sys.modules}})"
    )
    environment = {"TIKTOKEN_CACHE_DIR": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "set()"
