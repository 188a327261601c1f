"""CachedEmbeddingModel: look up, embed what is missing, store it, merge in the caller's order."""

from __future__ import annotations

import json
import logging
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kura_cache_adapters._core.ask import Source
from kura_cache_adapters._core.lookup import Lookup, checked_texts, merge
from kura_cache_adapters._core.vectors import (
    as_lists,
    as_matrix,
    counted,
    finite_rows,
    matrix_or_list,
    merged,
    uncached,
)
from kura_cache_adapters._core.views import Views
from kura_cache_adapters._observe.counters import CacheStats, Counters
from kura_cache_adapters._runtime import loop
from kura_cache_adapters.embedding.wrap import as_source
from kura_cache_adapters.errors import RefusedTextsError
from kura_cache_adapters.options import CacheOptions, check_keywords, one_cache
from kura_cache_adapters.protocols import Hits
from kura_cache_adapters.stores import as_store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from typing_extensions import Self

    from kura_cache_adapters._core.vectors import Kept, Part
    from kura_cache_adapters._core.views import View
    from kura_cache_adapters.identity import ModelIdentity, Role
    from kura_cache_adapters.options import Cache
    from kura_cache_adapters.protocols import BaseEmbeddingModel, Vectors

_T = TypeVar("_T")
_AGAIN = 3  # times that a call looks up anew where its model has become another one meanwhile

_logger = logging.getLogger("kura_cache_adapters.cache")


