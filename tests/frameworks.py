"""The two frameworks behind one face, so that one suite of laws holds for both."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from kura_cache_adapters import CachedEmbeddingModel
    from kura_cache_adapters.embedding.framework import FrameworkEmbeddingModel
    from kura_cache_adapters.testing import FakeEmbeddingModel


class Spy:
    """What an embedder of tests was asked, and what it does then."""

    def __init__(self, fake: FakeEmbeddingModel) -> None:
        self.fake = fake
        self.calls: list[tuple[str, list[str]]] = []
        self.before: Callable[[list[str]], object] = lambda _: None
        self.change: Callable[[list[Any]], Any] = lambda vectors: vectors

    def answer(self, role: Any, texts: list[str]) -> Any:
        self.calls.append((role, list(texts)))
        self.before(texts)
        return self.change(self.fake.lists(texts, role))

    @property
    def texts(self) -> list[str]:
        return [text for _, texts in self.calls for text in texts]


class Face:
    """What is the same for both: embedders of tests are named, as those of users are."""

    _source: Any
    _wrap: Any

    def source(self, embedder: Any, model_name: str | None = None, **options: Any) -> FrameworkEmbeddingModel:
        """Make an embedder a source."""
        source: FrameworkEmbeddingModel = self._source(embedder, model_name or _name(embedder), **options)
        return source

    def wrap(self, embedder: Any, *arguments: Any, **options: Any) -> Any:
        """Put a cache around an embedder."""
        if (name := _name(embedder)) is not None:
            options.setdefault("model_name", name)
        return self._wrap(embedder, *arguments, **options)


def _name(embedder: Any) -> str | None:
    """Return the name of an embedder of a test's own class; whatever else is, says its own."""
    return embedder.model_name if type(embedder).__name__.startswith("Recorded") else None


class LangChain(Face):
    """LangChain: its embedder, its adapter, its source, and the four methods."""

    def __init__(self) -> None:
        pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
        from kura_cache_adapters import LangChainCachedEmbeddings, LangChainEmbeddingModel

        self.adapter: Any = LangChainCachedEmbeddings
        self._source: type[FrameworkEmbeddingModel] = LangChainEmbeddingModel
        self._wrap: Any = LangChainCachedEmbeddings.from_embeddings

    def embedder(self, spy: Spy, batch_size: int = 4) -> Any:
        from langchain_core.embeddings import Embeddings

        class RecordedEmbeddings(Embeddings):
            def __init__(self) -> None:
                self.model_name = spy.fake.model_name
                self.batch_size = batch_size

            def embed_documents(self, texts: list[str]) -> Any:
                return spy.answer("document", texts)

            def embed_query(self, text: str) -> Any:
                return spy.answer("query", [text])[0]

        return RecordedEmbeddings()

    def documents(self, adapter: Any, texts: list[str]) -> list[list[float]]:
        return adapter.embed_documents(texts)

    def query(self, adapter: Any, text: str) -> list[float]:
        return adapter.embed_query(text)

    async def adocuments(self, adapter: Any, texts: list[str]) -> list[list[float]]:
        return await adapter.aembed_documents(texts)

    async def aquery(self, adapter: Any, text: str) -> list[float]:
        return await adapter.aembed_query(text)


class LlamaIndex(Face):
    """LlamaIndex: its embedder, its adapter, its source, and the four methods."""

    def __init__(self) -> None:
        pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")
        from kura_cache_adapters import LlamaIndexCachedEmbedding, LlamaIndexEmbeddingModel

        self.adapter: Any = LlamaIndexCachedEmbedding
        self._source: type[FrameworkEmbeddingModel] = LlamaIndexEmbeddingModel
        self._wrap: Any = LlamaIndexCachedEmbedding.from_embedding

    def embedder(self, spy: Spy, batch_size: int = 4) -> Any:
        from llama_index.core.base.embeddings.base import BaseEmbedding

        class RecordedEmbedding(BaseEmbedding):
            def _get_text_embeddings(self, texts: list[str]) -> Any:
                return spy.answer("document", texts)

            def _get_text_embedding(self, text: str) -> Any:
                return spy.answer("document", [text])[0]

            def _get_query_embedding(self, query: str) -> Any:
                return spy.answer("query", [query])[0]

            async def _aget_query_embedding(self, query: str) -> Any:
                return self._get_query_embedding(query)

        return RecordedEmbedding(model_name=spy.fake.model_name, embed_batch_size=batch_size)

    def documents(self, adapter: Any, texts: list[str]) -> list[list[float]]:
        return adapter.get_text_embedding_batch(texts)

    def query(self, adapter: Any, text: str) -> list[float]:
        return adapter.get_query_embedding(text)

    async def adocuments(self, adapter: Any, texts: list[str]) -> list[list[float]]:
        return await adapter.aget_text_embedding_batch(texts)

    async def aquery(self, adapter: Any, text: str) -> list[float]:
        return await adapter.aget_query_embedding(text)


FACES: dict[str, type[LangChain | LlamaIndex]] = {"langchain": LangChain, "llama_index": LlamaIndex}


def cached(adapter: Any) -> CachedEmbeddingModel:
    """Return the cached model behind an adapter."""
    model: CachedEmbeddingModel = adapter.cached
    return model


def pause(_: list[str]) -> None:
    """Take a moment, as a model does."""
    time.sleep(0.02)
