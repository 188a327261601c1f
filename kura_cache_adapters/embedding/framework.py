"""Embedders of LangChain and LlamaIndex as sources: told apart by their methods, not by imports."""

from __future__ import annotations

import json
from contextlib import aclosing, nullcontext
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._core.ask import Source
from kura_cache_adapters._core.vectors import counted
from kura_cache_adapters._identity import local_models
from kura_cache_adapters._identity.fingerprint import (
    METHODS,
    Fingerprint,
    bare,
    fingerprint,
    is_embedder,
    refuse_own,
    state,
    vouched_for,
)
from kura_cache_adapters._identity.providers import record_of
from kura_cache_adapters._identity.reading import held
from kura_cache_adapters._runtime.home import at_home
from kura_cache_adapters._runtime.loop import in_thread
from kura_cache_adapters.embedding.sentence_transformer import (
    KurasLocalModel,
    SentenceTransformerEmbeddingModel,
    is_kuras,
    lock_of,
)
from kura_cache_adapters.embedding.streaming import StreamingEmbeddingModel
from kura_cache_adapters.errors import IdentityError
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.protocols import BaseEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence

    from kura_cache_adapters._runtime.fork import ModelLock
    from kura_cache_adapters.identity import Role

_BATCH_SIZES = ("chunk_size", "embed_batch_size", "batch_size", "max_batch_size")
_BATCH_SIZE = 64  # of an embedder that names none: the most that one failure may cost
_OURS = "kura_cache_adapters.embedding"
_READ = {f"{_OURS}.openai", f"{_OURS}.sentence_transformer", "kura.embedding"}  # where classes are read by us


class FrameworkEmbeddingModel(StreamingEmbeddingModel):
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
        roles: Collection[Role] | None = None,
        batch_size: int | None = None,
        use_async: bool = False,
    ) -> None:
        """Describe an embedder; caches around it are seen through, and not asked.

        Args:
            embedder: what embeds; what decides its vectors is read from it (docs/identity.md).
            model_name: replaces its name. Of a class of your own, whose code decides, nothing is
                read: then this must name it, with a version, or `identity` describe it.
            identity: replaces all that is read.
            roles: the roles that it tells apart, in place of what is read: () embeds queries as documents.
            batch_size: texts in a call of it; its own without.
            use_async: call its async methods.

        Raises:
            IdentityError: it cannot be described.
            ValueError: a `batch_size` below 1.

        """
        if batch_size is not None and batch_size < 1:
            message = f"batch_size must be at least 1, not {batch_size}"
            raise ValueError(message)
        self.embedder = bare(embedder)
        self._use_async = use_async
        self._given = identity
        self._renamed = model_name
        self._roles = None if roles is None else tuple(roles)
        self._lock: ModelLock | nullcontext[None] = nullcontext()
        self._source: Source | None = None
        self._edits: Callable[[str], str] | None = None
        self._watched = identity is None
        if _is_cached(self.embedder):
            self._source = Source(self.embedder.embedding_model)
            self._edits = getattr(self.embedder.embedding_model, "asked_for", None)
            self._batch_size: int = self.embedder.options.chunk_size
            self.model_name: str = model_name or self.embedder.model_name
        else:
            self._batch_size = _own_batch_size(self.embedder)
            self.model_name = model_name or type(self.embedder).__name__
        self._seen = self._look()
        self._batch_size = self._batch_size if batch_size is None else batch_size

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that it tells apart, beside "document"."""
        return self._seen[2] if self._roles is None else self._roles

    def slug(self) -> str:
        """Return a name for people: the embedder's class and model."""
        return f"{type(self.embedder).__name__}:{self.model_name}"

    def identity(self) -> ModelIdentity:
        """Return what decides the vectors now."""
        if self._seen[0] != self.state():
            self._seen = self._look()
        return self._seen[1]

    def state(self) -> object:
        """Return at a glance what is equal for as long as the identity is."""
        if self._source is not None:
            return self.embedder.identity()
        return state(self.embedder) if self._watched else None

    def prepare(self) -> None:
        """Load what embeds."""
        if self._source is not None:
            self._source.prepare()

    def asked_for(self, text: str) -> str:
        """Return a text as it is embedded: some embedders edit it first."""
        return text if self._edits is None else self._edits(text)

    def _look(self) -> tuple[object, ModelIdentity, tuple[Role, ...]]:
        """Read what decides the vectors, and how they are asked for."""
        now = self.state()
        if self._source is not None:
            whole, roles = self.embedder.identity(), self._source.roles
        else:
            seen = self._read()
            whole, roles, self._edits = seen.identity, seen.roles, seen.edits
            self._watched = self._watched and bool(seen.fields)  # nothing is read of what is vouched for
            self.model_name = self._renamed or seen.name
            self._lock = nullcontext() if seen.local is None else lock_of(seen.local)
        if self._given is not None:
            whole = ModelIdentity.of(self.model_name, json.loads(whole.parameters), self._given)
        elif self._renamed is not None:
            whole = replace(whole, model_name=self._renamed)
        return now if self._watched else None, whole, roles

    def _read(self) -> Fingerprint:
        if self._given is not None:
            return vouched_for(self.embedder)
        return fingerprint(self.embedder, named=self._renamed is not None)

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
        if not self._use_async:
            try:
                return await in_thread("model", self._alone, getattr(self.embedder, names[role]), asked)
            except NotImplementedError:  # an embedder with async methods only says so
                self._use_async = True
        return await at_home(self._awaited(f"a{names[role]}", asked))

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


