"""Embedders of LangChain, LlamaIndex and the like as sources: asked in their framework's dialect."""

from __future__ import annotations

import json
from contextlib import aclosing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._adopt.old_caches import seen_through
from kura_cache_adapters._core.ask import Source
from kura_cache_adapters._core.vectors import counted
from kura_cache_adapters._identity.facts import fact
from kura_cache_adapters._identity.fingerprint import fingerprint, read, state, vouched_for
from kura_cache_adapters._identity.providers import known, wrappers
from kura_cache_adapters._identity.reading import held
from kura_cache_adapters._runtime.home import at_home
from kura_cache_adapters._runtime.loop import in_thread
from kura_cache_adapters.embedding._openai import tokens
from kura_cache_adapters.embedding.sentence_transformer import lock_of
from kura_cache_adapters.embedding.streaming import StreamingEmbeddingModel
from kura_cache_adapters.errors import IdentityError
from kura_cache_adapters.identity import DOCUMENT, ModelIdentity, checked_roles, known_role
from kura_cache_adapters.protocols import BaseEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence

    from kura_cache_adapters._identity.dialect import Dialect, Method
    from kura_cache_adapters._identity.fingerprint import Fingerprint
    from kura_cache_adapters._identity.providers import Known
    from kura_cache_adapters._runtime.fork import ModelLock
    from kura_cache_adapters.identity import Role

_BATCH_SIZE = 64  # of an embedder that names none: the most that one failure may cost


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
            TypeError: it is of no known framework; roles that are no strings.
            ValueError: a `batch_size` below 1; a role, or async methods, that its framework does not have.

        """
        if batch_size is not None and batch_size < 1:
            message = f"batch_size must be at least 1, not {batch_size}"
            raise ValueError(message)
        self._known = known(embedder)
        self.embedder: Any = self._known.embedder
        self.seen_through: str = next(filter(None, map(seen_through, wrappers(embedder))), "")
        self._use_async = use_async
        self._given = identity
        self._renamed = model_name
        self._roles = None if roles is None else checked_roles(roles, type(self).__name__)
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
            self._batch_size = _own_batch_size(self.embedder, self._dialect)
            self.model_name = model_name or type(self.embedder).__name__
        self._seen = self._look()
        self._refuse_unasked()
        self._batch_size = self._batch_size if batch_size is None else batch_size

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that it tells apart, beside "document"."""
        return self._seen[2] if self._roles is None else self._roles

    @property
    def _dialect(self) -> Dialect:
        if self._known.dialect is None:
            message = f"{type(self.embedder).__name__} is no embedder of a framework that is known here"
            raise TypeError(message)
        return self._known.dialect

    def _refuse_unasked(self) -> None:
        """Raise ValueError for a role, or async methods, that there is no way to ask for."""
        if self._source is not None:
            return
        for role in (DOCUMENT, *self.roles):
            method = self._dialect.methods.get(role)
            if method is None or (self._use_async and not method.awaited):
                kind = "async method" if self._use_async else "method"
                message = f"embedders of {self._dialect.name} have no {kind} for the role {role!r}"
                raise ValueError(message)

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
            return self.embedder.state()
        return state(self._known) if self._watched else None

    def prepare(self) -> None:
        """Load what embeds."""
        if self._source is not None:
            self._source.prepare()

    def asked_for(self, text: str) -> str:
        """Return a text as it is embedded: some embedders edit it first."""
        return text if self._edits is None else self._edits(text)

    def count_tokens(self, texts: list[str], *, role: Role = "document") -> list[int] | None:
        """Count the tokens of each text as it is billed; None where that is not exactly known."""
        if self._source is not None:
            return self._source.count_tokens(texts, role)
        record = self._known.record
        if record is None or record.sends_to_openai is None:
            return None
        return tokens.count(str(fact(self.embedder, record.name)), [*map(record.sends_to_openai, texts)])

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
            return vouched_for(self._known)
        return read(self._known, named=self._renamed is not None)

    async def embed_batches(
        self,
        texts: list[str],
        *,
        role: Role,
    ) -> AsyncGenerator[tuple[Sequence[int], Any], None]:
        """Yield (positions, vectors) per batch, in order; what is asked for one by one is a batch each."""
        if self._source is not None:
            async with aclosing(self._source.ask(texts, role, self._batch_size)) as answers:
                async for answer in answers:
                    yield answer
            return
        method = self._dialect.methods[known_role(role, self.roles, self.model_name)]
        size = 1 if method.one_text else self._batch_size
        for start in range(0, len(texts), size):
            batch = texts[start : start + size]
            answer = await self._call(method, batch[0] if method.one_text else batch)
            yield range(start, start + len(batch)), [answer] if method.one_text else answer

    async def _call(self, method: Method, asked: list[str] | str) -> Any:  # noqa: ANN401 - the embedder's answer
        if not self._use_async:
            try:
                return await in_thread("model", self._alone, getattr(self.embedder, method.name), asked)
            except NotImplementedError:  # an embedder with async methods only says so
                if not method.awaited:
                    raise
                self._use_async = True
        return await at_home(self._awaited(method.awaited, asked))

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
        if self._source is None and self._dialect.forgets and not _survives(self._known):
            message = (
                f"{type(self.embedder).__name__} does not survive pickling: it would come back with another "
                "configuration, and other vectors. Build it, and its cache, in each process."
            )
            raise TypeError(message)
        return self.__dict__


def _is_cached(embedder: object) -> bool:
    """Tell whether a model is a cache around another one, which needs no second one."""
    return isinstance(embedder, BaseEmbeddingModel) and hasattr(embedder, "cache_manager")


def _own_batch_size(embedder: object, dialect: Dialect) -> int:
    sizes = (getattr(embedder, name, None) for name in dialect.batch_sizes)
    return next((size for size in sizes if isinstance(size, int) and size > 0), _BATCH_SIZE)


def _survives(seen: Known) -> bool:
    """Tell whether an embedder comes back as it is: some drop in silence what cannot be pickled."""
    embedder = seen.embedder
    twin = object.__new__(type(embedder))
    twin.__setstate__(embedder.__getstate__())
    transport = set() if seen.record is None else set(seen.record.transport.split())
    try:
        kept = all(
            _equal(getattr(twin, name), value) for name, value in held(embedder) if name not in transport
        )
        return kept and fingerprint(twin, named=True) == read(seen, named=True)
    except (AttributeError, IdentityError):
        return False


def _equal(one: object, other: object) -> bool:
    """Tell whether two values are of one kind and, where they are plain, equal."""
    return type(one) is type(other) and (not isinstance(other, (str, int, float)) or one == other)