class CachedEmbeddingModel:
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
        cache_manager: Cache = None,
        *,
        cache: Cache = None,
        options: CacheOptions = CacheOptions(),
        model_name: str | None = None,
        identity: Mapping[str, Any] | None = None,
        **key_kwargs: Any,
    ) -> None:
        """Wrap a model; every further keyword becomes part of the cache key.

        Args:
            embedding_model: a `BaseEmbeddingModel`, a LangChain `Embeddings`, a LlamaIndex
                `BaseEmbedding`, or a loaded `SentenceTransformer`.
            cache_manager: a checkpoint manager, a store, a directory or URL (see `open_store`), or
                None for no cache.
            cache: the same by another name.
            options: how the cache works; none of it is in a key.
            model_name: stands in for the model's own name.
            identity: replaces all that is read from the model; what changes its vectors must be in it.
            **key_kwargs: what else changes the vectors.

        Raises:
            ValueError: the model has no `model_name`; IdentityError, one, where nothing can be said
                of what decides its vectors.
            TypeError: no embedding model; a keyword that has no exact place in a key, or none at all.

        """
        if not isinstance(options, CacheOptions):
            message = f"options must be CacheOptions(...), not {type(options).__name__}"
            raise TypeError(message)
        self.cache_manager: Cache = one_cache(cache_manager, cache)
        check_keywords(key_kwargs, cached=self.cache_manager is not None)
        self.embedding_model: BaseEmbeddingModel = as_source(
            embedding_model, model_name=model_name, identity=identity
        )
        self.options = options
        self._source = Source(self.embedding_model, model_name, identity)
        self._renamed, self._given = model_name, identity
        self._store = as_store(self.cache_manager)
        self._counters = Counters()
        self._views = Views(self._source, self._store, options, self._counters, key_kwargs)

    @property
    def model_name(self) -> str:
        """The wrapped model's name."""
        return self._source.name

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that the model tells apart, beside "document"; none where it embeds all alike."""
        return self._views.now().roles

    def identity(self) -> ModelIdentity:
        """Return what, beside role and text, is in every key; a cache around this one has it too."""
        return self._views.now().identity

    def state(self) -> object:
        """Return what is equal for as long as the identity is: a cache around this one looks at it."""
        return self._source.state()

    def prepare(self) -> None:
        """Load what embeds."""
        self._source.prepare()

    def asked_for(self, text: str) -> str:
        """Return a text as the model embeds it."""
        return self._source.edited([text])[0]

    @property
    def stats(self) -> CacheStats:
        """What has been done so far."""
        return self._counters.stats

    def slug(self) -> str:
        """Return the model's slug, behind `cached:` when a cache is on."""
        slug = self.embedding_model.slug()
        return slug if self._store is None else f"cached:{slug}"

    def cache_key(self, text: str, *, role: Role = "document") -> str:
        """Compute a text's key: 64 hexadecimal characters."""
        return self._keys(self._views.now(), [text], role)[0].hex()

    def missing(self, texts: list[str], *, role: Role = "document") -> list[int]:
        """Return the positions of the texts that embedding would send to the model now.

        Nothing is embedded or counted; a repeated text is named once.
        """
        texts, view = checked_texts(texts), self._views.now()
        keys = self._keys(view, texts, role)
        found = set() if view.space is None else set(view.space.load(keys, count=False).positions.tolist())
        first = {key: at for at, key in reversed([*enumerate(keys)])}
        return sorted(at for at in first.values() if at not in found)

    def add(self, texts: list[str], vectors: Any, *, role: Role = "document") -> int:  # noqa: ANN401 - as a model answers
        """Store vectors that this model has returned elsewhere; return how many were stored.

        Takes the texts that `embed` takes and the vectors that a model may answer with. Raises
        VectorCountError unless there is one for each text, DimensionMismatchError unless they make
        one matrix, ValueError for NaN and infinities. Without a cache, none is stored.
        """
        texts, view = checked_texts(texts), self._views.now()
        answer, keys = counted(vectors, len(texts), self.model_name), self._keys(view, texts, role)
        if not texts or view.space is None:
            return 0
        matrix = as_matrix(matrix_or_list(answer))
        if not (finite := finite_rows(matrix)).all():
            message = f"the vector of texts[{int(np.argmin(finite))}] has NaN or infinity in it"
            raise ValueError(message)
        return len(texts) if view.space.save(keys, matrix) else 0

    async def embed(self, texts: list[str], *, role: Role = "document") -> list[list[float]]:
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
        return await self._answer(texts, role, as_lists)

    async def embed_array(self, texts: list[str], *, role: Role = "document") -> Vectors:
        """Embed each text as a row of a matrix, shape (N, D), float32, or float64 where that is needed.

        Raises what `embed` raises, and DimensionMismatchError if the vectors make no matrix.
        """
        return await self._answer(texts, role, as_matrix)

    async def embed_batches(
        self,
        texts: list[str],
        *,
        role: Role,
    ) -> AsyncGenerator[tuple[Sequence[int], Any], None]:
        """Yield all texts' vectors in one batch: what a cache around this one asks for."""
        yield range(len(texts)), await self._answer(texts, role, _as_it_is)

    def embed_sync(self, texts: list[str], *, role: Role = "document") -> list[list[float]]:
        """Embed from sync code, see `embed`."""
        return self._answer_sync(texts, role, as_lists)

    def embed_array_sync(self, texts: list[str], *, role: Role = "document") -> Vectors:
        """Embed from sync code, see `embed_array`."""
        return self._answer_sync(texts, role, as_matrix)

    def close(self) -> None:
        """Close the store, unless it was handed in open; the next use opens it again."""
        if self._store is not None and self._store is not self.cache_manager:
            self._store.close()

    def __enter__(self) -> Self:
        """Return the model itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self.close()

    def __repr__(self) -> str:
        """Name the model and the cache."""
        model = f"{type(self.embedding_model).__name__}({self.model_name!r})"
        return f"{type(self).__name__}({model}, {self._store!r})"

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[object, object]]:
        """Pickle what the constructor takes; the other side opens the store again."""
        keywords: dict[str, Any] = json.loads(self.identity().parameters)
        keywords |= {"options": self.options, "model_name": self._renamed, "identity": self._given}
        make = partial(type(self), **keywords)
        return make, (self.embedding_model, self.cache_manager)

    async def _answer(
        self,
        texts: list[str],
        role: Role,
        convert: Callable[[Kept], _T],
    ) -> _T:
        if self._store is None:
            return convert(await self._bare(texts, role))
        found = await loop.in_thread("store", self._found, texts, role, convert)
        for _ in range(_AGAIN if self._source.may_change else 0):
            if not isinstance(found, Lookup) or await loop.in_thread(
                "model", self._views.settled, found.view
            ):
                break
            found = await loop.in_thread("store", self._found, texts, role, convert)
        if not isinstance(found, Lookup):
            return found
        parts = await loop.hop(self._complete(found))
        return await loop.in_thread("store", lambda: convert(merge(found, *parts)))

    def _answer_sync(
        self,
        texts: list[str],
        role: Role,
        convert: Callable[[Kept], _T],
    ) -> _T:
        if self._store is None:
            return convert(loop.run(self._bare(texts, role)))
        found = self._found(texts, role, convert)
        for _ in range(_AGAIN if self._source.may_change else 0):
            if not isinstance(found, Lookup) or self._views.settled(found.view):
                break
            found = self._found(texts, role, convert)
        if not isinstance(found, Lookup):
            return found
        return convert(merge(found, *loop.run(self._complete(found))))

    def _found(
        self,
        texts: list[str],
        role: Role,
        convert: Callable[[Kept], _T],
    ) -> _T | Lookup:
        """Answer when everything is found, in one go: each change of threads costs a hit its time."""
        lookup = self._look_up(self._views.now(), texts, role)
        if not lookup.complete:
            return lookup
        self._count(lookup)
        return convert(lookup.hits.vectors)

    async def _bare(self, texts: list[str], role: Role) -> Kept:
        """Ask the model as if there were no cache; the answer is of the type that a cache's has."""
        texts, role = checked_texts(texts), self._source.role(role)
        answer = await self._source.embed(texts, role) if texts else []
        return uncached(answer, len(texts), self.model_name)

    def _keys(self, view: View, texts: list[str], role: Role) -> list[bytes]:
        return view.keys_of(self._source.edited(texts), role)

    def _look_up(self, view: View, texts: list[str], role: Role) -> Lookup:
        texts, space = checked_texts(texts), view.space
        keys = self._keys(view, texts, role)
        generation = 0 if space is None else space.generation
        hits = space.load(keys) if space is not None and keys else Hits.none()
        return Lookup(texts, role, keys, hits, generation, view)

    def _count(self, lookup: Lookup) -> None:
        self._counters.add(hits=len(lookup.hits.positions))
        if _logger.isEnabledFor(logging.INFO):
            missing = len({lookup.keys[at] for at in lookup.missing})
            _logger.info("Found %d cached embeddings, %d need embedding", len(lookup.hits.positions), missing)

    async def _complete(self, lookup: Lookup) -> tuple[Kept, list[Part]]:
        """Embed what a look-up missed; return what was found, and the new parts to be merged with it."""
        self._count(lookup)
        texts = {lookup.keys[at]: lookup.texts[at] for at in lookup.missing}
        self._counters.add(duplicates=len(lookup.missing) - len(texts))
        try:
            parts = await lookup.view.fill(texts, lookup.role, lookup.generation)
        except RefusedTextsError as error:
            refused = [at for at, key in enumerate(lookup.keys) if key in error.keys]
            raise RefusedTextsError(error.model_name, refused, error.message) from error.__cause__
        if len(dimensions := _dimensions(parts)) > 1:
            _logger.warning("%s returned vectors of dimensions %s in one call", self.model_name, dimensions)
        found: Kept = lookup.hits.vectors
        if len(found) and dimensions - {lookup.hits.vectors.shape[1]}:
            found = await self._embed_again(lookup)
        return found, parts

    async def _embed_again(self, lookup: Lookup) -> Kept:
        """Embed found texts too: the model has changed its dimension, and one result has one."""
        _logger.warning(
            "%s now returns vectors of another dimension than its %d-dimensional cache %r; embedding "
            "all texts of this call. Give the changed model another model_name or a parameter.",
            self.model_name,
            lookup.hits.vectors.shape[1],
            self._store,
        )
        texts = [lookup.texts[at] for at in lookup.hits.positions]
        answers = self._source.ask(texts, lookup.role, self.options.chunk_size)
        async with aclosing(answers):
            return merged(len(texts), [(at, matrix_or_list(some)) async for at, some in answers])


def _dimensions(parts: list[Part]) -> set[int]:
    return {vectors.shape[1] for _, vectors in parts if isinstance(vectors, np.ndarray)}


def _as_it_is(vectors: Kept) -> Kept:
    return vectors
