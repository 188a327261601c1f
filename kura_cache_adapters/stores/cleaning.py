"""Cleans a store: what is too old or too much, parts that can be fewer, whole spaces; over all its tiers."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timezone
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from kura_cache_adapters.errors import SpaceBusyError, UnsupportedError
from kura_cache_adapters.protocols import KeepsParts
from kura_cache_adapters.spaces import Cleaned, CleaningReceipt
from kura_cache_adapters.stores.spaces import tiers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kura_cache_adapters._segments.bounds import Bounds
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore, VectorSpace
    from kura_cache_adapters.spaces import Part

_KEEPS_NO_PARTS = "Prune stores on disk; or `forget` keys, or `rm` the space."


def prune(
    store: EmbeddingStore, bounds: Bounds, spaces: Sequence[ModelIdentity], *, dry_run: bool
) -> CleaningReceipt:
    """Drop the parts of spaces that are beyond the bounds, which hold for each tier by itself."""
    tiers = list(zip(*(_in_parts(store, identity) for identity in spaces), strict=True))
    places = [place for tier in tiers for place in zip(spaces, tier, strict=True)]
    parts = [[(at, part) for part in space.parts()] for at, (_, space) in enumerate(places)]
    untold = next((places[at][1] for at, part in chain(*parts) if part.used is None), None)
    if bounds.unused_for is not None and untold is not None:
        message = f"{untold!r} notes no uses, so nothing was changed. Prune with older_than= or max_bytes="
        raise UnsupportedError(message)
    doomed, now = defaultdict[int, list["Part"]](list), datetime.now(timezone.utc)
    for start in range(0, len(places), max(1, len(spaces))):  # a tier
        for at, part in bounds.beyond(chain(*parts[start : start + len(spaces)]), now):
            doomed[at].append(part)
    if dry_run:
        going = tuple(_of_parts(*places[at], gone) for at, gone in doomed.items())
        return CleaningReceipt(going, dry_run=True)
    return _clean(partial(_drop, *places[at], gone) for at, gone in doomed.items())


def compact(store: EmbeddingStore, spaces: Iterable[ModelIdentity]) -> CleaningReceipt:
    """Make few parts of many in spaces, without what was forgotten."""
    places = [(identity, space) for identity in spaces for space in _in_parts(store, identity)]
    return _clean(partial(_compact, *place) for place in places)


def remove(store: EmbeddingStore, spaces: Iterable[ModelIdentity]) -> CleaningReceipt:
    """Remove spaces from each tier."""
    places = [(identity, space) for identity in spaces for space in tiers_of(store.space(identity))]
    for _, space in places:
        if not getattr(space, "countable", True):
            message = (
                f"{space!r} cannot list what is in it, so nothing was removed. Delete it where it is kept"
            )
            raise UnsupportedError(message)
    return _clean(partial(_remove, *place) for place in places)


def _in_parts(store: EmbeddingStore, identity: ModelIdentity) -> list[KeepsParts]:
    """Return the tiers that clean not themselves; raise UnsupportedError for one that cannot be cleaned."""
    tiers = tiers_of(store.space(identity))
    lasting = [space for space in tiers if not (getattr(space, "volatile", False) or _evicts(space))]
    for space in lasting or tiers:
        if not isinstance(space, KeepsParts):
            message = f"{space!r} has no parts that could be pruned or compacted, so nothing was changed. "
            raise UnsupportedError(message + (_evicts(space) or _KEEPS_NO_PARTS))
    return [space for space in lasting if isinstance(space, KeepsParts)]


def _evicts(space: VectorSpace) -> str:
    """Return how a space lets go of what is old or too much by itself; empty if it does not."""
    evicts: str = getattr(space, "evicts", "")
    return evicts


def _clean(jobs: Iterable[Callable[[], Cleaned]]) -> CleaningReceipt:
    """Do all jobs; raise SpaceBusyError in the end for those that could not be done."""
    done: list[Cleaned] = []
    busy: list[str] = []
    for job in jobs:
        try:
            done.append(job())
        except SpaceBusyError as error:
            busy += error.names
    receipt = CleaningReceipt(tuple(each for each in done if each.parts or each.entries or each.nbytes))
    if busy:
        raise SpaceBusyError(busy, receipt)
    return receipt


def _drop(identity: ModelIdentity, space: KeepsParts, parts: Iterable[Part]) -> Cleaned:
    return _of_parts(identity, space, space.drop_parts({part.name for part in parts}))


def _compact(identity: ModelIdentity, space: KeepsParts) -> Cleaned:
    return _of_parts(identity, space, *space.compact())


def _remove(identity: ModelIdentity, space: VectorSpace) -> Cleaned:
    if isinstance(space, KeepsParts):
        return _of_parts(identity, space, space.remove())
    before = space.stats()
    entries = space.delete_many(list(space.keys()))
    getattr(space, "unlist", tuple)()
    if left := len([*space.keys()]):
        message = f"{space!r} did not let go of {left} entries. Delete them where they are kept"
        raise UnsupportedError(message)
    nbytes = before.nbytes if before.nbytes or not entries else None
    return Cleaned(identity, identity.directory, repr(space), before.parts, entries, nbytes)


def _of_parts(
    identity: ModelIdentity, space: KeepsParts, gone: Sequence[Part], made: Sequence[Part] = ()
) -> Cleaned:
    return Cleaned(
        identity,
        identity.directory,
        repr(space),
        parts=len(gone) - len(made),
        entries=sum(part.entries for part in gone) - sum(part.entries for part in made),
        nbytes=sum(part.nbytes for part in gone) - sum(part.nbytes for part in made),
    )
