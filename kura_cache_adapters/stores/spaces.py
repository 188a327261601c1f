"""The spaces of a store: what is in each, and which one a person means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kura_cache_adapters.errors import UnsupportedError
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.protocols import HasTiers, KeepsParts, SpaceStats
from kura_cache_adapters.spaces import SpaceInfo

if TYPE_CHECKING:
    from kura_cache_adapters.protocols import EmbeddingStore, VectorSpace
    from kura_cache_adapters.spaces import SpaceName


def unguarded(store: EmbeddingStore) -> EmbeddingStore:
    """Return a store on a server without its guard: an operator is told what fails."""
    inner: tuple[EmbeddingStore, ...] = (
        getattr(store, "stores", ()) if getattr(store, "remote", False) else ()
    )
    return inner[0] if inner else store


def tiers_of(space: VectorSpace) -> list[VectorSpace]:
    """Return the spaces that keep what is put in one, from fast to slow: itself, or its tiers'."""
    if not isinstance(space, HasTiers):
        return [space]
    return [leaf for tier in space.tiers for leaf in tiers_of(tier)]


def _slowest(space: VectorSpace) -> VectorSpace:
    if not isinstance(space, HasTiers):
        return space
    here = [tier for tier in space.tiers if not getattr(tier, "remote", False)]
    return _slowest((here or space.tiers)[-1])


def info_of(store: EmbeddingStore, identity: ModelIdentity) -> SpaceInfo:
    """Tell what a store holds of a model; over tiers, what the slowest on this machine does."""
    space = _slowest(store.space(identity))
    stats = space.stats()
    entries = stats.rows if getattr(space, "countable", True) else None
    name, dimension = identity.directory, stats.dimension
    if not isinstance(space, KeepsParts):
        known = None if entries is None or (entries and not stats.nbytes) else stats.nbytes
        return SpaceInfo(identity, name, entries, known, stats.parts, dimension)
    parts = space.parts()
    return SpaceInfo(
        identity,
        name,
        entries,
        sum(part.nbytes for part in parts),
        len(parts),
        dimension,
        oldest_write=min((part.written for part in parts), default=None),
        newest_write=max((part.written for part in parts), default=None),
        last_use=max((part.used for part in parts if part.used is not None), default=None),
    )


def totals_of(store: EmbeddingStore) -> SpaceStats:
    """Count what a store holds of all models; the dimension is that of them all, None for several."""
    every = [store.space(identity).stats() for identity in store.spaces()]
    dimensions = {stats.dimension for stats in every if stats.dimension is not None}
    return SpaceStats(
        rows=sum(stats.rows for stats in every),
        nbytes=sum(stats.nbytes for stats in every),
        parts=sum(stats.parts for stats in every),
        dimension=dimensions.pop() if len(dimensions) == 1 else None,
    )


def count(store: EmbeddingStore) -> int:
    """Count the entries of all spaces; raise UnsupportedError for one that cannot list its keys."""
    counts = {identity: info_of(store, identity).entries for identity in store.spaces()}
    if untold := [identity.directory for identity, entries in counts.items() if entries is None]:
        message = f"{store!r} cannot list what is in {', '.join(untold)}, so it cannot be counted"
        raise UnsupportedError(message)
    return sum(entries or 0 for entries in counts.values())


def meant(store: EmbeddingStore, name: SpaceName) -> ModelIdentity:
    """Return the identity of the one space that is called so; an identity is taken as it is.

    Raises ValueError for a name that there is not, and for a model's that has several spaces.
    """
    if isinstance(name, (ModelIdentity, SpaceInfo)):
        return (name.identity if isinstance(name, SpaceInfo) else name).shared
    identity, *others = all_meant(store, name)
    if not others:
        return identity
    names = ", ".join(each.directory for each in (identity, *others))
    message = f"{name!r} has {1 + len(others)} spaces: {names}. Say which, by one of these names"
    raise ValueError(message)


def all_meant(store: EmbeddingStore, name: SpaceName | None) -> list[ModelIdentity]:
    """Return the identities of the spaces that are called so: all of a model's name; all there are for None.

    Raises ValueError for a name that there is not.
    """
    there = store.spaces()
    if name is None:
        return there
    if isinstance(name, (ModelIdentity, SpaceInfo)):
        name = meant(store, name).directory
    found = [each for each in there if each.directory == name] or [
        each for each in there if each.model_name == name
    ]
    if not found:
        names = ", ".join(f"{each.directory} ({each.model_name})" for each in there) or "none"
        message = f"there is no space or model {name!r} in {store!r}; there are: {names}"
        raise ValueError(message)
    return found
