"""LlamaIndex, both ways: the cache as its `BaseEmbedding`, and its `BaseEmbedding`s as sources."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from kura_cache_adapters._runtime import loop
from kura_cache_adapters.cached_embedding import CachedEmbeddingModel
from kura_cache_adapters.embedding.framework import FrameworkEmbeddingModel
from kura_cache_adapters.errors import require
from kura_cache_adapters.options import DEFAULT, CacheOptions, one_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llama_index.core.base.embeddings.base import BaseEmbedding
    from typing_extensions import Self

    from kura_cache_adapters._observe.counters import CacheStats
    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.options import CacheLike
else:
    BaseEmbedding = require("llama_index.core.base.embeddings.base", extra="llama-index").BaseEmbedding

_BATCH_SIZE = 2048  # the most that BaseEmbedding allows: a look-up costs least in one batch


class LlamaIndexCachedEmbedding(BaseEmbedding):
    """A cached model as LlamaIndex's `BaseEmbedding`: `Settings.embed_model`, an index, a pipeline.

    Queries are cached apart from texts. A `rate_limiter` is asked only when a batch holds texts
    that must reach the model. `to_dict()` has the model's name and fingerprint, and no secret.
    """

    cached: CachedEmbeddingModel = Field(exclude=True, repr=False)
    fingerprint: str = ""
    _limiter: Any = PrivateAttr(default=None)

    def __init__(
        self,
        model: CachedEmbeddingModel,
        *,
        embed_batch_size: int = _BATCH_SIZE,
        **fields: Any,
    ) -> None:
        """Take a cached model, and fields of `BaseEmbedding` (callback_manager, num_workers, ...).

        Raises TypeError for another model, ValueError for an `embeddings_cache`.
        """
        if not isinstance(model, CachedEmbeddingModel):
            message = (
                f"model must be a CachedEmbeddingModel, not {type(model).__name__}; for an embedder "
                "there is LlamaIndexCachedEmbedding.from_embedding(embedding, cache=...)."
            )
            raise TypeError(message)
        _refuse_cache(fields.pop("embeddings_cache", None))
        limiter = fields.pop("rate_limiter", None)
        own = {"cached": model, "model_name": model.model_name, "fingerprint": model.identity().digest}
        super().__init__(embed_batch_size=embed_batch_size, **{**fields, **own})
        self._limiter = limiter

    @property
    def stats(self) -> CacheStats:
        """What has been done so far."""
        return self.cached.stats

    @classmethod
    def from_embedding(
        cls,
        embedding: Any,  # noqa: ANN401 - of either framework, or a source
        cache: CacheLike = DEFAULT,
        *,
        cache_manager: CacheLike = None,
        options: CacheOptions = CacheOptions(),
        **key_kwargs: Any,
    ) -> Self:
        """Put a cache around an embedder of LlamaIndex (or LangChain, or a source).

        Takes and raises what `CachedEmbeddingModel` does: `cache` is a directory, URL, store or
        checkpoint manager, `model_name` and `identity` say what is cached, and each further keyword
        becomes part of the key.
        """
        chosen = one_cache(cache_manager, cache)
        return cls(CachedEmbeddingModel(embedding, chosen, options=options, **key_kwargs))

    @classmethod
    def class_name(cls) -> str:
        """Return the class's name, by which LlamaIndex knows it."""
        return "LlamaIndexCachedEmbedding"

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - of any field
        """Set a field; a cache beneath this one is refused, a rate limiter kept from hits."""
        if name == "embeddings_cache":
            _refuse_cache(value)
        if name == "cached":
            message = "an adapter keeps its model; make another one: LlamaIndexCachedEmbedding(model=...)"
            raise AttributeError(message)
        super().__setattr__("_limiter" if name == "rate_limiter" else name, value)

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[CachedEmbeddingModel]]:
        """Pickle what the constructor takes: BaseEmbedding would drop what cannot be pickled."""
        make = partial(type(self), embed_batch_size=self.embed_batch_size, num_workers=self.num_workers)
        return make, (self.cached,)

    def __repr_args__(self) -> Iterator[tuple[None, CachedEmbeddingModel]]:
        """Name the model and the cache."""
        yield None, self.cached

    def _repr_html_(self) -> str:
        return self.cached._repr_html_()

    def _get_query_embedding(self, query: str) -> list[float]:
        self._limit([query], "query")
        return self.cached.embed_sync([query], role="query")[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self._limit(texts, "document")
        return self.cached.embed_sync(texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        await self._alimit([query], "query")
        return (await self.cached.embed([query], role="query"))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        await self._alimit(texts, "document")
        return await self.cached.embed(texts)

    def _limit(self, texts: list[str], role: Role) -> None:
        if self._limiter is not None and self.cached.missing(texts, role=role):
            self._limiter.acquire()

    async def _alimit(self, texts: list[str], role: Role) -> None:
        if self._limiter is None:
            return
        if await loop.in_thread("store", self.cached.missing, texts, role=role):
            await self._limiter.async_acquire()


class LlamaIndexEmbeddingModel(FrameworkEmbeddingModel):
    """Any LlamaIndex `BaseEmbedding` as a source for `CachedEmbeddingModel`."""

    def __init__(self, embedding: BaseEmbedding, model_name: str | None = None, **options: Any) -> None:
        """Describe an embedder, see `FrameworkEmbeddingModel`; raise TypeError for what is none."""
        if not isinstance(embedding, BaseEmbedding):
            message = f"{type(embedding).__name__} is no llama_index.core BaseEmbedding"
            raise TypeError(message)
        super().__init__(embedding, model_name, **options)


def _refuse_cache(cache: object) -> None:
    if cache is not None:
        message = (
            "embeddings_cache beneath this cache would answer queries with documents' vectors; leave it "
            "out: what is embedded here is cached already. To keep what it holds, give the "
            "CachedEmbeddingModel fallback=it."
        )
        raise ValueError(message)
