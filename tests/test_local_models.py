"""The real MiniLM through both frameworks: roles kept, bits kept, entries shared when asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, SentenceTransformerEmbeddingModel
from tests.faces import LangChain, LlamaIndex

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["A cat sat on the mat.", "Stock prices fell on Monday.", "line\nbreak", "Ein Satz auf Deutsch."]
PROMPTS = {"query": "query: ", "document": "passage: "}


def langchain_embedder(minilm: Path, **options: Any) -> Any:
    package = pytest.importorskip("langchain_huggingface", reason="needs langchain-huggingface")
    return package.HuggingFaceEmbeddings(model_name=str(minilm), **options)


def llama_index_embedder(minilm: Path, **options: Any) -> Any:
    package = pytest.importorskip(
        "llama_index.embeddings.huggingface", reason="needs its HuggingFaceEmbedding"
    )
    return package.HuggingFaceEmbedding(model_name=str(minilm), device="cpu", **options)


def prompted_langchain(minilm: Path) -> Any:
    return langchain_embedder(
        minilm,
        model_kwargs={"prompts": PROMPTS},
        encode_kwargs={"prompt_name": "document"},
        query_encode_kwargs={"prompt_name": "query"},
    )


def prompted_llama_index(minilm: Path) -> Any:
    return llama_index_embedder(
        minilm, query_instruction=PROMPTS["query"], text_instruction=PROMPTS["document"]
    )


def recorded(monkeypatch: pytest.MonkeyPatch, embedder: Any, method: str) -> list[Any]:
    """Keep what a method of the embedder returns."""
    answers: list[Any] = []
    plain = getattr(type(embedder), method)

    def recording(self: Any, *arguments: Any, **options: Any) -> Any:
        answers.append(plain(self, *arguments, **options))
        return answers[-1]

    monkeypatch.setattr(type(embedder), method, recording)
    return answers


@pytest.mark.parametrize("order", ["langchain to llama_index", "llama_index to langchain"])
def test_roles_and_bits_survive_the_way_through_both(
    order: str, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    inner: LangChain | LlamaIndex
    outer: LangChain | LlamaIndex
    if order.startswith("langchain"):
        inner, outer, embedder = LangChain(), LlamaIndex(), prompted_langchain(minilm)
        documents = recorded(monkeypatch, embedder, "embed_documents")
        queries = recorded(monkeypatch, embedder, "embed_query")
    else:
        inner, outer, embedder = LlamaIndex(), LangChain(), prompted_llama_index(minilm)
        documents = recorded(monkeypatch, embedder, "get_text_embedding_batch")
        queries = recorded(monkeypatch, embedder, "get_query_embedding")
    source = inner.source(embedder)
    assert not source.symmetric
    adapter = outer.adapter(model=CachedEmbeddingModel(source, tmp_path))
    found = []
    for _ in range(2):
        texts = outer.documents(adapter, TEXTS)
        asked = [outer.query(adapter, text) for text in TEXTS]
        found.append((texts, asked))
    assert found[0] == found[1]
    assert found[0] == ([vector for batch in documents for vector in batch], queries)
    bare = transformers.SentenceTransformer(str(minilm), device="cpu")
    shown = [text.replace("\n", " ") for text in TEXTS] if order.startswith("langchain") else TEXTS
    for vectors, role in ((found[0][0], "document"), (found[0][1], "query")):
        expected = bare.encode([PROMPTS[role] + text for text in shown], normalize_embeddings=True)
        assert np.abs(np.array(vectors) - expected).max() < 1e-6


def test_the_three_ways_to_one_model_share_entries_only_when_told_to(minilm: Path, tmp_path: Path) -> None:
    def models(**options: Any) -> list[CachedEmbeddingModel]:
        sources: list[Any] = [
            SentenceTransformerEmbeddingModel(
                "MiniLM", path=minilm, normalize_embeddings=True, identity=options.get("identity")
            ),
            LangChain().source(langchain_embedder(minilm), "MiniLM", **options),
            LlamaIndex().source(llama_index_embedder(minilm), "MiniLM", **options),
        ]
        return [CachedEmbeddingModel(source, tmp_path) for source in sources]

    assert len({model.cache_key("a") for model in models()}) == 3
    shared = models(identity={"weights": "all-MiniLM-L6-v2", "normalized": True})
    assert len({model.cache_key("a") for model in shared}) == 1
    assert len({model.cache_key("a", role="query") for model in shared}) == 1
    vectors = shared[0].embed_sync(TEXTS)
    for model in shared[1:]:
        assert model.embed_sync(TEXTS) == vectors
        assert model.stats.misses == 0


def test_a_local_model_is_used_by_one_thread_at_a_time(minilm: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = CachedEmbeddingModel(LangChain().source(langchain_embedder(minilm)))
    with ThreadPoolExecutor(8) as pool:
        vectors = [*pool.map(lambda number: model.embed_sync([f"text {number}"] * 3), range(16))]
    assert all(len(each) == 3 for each in vectors)
