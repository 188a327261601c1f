"""LangChain, both ways: the cache as its `Embeddings`, and its `Embeddings` as a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kura_cache_adapters.cached_embedding import CachedEmbeddingModel
from kura_cache_adapters.errors import require
from kura_cache_adapters.foreign import ForeignEmbeddingModel, as_source
from kura_cache_adapters.options import CacheOptions

if TYPE_CHECKING:
    import os

    from langchain_core.embeddings import Embeddings
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from typing_extensions import Self

    from kura_cache_adapters.protocols import BaseEmbeddingModel, EmbeddingStore, SupportsCheckpoints
else:
    Embeddings = require("langchain_core.embeddings", extra="langchain").Embeddings


class LangChainCachedEmbeddings(Embeddings):
    """A cached model as LangChain's `Embeddings`, in place of `CacheBackedEmbeddings`.

    Queries are cached too, apart from documents. The sync methods work inside a running event
    loop; the async ones never block it.
    """

    def __init__(self, model: CachedEmbeddingModel) -> None:
        """Take a cached model; raise TypeError for anything else."""
        if not isinstance(model, CachedEmbeddingModel):
            message = (
                f"model must be a CachedEmbeddingModel, not {type(model).__name__}; for an embedder "
                "there is LangChainCachedEmbeddings.from_embeddings(embeddings, cache=...)."
            )
            raise TypeError(message)
        self.model = model

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Embeddings | BaseEmbedding | BaseEmbeddingModel,
        cache: SupportsCheckpoints | EmbeddingStore | str | os.PathLike[str] | None = "./cache",
        *,
        options: CacheOptions = CacheOptions(),
        **source: Any,
    ) -> Self:
        """Put a cache around an embedder of LangChain (or LlamaIndex, or a source).

        `cache` is a directory, URL, store or checkpoint manager. `source` goes to
        `LangChainEmbeddingModel`: `model_name`, `identity`, `symmetric`, ...
        """
        return cls(CachedEmbeddingModel(as_source(embeddings, **source), cache, options=options))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents: one list of floats per text."""
        return self.model.embed_sync(texts)

    def embed_query(self, text: str) -> list[float]:
        """Embed a search query."""
        return self.model.embed_queries_sync([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents without blocking the event loop."""
        return await self.model.embed(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a search query without blocking the event loop."""
        return (await self.model.embed_queries([text]))[0]

    def __repr__(self) -> str:
        """Name the model and the cache."""
        return f"{type(self).__name__}({self.model!r})"


class LangChainEmbeddingModel(ForeignEmbeddingModel):
    """Any LangChain `Embeddings` as a source for `CachedEmbeddingModel`."""

    def __init__(self, embeddings: Embeddings, model_name: str | None = None, **options: Any) -> None:
        """Describe an embedder, see `ForeignEmbeddingModel`; raise TypeError for what is none."""
        if not isinstance(embeddings, Embeddings):
            message = f"{type(embeddings).__name__} is no langchain_core.embeddings.Embeddings"
            raise TypeError(message)
        super().__init__(embeddings, model_name, **options)
