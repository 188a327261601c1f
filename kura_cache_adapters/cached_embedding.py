"""CachedEmbeddingModel: look up, embed what is missing, store it, merge in the caller's order."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._adopt.adopting import source_of
from kura_cache_adapters._core.ahead import Ahead
from kura_cache_adapters._core.calls import Bare, Cached
from kura_cache_adapters._core.modes import effective
from kura_cache_adapters._core.vectors import as_lists, as_matrix
from kura_cache_adapters._observe.bar import pictured
from kura_cache_adapters._observe.observers import Observers
from kura_cache_adapters._operations import Operations
from kura_cache_adapters._runtime.loop import in_thread
from kura_cache_adapters.cache import Cache
from kura_cache_adapters.embedding.wrap import as_source
from kura_cache_adapters.options import CacheOptions, check_keywords, one_cache
from kura_cache_adapters.stores import as_store

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        Callable,
        Generator,
        Iterable,
        Mapping,
        Sequence,
    )

    from typing_extensions import Self

    from kura_cache_adapters._core.vectors import Kept
    from kura_cache_adapters._observe.counters import CacheStats
    from kura_cache_adapters.identity import ModelIdentity, Role
    from kura_cache_adapters.options import CacheLike
    from kura_cache_adapters.protocols import BaseEmbeddingModel, Vectors


class CachedEmbeddingModel(Operations):
    """Wrap an embedding model so that each text is embedded once, ever.

    It is an embedding model itself: `embed` and `slug` as in Kura. All methods may be called from
    any thread, any event loop and any number of tasks at once; the sync ones also inside a running
    loop. Vectors are bit-identical to what the model returned; results belong to the caller.
    """

    runs_on = "anywhere"  # it finds the place of the model that it wraps

    def __init__(  # noqa: PLR0913 - each may matter
        self,
        /,
        embedding_model: Any,  # noqa: ANN401 - a BaseEmbeddingModel, or an embedder of a known framework
        cache_manager: CacheLike = None,
        *,
        cache: CacheLike = None,
        options: CacheOptions = CacheOptions(),
        model_name: str | None = None,
        identity: Mapping[str, Any] | None = None,
        fallback: Any = None,  # noqa: ANN401 - an old cache of a known make
        **key_kwargs: Any,
    ) -> None:
        """Wrap a model; every further keyword becomes part of the cache key.

        Args:
            embedding_model: a `BaseEmbeddingModel`, a LangChain `Embeddings`, a LlamaIndex
                `BaseEmbedding`, or a loaded `SentenceTransformer`.
            cache_manager: a checkpoint manager, a store, a directory or URL (see `open_store`), a list
                of these from fast to slow, or None for no cache.
            cache: the same by another name.
            options: how the cache works; none of it is in a key.
            model_name: stands in for the model's own name.
            identity: replaces all that is read from the model; what changes its vectors must be in it.
            fallback: an old cache, as `adopt` takes: a miss asks it first, keeps what it has, and only
                the rest reaches the model. Not asked without a cache.
            **key_kwargs: what else changes the vectors.

        Raises:
            ValueError: the model has no `model_name`; IdentityError, one, where nothing can be said
                of what decides its vectors.
            TypeError: no embedding model; a keyword that has no exact place in a key, or none at all.

        """
        if not isinstance(options, CacheOptions):
            message = f"options must be CacheOptions(...), not {type(options).__name__}"
            raise TypeError(message)
        options = effective(options)
        self.cache_manager: CacheLike = one_cache(cache_manager, cache)
        check_keywords(key_kwargs, cached=self.cache_manager is not None)
        self.embedding_model: BaseEmbeddingModel = as_source(
            embedding_model, model_name=model_name, identity=identity
        )
        self.options = options
        self._source = source_of(self.embedding_model, model_name, identity, fallback, self._dimension)
        self._renamed, self._given, self._fallback = model_name, identity, fallback
        self._store = as_store(self.cache_manager) if options.enabled else None
        self.cache: Cache | None = (
            None if self._store is None else Cache(self._store, owned=self._store is not self.cache_manager)
        )
        self._observe = Observers(options.observers, progress=options.progress)
        self._calls: Bare | Cached = (
            Bare(self._source, key_kwargs, options, self._observe)
            if self._store is None
            else Cached(self._source, key_kwargs, options, self._store, self._observe)
        )
        self._ahead = Ahead(self._calls, self._source)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that the model tells apart, beside "document"; none where it embeds all alike."""
        return self._calls.keys().roles

    def identity(self) -> ModelIdentity:
        """Return what, beside role and text, is in every key; a cache around this one has it too."""
        return self._calls.keys().identity

    def state(self) -> object:
        """Return what is equal for as long as the identity is: a cache around this one looks at it."""
        return self._source.state()

    def prepare(self) -> None:
        """Load what embeds."""
        self._source.prepare()

    def asked_for(self, text: str) -> str:
        """Return a text as the model embeds it."""
        return self._source.edited([text])[0]

    def count_tokens(self, texts: list[str], *, role: Role = "document") -> list[int] | None:
        """Count the tokens of each text, cached or not; None where the model does not."""
        return self._source.count_tokens(texts, role)

    @property
    def stats(self) -> CacheStats:
        """What has been done so far."""
        return self._observe.stats_over(self._store)

    def slug(self) -> str:
        """Return the model's slug, behind `cached:` when a cache is on."""
        slug = self.embedding_model.slug()
        return slug if self._store is None else f"cached:{slug}"

    async def embed(self, texts: Iterable[str], *, role: Role = "document") -> list[list[float]]:
        """Embed each text: one list of floats per text, in their order; [] for no text.

        Args:
            texts: a sequence of strings, a column of them, or an iterator.
            role: what they are embedded as: "document", "query", whatever the model tells apart
                (`roles`). A model that tells none apart embeds all alike, once.

        Raises:
            VectorCountError: the model returned too few or too many.
            ValueError: a role that the model does not know; nothing is looked up or spent then.

        What the model raises arrives as it is.

        """
        return await self._calls.answer(texts, role, as_lists)

    async def embed_array(self, texts: Iterable[str], *, role: Role = "document") -> Vectors:
        """Embed each text as a row of a matrix, shape (N, D), float32, or float64 where that is needed.

        Raises what `embed` raises, and DimensionMismatchError if the vectors make no matrix.
        """
        return await self._calls.answer(texts, role, as_matrix)

    async def embed_batches(
        self,
        texts: list[str],
        *,
        role: Role,
    ) -> AsyncGenerator[tuple[Sequence[int], Any], None]:
        """Yield all texts' vectors in one batch: what a cache around this one asks for."""
        yield range(len(texts)), await self._calls.answer(texts, role, _as_it_is)

    def embed_sync(self, texts: Iterable[str], *, role: Role = "document") -> list[list[float]]:
        """Embed from sync code, see `embed`."""
        return self._calls.answer_sync(texts, role, as_lists)

    def embed_array_sync(self, texts: Iterable[str], *, role: Role = "document") -> Vectors:
        """Embed from sync code, see `embed_array`."""
        return self._calls.answer_sync(texts, role, as_matrix)

    def stream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        batch: int = 4096,
        role: Role = "document",
    ) -> AsyncGenerator[tuple[list[str], Vectors], None]:
        """Embed more texts than fit into memory; yield (texts, matrix) batch by batch, in order.

        The next batch is embedded while you have the last; whoever leaves half-way keeps in the cache
        what was embedded. A matrix is as `embed_array` returns it, shape (n, D).

        Args:
            texts: any iterable, read as it is needed: a generator, a column, an open text file (its lines,
                without their ends), an async generator.
            batch: texts in a batch; memory grows with it. A model that sends requests at once needs several
                requests' worth.
            role: as `embed` takes it.

        Raises:
            ValueError: a batch below 1, or a role that the model does not know; at once.
            TypeError: no iterable of strings.

        """
        return self._ahead.stream(texts, batch, role)

    def stream_sync(
        self, texts: Iterable[str], *, batch: int = 4096, role: Role = "document"
    ) -> Generator[tuple[list[str], Vectors], None, None]:
        """Embed more texts than fit into memory from sync code, see `stream`."""
        return self._ahead.stream_sync(texts, batch, role)

    def close(self) -> None:
        """Close the store, unless it was handed in open; the next use opens it again."""
        if self.cache is not None:
            self.cache.close()

    def __enter__(self) -> Self:
        """Return the model itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return the model itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the store, in a thread."""
        await in_thread("store", self.close)

    def __repr__(self) -> str:
        """Name the model and the cache."""
        model = f"{type(self.embedding_model).__name__}({self.model_name!r})"
        return f"{type(self).__name__}({model}, {self._store!r})"

    def _repr_html_(self) -> str:
        return pictured(repr(self), str(self.stats), self.stats)

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[object, object]]:
        """Pickle what the constructor takes; the other side opens the store again."""
        keywords: dict[str, Any] = json.loads(self.identity().parameters)
        keywords |= {"options": self.options, "model_name": self._renamed, "identity": self._given}
        keywords["fallback"] = self._fallback
        make = partial(type(self), **keywords)
        return make, (self.embedding_model, self.cache_manager)

    def _dimension(self) -> int | None:
        return None if self.cache is None else self.cache.stats(self.identity()).dimension


def _as_it_is(vectors: Kept) -> Kept:
    return vectors
