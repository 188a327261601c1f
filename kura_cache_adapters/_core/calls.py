"""The calls of a model, with a cache and without one: what runs in which thread."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from kura_cache_adapters._core.engine import Engine, first_positions, next_call
from kura_cache_adapters._core.engines import Engines
from kura_cache_adapters._core.fill import Fill
from kura_cache_adapters._core.floats import let_go
from kura_cache_adapters._core.glance import FEW, Pace, short, small
from kura_cache_adapters._core.keys import Keys
from kura_cache_adapters._core.lookup import checked_texts
from kura_cache_adapters._core.modes import engine_of, miss, space_of
from kura_cache_adapters._core.vectors import as_vectors, uncached
from kura_cache_adapters._observe.billing import bill
from kura_cache_adapters._observe.events import Embedded
from kura_cache_adapters._runtime.loop import hop, in_thread, on_a_loop, run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.lookup import Lookup
    from kura_cache_adapters._core.vectors import Kept
    from kura_cache_adapters._observe.events import Observer
    from kura_cache_adapters.identity import ModelIdentity, Role
    from kura_cache_adapters.options import CacheOptions
    from kura_cache_adapters.protocols import EmbeddingStore

_T = TypeVar("_T")
_AGAIN = 3  # times that a call looks up anew where its model has become another one meanwhile


class Bare:
    """The calls of a model without a cache: all goes to it, nothing is kept."""

    each_once = False  # a text that is repeated in a call is sent again

    def __init__(
        self, source: Source, parameters: Mapping[str, Any], options: CacheOptions, observe: Observer
    ) -> None:
        """Take a model; raise what its identity raises."""
        self._source = source
        self._observe = observe
        self._options = options
        self._engines = Engines(
            source, parameters, lambda identity: Keys(identity, source, secret=options.secret_bytes)
        )

    def keys(self) -> Keys:
        """Return what computes keys now."""
        return self._engines.now()

    def contains(self, texts: list[str], role: Role) -> list[bool]:
        """Tell that nothing is kept."""
        return [False] * len(self.keys()(texts, role))

    def missing(self, texts: list[str], role: Role) -> list[int]:
        """Return the positions of the distinct texts."""
        return first_positions(self.keys()(texts, role))

    def add(self, texts: list[str], answer: Sequence[Any], role: Role, *, replace: bool) -> int:  # noqa: ARG002 - nothing is kept
        """Store nothing."""
        self.keys()(texts, role)  # raises for a role that the model does not know
        return 0

    async def answer(self, texts: Iterable[str], role: Role, convert: Callable[[Kept], _T]) -> _T:
        """Ask the model; the answer is of the type that a cache's has."""
        asked, role = checked_texts(texts), self._source.role(role)
        if asked and self._options.on_miss == "raise":
            raise miss(self._source.name, self.keys()(asked, role), len(asked), self._options)
        answered = as_vectors(await self._embed(asked, role) if asked else [], len(asked), self._source.name)
        if len(answered) <= FEW or not on_a_loop():
            return _converted(answered, convert)
        return await in_thread("store", _converted, answered, convert)

    async def _embed(self, texts: list[str], role: Role) -> Any:  # noqa: ANN401 - whatever the model returns
        begun, answered = perf_counter(), 0
        with bill() as billed:
            try:
                answer = await self._source.embed(texts, role)
                answered = len(texts)
            finally:
                told = (next_call(), self._source.name, answered, 0, perf_counter() - begun, billed.take())
                self._observe(Embedded(*told))
        return answer

    def answer_sync(self, texts: Iterable[str], role: Role, convert: Callable[[Kept], _T]) -> _T:
        """Do the same from sync code."""
        return run(self.answer(texts, role, convert))


def _converted(answered: Sequence[Any], convert: Callable[[Kept], _T]) -> _T:
    whole = convert(uncached(answered))
    if isinstance(whole, np.ndarray):
        let_go(answered)
    return whole


