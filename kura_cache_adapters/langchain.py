"""LangChain, both ways: the cache as its `Embeddings`, and its `Embeddings` as a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kura_cache_adapters.cached_embedding import CachedEmbeddingModel
from kura_cache_adapters.embedding.framework import FrameworkEmbeddingModel
from kura_cache_adapters.errors import require
from kura_cache_adapters.options import DEFAULT, CacheOptions, one_cache

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from typing_extensions import Self

    from kura_cache_adapters._observe.counters import CacheStats
    from kura_cache_adapters.options import CacheLike
    from kura_cache_adapters.protocols import BaseEmbeddingModel
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
        self.cached = model

    @property
    def model(self) -> str:
        """The model's name, as on every embedder of LangChain's; the cached model is `cached`."""
        return self.cached.model_name

    @property
    def stats(self) -> CacheStats:
        """What has been done so far."""
        return self.cached.stats

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Embeddings | BaseEmbedding | BaseEmbeddingModel,
        cache: CacheLike = DEFAULT,
        *,
        cache_manager: CacheLike = None,
        options: CacheOptions = CacheOptions(),
        **key_kwargs: Any,
    ) -> Self:
        """Put a cache around an embedder of LangChain (or LlamaIndex, or a source).

        Takes and raises what `CachedEmbeddingModel` does: `cache` is a directory, URL, store or
        checkpoint manager, `model_name` and `identity` say what is cached, and each further keyword
        becomes part of the key.
        """
        chosen = one_cache(cache_manager, cache)
        return cls(CachedEmbeddingModel(embeddings, chosen, options=options, **key_kwargs))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents: one list of floats per text."""
        return self.cached.embed_sync(texts)

    def embed_query(self, text: str) -> list[float]:
        """Embed a search query."""
        return self.cached.embed_sync([text], role="query")[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents without blocking the event loop."""
        return await self.cached.embed(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a search query without blocking the event loop."""
        return (await self.cached.embed([text], role="query"))[0]

    def __repr__(self) -> str:
        """Name the model and the cache."""
        return f"{type(self).__name__}({self.cached!r})"

    def _repr_html_(self) -> str:
        return self.cached._repr_html_()


class LangChainEmbeddingModel(FrameworkEmbeddingModel):
    """Any LangChain `Embeddings` as a source for `CachedEmbeddingModel`."""

    def __init__(self, embeddings: Embeddings, model_name: str | None = None, **options: Any) -> None:
        """Describe an embedder, see `FrameworkEmbeddingModel`; raise TypeError for what is none."""
        if not isinstance(embeddings, Embeddings):
            message = f"{type(embeddings).__name__} is no langchain_core.embeddings.Embeddings"
            raise TypeError(message)
        super().__init__(embeddings, model_name, **options)
