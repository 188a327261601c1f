"""Embedders of LangChain and LlamaIndex as sources: told apart by their methods, not by imports."""

from __future__ import annotations

from contextlib import aclosing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kura_cache_adapters.answers import counted
from kura_cache_adapters.background import in_thread
from kura_cache_adapters.cached_embedding import CachedEmbeddingModel
from kura_cache_adapters.embedders import METHODS, bare, is_embedder
from kura_cache_adapters.embedding.sentence_transformer import lock_of
from kura_cache_adapters.fingerprint import fingerprint, held, is_transport
from kura_cache_adapters.home import at_home
from kura_cache_adapters.protocols import BaseEmbeddingModel
from kura_cache_adapters.source import Source, StreamingEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from kura_cache_adapters.forks import ModelLock
    from kura_cache_adapters.identity import ModelIdentity, Role

_BATCH_SIZES = ("chunk_size", "embed_batch_size", "batch_size", "max_batch_size")
_BATCH_SIZE = 64  # of an embedder that names none: the most that one failure may cost


class ForeignEmbeddingModel(StreamingEmbeddingModel):
    """An embedder of another framework as a source: roles kept, in batches of its own size.

    Its sync methods run in worker threads, whichever loop or thread asks: many async methods of
    these ecosystems send one request per text, block the loop, or die with it. `use_async=True`
    takes them all the same, on the loop that awaits. A model that runs in this process is used by one
    thread at a time.
    """

    runs_on = "anywhere"

    def __init__(  # noqa: PLR0913 - each may matter
        self,
        embedder: Any,  # noqa: ANN401 - of whichever framework; subclasses name it
        model_name: str | None = None,
        *,
        identity: Mapping[str, Any] | None = None,
        symmetric: bool | None = None,
        batch_size: int | None = None,
        use_async: bool = False,
        **identity_fields: Any,
    ) -> None:
        """Describe an embedder; caches around it are seen through, and not asked.

        What decides its vectors is read from it (docs/adapters.md lists it). `model_name` replaces
        its name; `identity`, or further keywords, replace all else that is read. `symmetric` says
        that queries are embedded as documents are. Raises IdentityError for an embedder that
        cannot be described, ValueError for a `batch_size` below 1.
        """
        if batch_size is not None and batch_size < 1:
            message = f"batch_size must be at least 1, not {batch_size}"
            raise ValueError(message)
        self.embedder = bare(embedder)
        self._use_async = use_async
        self._lock: ModelLock | nullcontext[None] = nullcontext()
        explicit = {**(identity or {}), **identity_fields}
        if isinstance(self.embedder, CachedEmbeddingModel):
            inner = self.embedder.identity()
            self._source: Source | None = Source(self.embedder.embedding_model)
            self._batch_size = self.embedder.options.chunk_size
            self.model_name, self.symmetric = model_name or inner.model_name, self._source.symmetric
            self._identity: ModelIdentity | dict[str, Any] = replace(inner, model_name=self.model_name)
        else:
            seen = fingerprint(self.embedder, strict=not (model_name or explicit))
            self._source = None
            self._batch_size = _own_batch_size(self.embedder)
            self.model_name, self.symmetric = model_name or seen.name, seen.symmetric
            self._identity = seen.fields
            self._lock = nullcontext() if seen.local is None else lock_of(seen.local)
        self._identity = explicit or self._identity
        self._batch_size = self._batch_size if batch_size is None else batch_size
        self.symmetric = self.symmetric if symmetric is None else symmetric

    def slug(self) -> str:
        """Return a name for people: the embedder's class and model."""
        return f"{type(self.embedder).__name__}:{self.model_name}"

    def identity(self) -> Mapping[str, Any] | ModelIdentity:
        """Return what, beside the name, decides the vectors, as it was when this was made."""
        return self._identity

    async def embed_batches(
        self,
        texts: list[str],
        *,
        role: Role,
    ) -> AsyncGenerator[tuple[Sequence[int], Any], None]:
        """Yield (positions, vectors) per batch, in order; a query is a batch of its own."""
        if self._source is not None:
            async with aclosing(self._source.ask(texts, role, self._batch_size)) as answers:
                async for answer in answers:
                    yield answer
            return
        size = self._batch_size if role == "document" else 1
        for start in range(0, len(texts), size):
            batch = texts[start : start + size]
            answer = await self._call(role, batch if role == "document" else batch[0])
            yield range(start, start + len(batch)), answer if role == "document" else [answer]

    async def _call(self, role: Role, asked: list[str] | str) -> Any:  # noqa: ANN401 - the embedder's answer
        names = next(names for names in METHODS if hasattr(self.embedder, names[role]))
        if self._use_async:
            return await at_home(self._awaited(f"a{names[role]}", asked))
        return await in_thread("model", self._alone, getattr(self.embedder, names[role]), asked)

    async def _awaited(self, method: str, asked: list[str] | str) -> Any:  # noqa: ANN401 - the embedder's answer
        answer = await getattr(self.embedder, method)(asked)
        if isinstance(asked, str):
            return counted([answer], 1, self.model_name)[0]  # a copy, before another call is answered
        return counted(answer, len(asked), self.model_name)

    def _alone(self, method: Any, asked: list[str] | str) -> Any:  # noqa: ANN401 - the embedder's answer
        with self._lock:
            return method(asked)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the embedder; raise TypeError if it would come back as another one."""
        if hasattr(self.embedder, "get_text_embedding_batch") and not _survives(self.embedder):
            message = (
                f"{type(self.embedder).__name__} does not survive pickling: it would come back with another "
                "configuration, and other vectors. Build it, and its cache, in each process."
            )
            raise TypeError(message)
        return self.__dict__


def as_source(embedder: Any, **options: Any) -> BaseEmbeddingModel:  # noqa: ANN401 - of any framework
    """Make an embedder of either framework a source; a source is returned as it is.

    Raises TypeError for anything else, and for options to a source, which has its own.
    """
    if isinstance(embedder, CachedEmbeddingModel) or is_embedder(embedder):
        return ForeignEmbeddingModel(embedder, **options)
    if isinstance(embedder, BaseEmbeddingModel) and not options:
        return embedder
    message = (
        f"cannot embed with a {type(embedder).__name__}{f' and {[*options]}' if options else ''}: pass a "
        "LangChain Embeddings, a LlamaIndex BaseEmbedding, or, without options, a BaseEmbeddingModel."
    )
    raise TypeError(message)


def _own_batch_size(embedder: object) -> int:
    sizes = (getattr(embedder, name, None) for name in _BATCH_SIZES)
    return next((size for size in sizes if isinstance(size, int) and size > 0), _BATCH_SIZE)


def _survives(embedder: Any) -> bool:  # noqa: ANN401 - LlamaIndex's, which drop in silence what cannot be pickled
    twin = object.__new__(type(embedder))
    twin.__setstate__(embedder.__getstate__())
    try:
        kept = all(
            type(getattr(twin, name)) is type(value)
            for name, value in held(embedder)
            if not is_transport(embedder, name)
        )
        return kept and fingerprint(twin, strict=False).fields == fingerprint(embedder, strict=False).fields
    except AttributeError:
        return False