class _Begun(NamedTuple):
    """A look-up that did not find everything, and who goes on with it."""

    engine: Engine
    lookup: Lookup

    def rest(self, convert: Callable[[Kept], _T]) -> Coroutine[Any, Any, _T]:
        return self.engine.rest(self.lookup, convert)


class Cached:
    """The calls of a model with a cache."""

    each_once = True

    def __init__(
        self,
        source: Source,
        parameters: Mapping[str, Any],
        options: CacheOptions,
        store: EmbeddingStore,
        observe: Observer,
    ) -> None:
        """Take a model and a store; raise what the model's identity raises."""
        self._source = source
        self._options = options
        self._store = store
        self._observe = observe
        self._engines = Engines(source, parameters, self._engine)
        self._pace = Pace()

    def keys(self) -> Keys:
        """Return what computes keys now."""
        return self._engines.now().keys

    def contains(self, texts: list[str], role: Role) -> list[bool]:
        """Tell of each text whether its vector is found."""
        return self._engines.now().contains(texts, role)

    def missing(self, texts: list[str], role: Role) -> list[int]:
        """Return the positions of the texts that the model would be asked for, each text once."""
        return self._engines.now().missing(texts, role)

    def add(self, texts: list[str], answer: Sequence[Any], role: Role, *, replace: bool) -> int:
        """Store vectors from elsewhere; return how many were stored."""
        return self._engines.now().add(texts, answer, role, replace=replace)

    async def answer(self, texts: Iterable[str], role: Role, convert: Callable[[Kept], _T]) -> _T:
        """Answer from the cache, and with what the model embeds of the rest."""
        if (at_once := self._at_once(texts, role, convert)) is not None:
            if self._pace.turn_is_over():
                await asyncio.sleep(0)
            return at_once
        found = await in_thread("store", self._found, texts, role, convert)
        for _ in range(_AGAIN if self._source.may_change else 0):
            if not isinstance(found, _Begun) or await in_thread("model", self._engines.settled, found.engine):
                break
            found = await in_thread("store", self._found, found.lookup.texts, role, convert)
        return await hop(found.rest(convert)) if isinstance(found, _Begun) else found

    def answer_sync(self, texts: Iterable[str], role: Role, convert: Callable[[Kept], _T]) -> _T:
        """Do the same from sync code."""
        found = self._found(texts, role, convert)
        for _ in range(_AGAIN if self._source.may_change else 0):
            if not isinstance(found, _Begun) or self._engines.settled(found.engine):
                break
            found = self._found(found.lookup.texts, role, convert)
        return run(found.rest(convert)) if isinstance(found, _Begun) else found

    def _at_once(self, texts: Iterable[str], role: Role, convert: Callable[[Kept], _T]) -> _T | None:
        """Answer without a thread what is small and at hand; None for all else."""
        if not small(texts) or not self._pace.ready() or not on_a_loop():
            return None
        begun = perf_counter()
        engine, asked = self._engines.unchanged(), checked_texts(texts)
        lookup = engine.glance(asked, role) if engine is not None and short(asked) else None
        answer = None if lookup is None or engine is None else engine.whole(lookup, convert)
        self._pace.took(begun)
        return answer

    def _found(
        self,
        texts: Iterable[str],
        role: Role,
        convert: Callable[[Kept], _T],
    ) -> _T | _Begun:
        """Answer when everything is found, in one go; else return the look-up and who goes on with it."""
        engine = self._engines.now()
        lookup = engine.found(checked_texts(texts), role)
        if lookup.complete:
            return engine.whole(lookup, convert)
        return _Begun(engine, engine.share(lookup))

    def _engine(self, identity: ModelIdentity) -> Engine:
        source, observe, options = self._source, self._observe, self._options
        remembered = getattr(self._store, "remembered_keys", None)
        keys = Keys(identity, source, remembered=remembered, secret=options.secret_bytes)
        space = space_of(self._store, identity.shared, observe, options)

        def unchanged() -> bool:
            return self._engines.now().keys.identity == identity

        fill = Fill(source, space, space.tell, options=options, unchanged=unchanged)
        return engine_of(options)(keys, source, space, fill, space.tell)