def as_source(
    model: Any,  # noqa: ANN401 - of any framework
    *,
    model_name: str | None = None,
    identity: Mapping[str, Any] | None = None,
) -> BaseEmbeddingModel:
    """Make an embedder of a known framework, or a loaded model, a source; a source is returned as it is.

    Raises TypeError, with the cure, for anything else; IdentityError for code of the user's own.
    """
    if isinstance(model, type):
        message = f"{model.__name__} is a class; make a model of it: {model.__name__}(...)"
        raise TypeError(message)
    if local_models.is_local_model(model):
        return SentenceTransformerEmbeddingModel(model, identity=identity)
    if model_name is None and identity is None:
        _refuse_own_code(model)
    if is_kuras(model):
        return KurasLocalModel(model)
    if is_embedder(model):
        return FrameworkEmbeddingModel(model, model_name, identity=identity)
    if isinstance(model, BaseEmbeddingModel):
        return model
    cure = "pass a BaseEmbeddingModel, a LangChain Embeddings, or a LlamaIndex BaseEmbedding."
    if callable(model):
        cure = 'wrap a function: CallableEmbeddingModel(fn, model_name="my-model-v1").'
    message = f"cannot embed with a {type(model).__name__}: {cure}"
    raise TypeError(message)


def _refuse_own_code(model: object) -> None:
    """Refuse a subclass, or a replaced method, of which is known only what the class says of itself."""
    kinds = type(model).__mro__
    own = [*takewhile(lambda kind: kind.__module__ not in _READ, kinds)]
    if len(own) == len(kinds) or getattr(model, "_given", None) is not None:
        return
    if not any("identity" in vars(kind) for kind in own):
        refuse_own(model)


def _is_cached(embedder: object) -> bool:
    """Tell whether a model is a cache around another one, which needs no second one."""
    return isinstance(embedder, BaseEmbeddingModel) and hasattr(embedder, "cache_manager")


def _own_batch_size(embedder: object) -> int:
    sizes = (getattr(embedder, name, None) for name in _BATCH_SIZES)
    return next((size for size in sizes if isinstance(size, int) and size > 0), _BATCH_SIZE)


def _survives(embedder: Any) -> bool:  # noqa: ANN401 - LlamaIndex's, which drop in silence what cannot be pickled
    twin = object.__new__(type(embedder))
    twin.__setstate__(embedder.__getstate__())
    known = record_of(embedder)
    transport = set() if known is None else known[1].transport.split()
    try:
        kept = all(
            _equal(getattr(twin, name), value) for name, value in held(embedder) if name not in transport
        )
        return kept and fingerprint(twin, named=True) == fingerprint(embedder, named=True)
    except (AttributeError, IdentityError):
        return False


def _equal(one: object, other: object) -> bool:
    """Tell whether two values are of one kind and, where they are plain, equal."""
    return type(one) is type(other) and (not isinstance(other, (str, int, float)) or one == other)
