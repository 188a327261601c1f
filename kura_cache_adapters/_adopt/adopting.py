"""Adopts vectors from what people have: all at once, or each when it is first missed."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import astuple, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from kura_cache_adapters._adopt.old_caches import old_cache
from kura_cache_adapters._core.ask import Source, Unpaid
from kura_cache_adapters._core.lookup import checked_texts
from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.loop import in_thread
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters.identity import DOCUMENT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

    from kura_cache_adapters._adopt.check import Check
    from kura_cache_adapters._adopt.fit import Fit
    from kura_cache_adapters._adopt.old_caches import OldCache
    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.protocols import BaseEmbeddingModel, Vectors

BATCH = 1024  # texts at a time: what bounds the memory

_logger = logger_of("cache")


class Keeps(Protocol):
    """A cached model, as far as vectors from elsewhere need it."""

    @property
    def model_name(self) -> str: ...

    def missing(self, texts: Iterable[str], *, role: Role = ...) -> list[int]: ...

    def add(self, texts: Iterable[str], vectors: Any, *, role: Role = ..., replace: bool = ...) -> int: ...  # noqa: ANN401


@dataclass(frozen=True, slots=True)
class Adopted:
    """What came of vectors from elsewhere, in texts.

    Of `texts` (distinct ones, or the rows of a file), `known` were in the cache already, or are repeated. Of
    the others `found` had a vector, `damaged` something that is none, and `stored` have been stored.
    """

    texts: int = 0
    known: int = 0
    found: int = 0
    damaged: int = 0
    stored: int = 0

    def __add__(self, other: Adopted) -> Adopted:
        """Add up."""
        return Adopted(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


def adopt(  # noqa: PLR0913, PLR0917 - what is adopted from where, as what
    model: Keeps, source: Source, old: object, texts: Iterable[str], role: Role, check: Check
) -> Adopted:
    """Store what an old cache has of texts that are not known; the model is asked for the check alone.

    Raises TypeError for what is no old cache; ValueError where it does not tell the role from documents;
    what the old cache raises.
    """
    cache, roles = old_cache(old, model.model_name), _roles(source, role)
    if not cache.ask.keys() & set(roles):
        message = (
            f"{cache.name} has no {role!r} vectors that it tells from documents'; "
            "model.add(texts, vectors, role=...) takes what you know better"
        )
        raise ValueError(message)
    distinct, adopted = [*dict.fromkeys(checked_texts(texts))], Adopted()
    for start in range(0, len(distinct), BATCH):
        some = distinct[start : start + BATCH]
        if check.due:
            check(cache.name, some, cache.found(some, roles))
        adopted += keep(model, some, partial(_in_cache, cache, roles, some), role)
    return adopted


def _in_cache(cache: OldCache, roles: Sequence[Role], texts: list[str], at: list[int]) -> Fit:
    return cache.found([texts[each] for each in at], roles)


def keep(model: Keeps, texts: list[str], find: Callable[[list[int]], Fit], role: Role) -> Adopted:
    """Store the vectors that are found at the positions of texts which are not known."""
    fresh = model.missing(texts, role=role)
    found = find(fresh)
    there = [texts[fresh[at]] for at in found.positions]
    stored = model.add(there, found.vectors, role=role) if there else 0
    return Adopted(len(texts), len(texts) - len(fresh), len(there), found.damaged, stored)


def source_of(
    model: BaseEmbeddingModel,
    model_name: str | None,
    identity: Mapping[str, Any] | None,
    fallback: object,
    dimension: Callable[[], int | None],
) -> Source:
    """Make a model a source, with an old cache in front where there is one; warn of one that is not asked."""
    if fallback is not None:
        return FallbackSource(model, model_name, identity, old=fallback, dimension=dimension)
    if unread := getattr(model, "seen_through", ""):
        message = (
            "%s is seen through, and what it holds would be paid for again: keep it by "
            "model.adopt(it, texts), or pass fallback=it"
        )
        _logger.warning(message, unread)
    return Source(model, model_name, identity)


class FallbackSource(Source):
    """A model with an old cache in front: what that has is answered by it, the rest by the model."""

    def __init__(
        self,
        model: BaseEmbeddingModel,
        model_name: str | None,
        identity: Mapping[str, Any] | None,
        *,
        old: object,
        dimension: Callable[[], int | None],
    ) -> None:
        """Take a model as `Source` does; `dimension` tells what the cache holds, None while it is empty.

        Raises what `old_cache` raises.
        """
        super().__init__(model, model_name, identity)
        self._old: OldCache = old_cache(old, self.name)
        self._dimension_of_cache = dimension
        self._dimension: int | None = None
        self._trouble = OnceLog(_logger)

    async def ask(
        self, texts: list[str], role: Role, chunk_size: int
    ) -> AsyncGenerator[tuple[Sequence[int], Any], None]:
        """Yield what the old cache has, chunk by chunk, then what the model answers, see `Source.ask`."""
        roles, left = _roles(self, role), set(range(len(texts)))
        for start in range(0, len(texts), chunk_size):
            found = await in_thread("store", self._found, texts[start : start + chunk_size], roles)
            if found is not None:
                unpaid = Unpaid(start + at for at in found.positions)
                left.difference_update(unpaid)
                yield unpaid, found.vectors
        if not left:
            return
        rest = sorted(left)
        async with aclosing(super().ask([texts[at] for at in rest], role, chunk_size)) as answers:
            async for positions, vectors in answers:
                yield [rest[at] for at in positions], vectors

    def _found(self, texts: list[str], roles: Sequence[Role]) -> Fit | None:
        """Look texts up; None for nothing, and, with one warning, for any trouble."""
        try:
            found = self._old.found(texts, roles)
            self._trouble.over("read")
            return found if found.positions and self._fits(found.vectors) else None
        except Exception as error:  # noqa: BLE001 - any old cache's any trouble: the model answers instead
            pass_on_signals(error)
            message = "Could not read the fallback %s: %s; going on without"
            self._trouble.report("read", message, self._old.name, describe(error))
            return None

    def _fits(self, vectors: Vectors) -> bool:
        dimension: int = vectors.shape[1]
        self._dimension = self._dimension or self._dimension_of_cache() or dimension
        if dimension != self._dimension:
            message = "The fallback %s has vectors of %d dimensions, the model's have %d; they are left out"
            self._trouble.report("fit", message, self._old.name, dimension, self._dimension)
        return dimension == self._dimension


def _roles(source: Source, role: Role) -> tuple[Role, ...]:
    """Return as what texts may have been embedded elsewhere that this model embeds as asked."""
    seen = source.role(role)
    return (seen,) if source.roles else (DOCUMENT, "query")
