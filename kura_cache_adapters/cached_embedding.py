"""CachedEmbeddingModel: look up, embed what is missing, store it, merge in the caller's order."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._adopt.adopting import adopt, source_of
from kura_cache_adapters._adopt.check import TOLERANCE, Check
from kura_cache_adapters._adopt.files import TEXT, VECTOR, export_texts, import_texts
from kura_cache_adapters._core.ahead import Ahead
from kura_cache_adapters._core.calls import Bare, Cached
from kura_cache_adapters._core.drift import TOLERANCE as DRIFTS
from kura_cache_adapters._core.drift import Sampling, drift
from kura_cache_adapters._core.explain import explain
from kura_cache_adapters._core.keys import Keys
from kura_cache_adapters._core.lookup import checked_texts
from kura_cache_adapters._core.modes import effective
from kura_cache_adapters._core.plan import plan
from kura_cache_adapters._core.vectors import as_lists, as_matrix, counted
from kura_cache_adapters._corpora.embedding import embed_file
from kura_cache_adapters._observe.bar import pictured
from kura_cache_adapters._observe.observers import Observers
from kura_cache_adapters._runtime.loop import hop, run
from kura_cache_adapters.cache import Cache
from kura_cache_adapters.embedding.wrap import as_source
from kura_cache_adapters.options import CacheOptions, check_keywords, one_cache
from kura_cache_adapters.receipts import KEPT_DAYS
from kura_cache_adapters.stores import as_store
from kura_cache_adapters.stores.everywhere import forget_texts

if TYPE_CHECKING:
    import os
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        Callable,
        Coroutine,
        Generator,
        Iterable,
        Mapping,
        Sequence,
    )

    from typing_extensions import Self

    from kura_cache_adapters._adopt.adopting import Adopted
    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.explain import Explanation
    from kura_cache_adapters._core.plan import Plan
    from kura_cache_adapters._core.vectors import Kept
    from kura_cache_adapters._observe.counters import CacheStats
    from kura_cache_adapters.identity import ModelIdentity, Role
    from kura_cache_adapters.options import CacheLike
    from kura_cache_adapters.protocols import BaseEmbeddingModel, Vectors
    from kura_cache_adapters.receipts import Drift, Receipt


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
            cache_manager: a checkpoint manager, a store, a directory or URL (see `open_store`), or
                None for no cache.
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
    def model_name(self) -> str:
        """The wrapped model's name."""
        return self._source.name

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
        return self._observe.stats

    def slug(self) -> str:
        """Return the model's slug, behind `cached:` when a cache is on."""
        slug = self.embedding_model.slug()
        return slug if self._store is None else f"cached:{slug}"

    def cache_key(self, text: str, *, role: Role = "document") -> str:
        """Compute a text's key: 64 hexadecimal characters."""
        return self._calls.keys()([text], role)[0].hex()

    def missing(self, texts: Iterable[str], *, role: Role = "document") -> list[int]:
        """Return the positions of the texts that embedding would send to the model now.

        Nothing is embedded; a repeated text is named once.
        """
        return self._calls.missing(checked_texts(texts), role)

    def contains(self, texts: Iterable[str], *, role: Role = "document") -> list[bool]:
        """Tell of each text whether its vector is in the cache; nothing is embedded."""
        return self._calls.contains(checked_texts(texts), role)

    def plan(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        price_per_million: float | None = None,
    ) -> Plan:
        """Tell what embedding texts would find, send and cost now; the model is not touched.

        Args:
            texts: as `embed` takes them.
            role: what they would be embedded as.
            price_per_million: of tokens, in any currency; without, the package genai-prices (the extra
                `prices`) is asked for the model's price at its address, in US dollars.

        Returns:
            Counts. Tokens are known where the model counts them (`protocols.CountsTokens`), the cost
            where tokens and price are; what is not known is None.

        Raises:
            ValueError: a role that the model does not know.

        """
        return plan(self._source, self._calls, checked_texts(texts), role, price_per_million)

    def explain(self, text: str, *, role: Role = "document") -> Explanation:
        """Tell whether a text is in the cache and, of a miss, which stored identity comes nearest.

        Raises:
            ValueError: a role that the model does not know.
            OSError: and whatever else the store raises: this is for whoever asks about it.

        """
        (text,), secret = checked_texts([text]), self.options.secret_bytes
        keys_of = partial(Keys, source=self._source, secret=secret)
        return explain(self._calls.keys(), keys_of, self._store, text, role)

    def add(
        self,
        texts: Iterable[str],
        vectors: Any,  # noqa: ANN401 - as a model answers
        *,
        role: Role = "document",
        replace: bool = False,
    ) -> int:
        """Store vectors that this model has returned elsewhere.

        Args:
            texts: as `embed` takes them.
            vectors: one for each text, in any form in which a model may answer.
            role: what the texts were embedded as.
            replace: put them in the place of known ones; without, a known text keeps its vector.

        Returns:
            How many were stored, a repeated text once; none without a cache, or where the store fails.

        Raises:
            VectorCountError: not one vector for each text.
            DimensionMismatchError: they make no matrix, or are of another dimension than what is stored.
            ValueError: NaN or infinity among them; a role that the model does not know.

        """
        texts = checked_texts(texts)
        return self._calls.add(texts, counted(vectors, len(texts), self.model_name), role, replace=replace)

    def forget(self, texts: Iterable[str], *, days: float = KEPT_DAYS) -> Receipt:
        """Forget texts in every role, under every stored identity of this model's name; see `Cache.forget`.

        Whatever the parameters of its cached vectors are, and in every tier. Not reached is what was
        stored under another model's name, under another `key_secret`, as a role that the model does not
        tell apart any more, or where this cache does not lead: other machines' caches, and backups, which
        are hidden for so many days where they are put back.

        Args:
            texts: as `embed` takes them.
            days: how long tombstones stand against copies, backups and machines that were away.

        Returns:
            What was there, what was done, and what could not be reached.

        """
        texts, keys = checked_texts(texts), self._calls.keys()
        return forget_texts(self._store, texts, keys.identity, keys.under, days=days)

    async def verify(self, texts: Iterable[str], *, sample: int = 100, tolerance: float = DRIFTS) -> Drift:
        """Embed a sample of the cached texts again, in every role, and compare; nothing is stored.

        Models answer a little differently from call to call: what is compared are distributions.

        Args:
            texts: as `embed` takes them; a key holds no text. Those that are not cached are left out.
            sample: how many are embedded again in each role, chosen by chance.
            tolerance: the cosine distance at the median beyond which it is said to be another model.

        What the model or the store raises arrives as it is.

        """
        return await hop(self._drift(texts, sample, tolerance))

    def verify_sync(self, texts: Iterable[str], *, sample: int = 100, tolerance: float = DRIFTS) -> Drift:
        """Compare from sync code, see `verify`."""
        return run(self._drift(texts, sample, tolerance))

    def _drift(self, texts: Iterable[str], sample: int, tolerance: float) -> Coroutine[Any, Any, Drift]:
        sampling = Sampling(checked_texts(texts), sample, tolerance, self.options.chunk_size)
        return drift(self._innermost(), self._calls.keys, self._store, sampling)

    def _innermost(self) -> Source:
        """Return what embeds beneath all caches."""
        inner = self.embedding_model
        return inner._innermost() if isinstance(inner, CachedEmbeddingModel) else self._source  # noqa: SLF001 - of our own class

    def adopt(
        self,
        old: Any,  # noqa: ANN401 - of a known make
        texts: Iterable[str],
        *,
        role: Role = "document",
        check: int = 0,
        tolerance: float = TOLERANCE,
    ) -> Adopted:
        """Store what an old cache has of texts, without asking the model.

        Args:
            old: LangChain's `CacheBackedEmbeddings`; LlamaIndex's `embeddings_cache`, an embedding that has
                one, or the JSON file of a `SimpleKVStore`; redisvl's `EmbeddingsCache`, asked by this
                model's name; a checkpoint manager with Kura's `summaries`; or a function that returns a
                vector or None for each of a list of texts.
            texts: as the old cache was asked for them.
            role: what they were embedded as. Only `CacheBackedEmbeddings` with a store for queries tells
                them from documents.
            check: how many of the first that are found to embed again, before anything is stored.
            tolerance: how far these may be from the old ones, as a part of a vector's length.

        Raises:
            TypeError: no old cache of these.
            ValueError: it does not tell the role from documents, and the model does; the model embeds
                otherwise what is checked.
            DimensionMismatchError: its vectors are of another dimension than what is stored.

        What the old cache raises when it cannot be read arrives as it is.

        """
        return adopt(self, self._source, old, texts, role, Check(self._source, role, check, tolerance))

    def import_file(  # noqa: PLR0913 - each may matter
        self,
        path: str | os.PathLike[str],
        *,
        text: str = TEXT,
        vector: str = VECTOR,
        role: Role = "document",
        check: int = 0,
        tolerance: float = TOLERANCE,
    ) -> Adopted:
        """Store the vectors of a file that this model has made elsewhere, some rows at a time.

        Args:
            path: a `.parquet`, `.jsonl`, `.npz`, `.arrow` or `.feather` file, or the directory of a
                HuggingFace dataset. Vectors may be lists, of fixed size or not, or a matrix, of any floats;
                those of float16 stay rounded.
            text: the column of the texts.
            vector: the column of the vectors.
            role: what the texts were embedded as.
            check: how many of its first texts to embed again, before anything is stored.
            tolerance: how far these may be from the file's, as a part of a vector's length.

        Raises:
            ValueError: another kind of file; no such column; the model embeds what is checked otherwise.
            DimensionMismatchError: its vectors are of another dimension than what is stored.

        """
        checked = Check(self._source, role, check, tolerance)
        return import_texts(self, path, (text, vector), role, checked)

    def export_file(
        self, path: str | os.PathLike[str], texts: Iterable[str], *, role: Role = "document"
    ) -> int:
        """Write those of the texts that are cached, and their vectors, to a new file; return how many.

        It is a `.parquet`, `.jsonl` or `.npz` file (that one is made in memory), with the columns of
        `import_file`, and appears whole. `model.cache.export_file` writes all of a model, by their keys.

        Raises:
            ValueError: another ending; none of the texts is cached, or there is no cache.

        """
        return export_texts(self._store, self._calls.keys(), path, texts, role)

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

    def embed_file(  # noqa: PLR0913 - each may matter
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        column: str = TEXT,
        batch: int = 4096,
        role: Role = "document",
        overwrite: bool = False,
    ) -> int:
        """Embed a file's texts into another file, some rows at a time; return how many rows that were.

        The source is read once before, to see that each row has a text. The target appears whole. Who is
        interrupted calls again: what is cached is not paid for again.

        Args:
            source: a `.parquet`, `.jsonl`, `.csv`, `.arrow` or `.feather` file, or a `.txt` file of lines.
            target: a `.parquet` or `.jsonl` file, which gets all columns and `embedding`, or an `.npy` file,
                which gets the matrix, shape (N, D). Numbers are float32, or float64 where they need it.
            column: the column of the texts; that of lines is "text".
            batch: rows in memory at a time.
            role: as `embed` takes it.
            overwrite: put it in the place of a target that is there.

        Raises:
            ValueError: another kind of file; no such column; a row without a text; no rows: nothing was
                spent then.
            FileExistsError: the target is there.

        """
        return embed_file(
            self._ahead,
            source,
            target,
            column=column,
            batch=batch,
            role=role,
            overwrite=overwrite,
            kept=self._store is not None,
        )

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
