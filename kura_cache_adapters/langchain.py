"""LangChain, both ways: the cache as its `Embeddings`, and its `Embeddings` as a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kura_cache_adapters.cache import open_cache
from kura_cache_adapters.cached_embedding import CachedEmbeddingModel
from kura_cache_adapters.embedding.framework import FrameworkEmbeddingModel
from kura_cache_adapters.errors import require
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.options import DEFAULT, CacheOptions, one_cache
from kura_cache_adapters.stores.byte_values import ByteValues
from kura_cache_adapters.stores.spaces import tiers_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from langchain_core.embeddings import Embeddings
    from langchain_core.stores import ByteStore
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from typing_extensions import Self

    from kura_cache_adapters._observe.counters import CacheStats
    from kura_cache_adapters.options import CacheLike
    from kura_cache_adapters.protocols import BaseEmbeddingModel, EmbeddingStore, SupportsCheckpoints
else:
    Embeddings = require("langchain_core.embeddings", extra="langchain").Embeddings
    ByteStore = require("langchain_core.stores", extra="langchain").ByteStore


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


class LangChainByteStore(ByteStore):
    """A cache's store as LangChain's `ByteStore`: any bytes under any string, for whatever takes one.

    Values are kept in a space of their own, which looks like a model's; of tiers only in the slowest, since
    those before it would not hear of a change. Unlike an embedding, a value may be replaced: the old one
    is deleted, then the new one written, and who reads in between finds None. What the store raises is
    raised. For embeddings `LangChainCachedEmbeddings` is smaller and faster.
    """

    def __init__(
        self,
        cache: SupportsCheckpoints | EmbeddingStore | str | os.PathLike[str] = DEFAULT,
        *,
        namespace: str = "",
    ) -> None:
        """Keep values in a cache; takes and raises what `open_cache` does.

        Args:
            cache: a directory or URL, a store, or a checkpoint manager.
            namespace: values of another one are apart.

        """
        self._store = open_cache(cache).store
        self._identity = ModelIdentity.of("langchain-byte-store", {"namespace": namespace})

    def open_store(self) -> EmbeddingStore:
        """Return the store itself: as a cache, this is the one that it keeps its values in."""
        return self._store

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return one value per key, None where there is none."""
        return self._values.get([*map(_named, keys)])

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Store values, in the place of what was there."""
        self._values.set({_named(key): value for key, value in key_value_pairs})

    def mdelete(self, keys: Sequence[str]) -> None:
        """Delete keys, those that are there."""
        self._values.delete([*map(_named, keys)])

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Iterate over the keys that begin with a prefix, in no order: all of the values' rows are read."""
        for name in self._values.names():
            key = name.decode("utf-8", "surrogatepass")
            if key.startswith(prefix or ""):
                yield key

    def __repr__(self) -> str:
        """Name the store."""
        return f"{type(self).__name__}({self._store!r})"

    @property
    def _values(self) -> ByteValues:
        return ByteValues(tiers_of(self._store.space(self._identity))[-1])


def _named(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
