"""Forgets and verifies wherever a store has vectors: in every tier, space and format."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from kura_cache_adapters._observe.log import describe
from kura_cache_adapters._runtime.signals import pass_on_signals, suppressed
from kura_cache_adapters._segments.marks import formats_in
from kura_cache_adapters.protocols import Forgets, Verifies
from kura_cache_adapters.receipts import KEPT_DAYS, Forgotten, Receipt, Report, SpaceReport, Trouble
from kura_cache_adapters.stores.registry import STORES, class_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from kura_cache_adapters._segments.format import SegmentFormat
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore, VectorSpace

_NOBODYS = "it does not say whose these entries are, until their model stores one more. Or delete them there"
_AT_ONCE = 1024  # entries of a store without checksums of its own


@runtime_checkable
class _Tiered(Protocol):
    stores: tuple[EmbeddingStore, ...]


@runtime_checkable
class _WritesLater(Protocol):
    def withdraw(self, keys: Collection[bytes]) -> None: ...


@runtime_checkable
class _OnDisk(Protocol):
    """A store of segments, told without its engine, which takes long to import."""

    path: Path
    format: SegmentFormat


def forget(
    store: EmbeddingStore,
    keys: Sequence[bytes],
    *,
    days: float = KEPT_DAYS,
    within: Collection[ModelIdentity] | None = None,
) -> Receipt:
    """Forget keys in all spaces, or within those of some models; tell what could not be reached."""
    _withdraw(store, keys)
    known = [*_known_in(store)] if within is None else within
    spaces = [
        done
        for leaf in _leaves(store)
        for done in (_forgotten_in(leaf, keys, days, known, whole=within is None) if keys else ())
    ]
    if (remembered := getattr(store, "remembered_keys", None)) is not None:
        remembered.clear()  # they stand beside their texts
    return Receipt(tuple(key.hex() for key in keys), days, _now(), tuple(spaces))


def forget_texts(
    store: EmbeddingStore | None,
    texts: list[str],
    identity: ModelIdentity,
    keys_under: Callable[[ModelIdentity, list[str]], list[bytes]],
    *,
    days: float,
) -> Receipt:
    """Forget texts under every stored identity of a model's name; their keys are computed for each."""
    if store is None:
        return Receipt((), days, _now())
    own = identity.shared
    models = {own, *(each for each in _known_in(store) if each.model_name == own.model_name)}
    doomed = [key for each in models for key in keys_under(each, texts)]
    return forget(store, doomed, days=days, within=models)


def _withdraw(store: EmbeddingStore, keys: Sequence[bytes]) -> None:
    """Have no tier write later, behind a tier that has forgotten it, what waits for its server."""
    if isinstance(store, _WritesLater):
        store.withdraw(keys)
    elif isinstance(store, _Tiered):
        for tier in store.stores:
            _withdraw(tier, keys)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def verify(store: EmbeddingStore, *, repair: bool) -> Report:
    """Read every checksum of every tier; what cannot be read is in the report."""
    return Report(tuple(each for leaf in _leaves(store) for each in _verified(leaf, repair=repair)))


def _leaves(store: EmbeddingStore) -> Iterator[EmbeddingStore]:
    """Yield a store, or its tiers instead, each with what other formats have left in its directory."""
    if isinstance(store, _Tiered):
        for tier in store.stores:
            yield from _leaves(tier)
        return
    yield store
    if isinstance(store, _OnDisk):
        yield from _beside(store)


def _beside(store: _OnDisk) -> Iterator[EmbeddingStore]:
    """Open the other formats in a store's directory; raise MissingExtraError where an extra is needed."""
    for scheme in sorted(formats_in(store.path, most=None).intersection(STORES)):
        if f".{scheme}" != store.format.suffix:
            yield class_of(scheme)(store.path, shared=store.format.shared)


def _known_in(store: EmbeddingStore) -> Iterator[ModelIdentity]:
    """Yield the models that any tier knows of; one that fails tells so when it is asked to forget."""
    for leaf in _leaves(store):
        with suppressed(Exception):  # of a foreign store
            yield from leaf.spaces()


def _forgotten_in(
    store: EmbeddingStore,
    keys: Sequence[bytes],
    days: float,
    models: Collection[ModelIdentity],
    *,
    whole: bool,
) -> list[Forgotten]:
    try:
        if isinstance(store, Forgets):
            done = store.forget(keys, days=days, within=None if whole else models)
            return [replace(each, store=repr(store)) for each in done]
        if whole:
            store.spaces()  # raises where it cannot be reached
        return [_forgotten_of(store, identity, keys) for identity in dict.fromkeys(models)]
    except Exception as error:  # noqa: BLE001 - a foreign store's any trouble: the receipt names it
        pass_on_signals(error)
        return [Forgotten(repr(store), "", unreachable=(Trouble(repr(store), describe(error)),))]


def _forgotten_of(store: EmbeddingStore, identity: ModelIdentity, keys: Sequence[bytes]) -> Forgotten:
    """Forget in a space that says no more than how many there were: look before, and afterwards."""
    name, space = identity.directory, store.space(identity)
    try:
        there = _among(space, keys)
        space.delete_many(keys)
        still = _among(space, keys)
    except Exception as error:  # noqa: BLE001 - a foreign store's any trouble: the receipt names it
        pass_on_signals(error)
        return Forgotten(repr(store), name, unreachable=(Trouble(repr(store), describe(error)),))
    left = Trouble(repr(store), f"it has not deleted {len(still)} of the keys")
    return Forgotten(repr(store), name, tuple(there), unreachable=(left,) if still else ())


def _among(space: VectorSpace, keys: Sequence[bytes]) -> list[str]:
    hits = space.get_many(keys).checked(len(keys))
    return sorted(keys[at].hex() for at in hits.positions)


def _verified(store: EmbeddingStore, *, repair: bool) -> list[SpaceReport]:
    try:
        if isinstance(store, Verifies):
            return [replace(each, store=repr(store)) for each in store.verify(repair=repair)]
        verified = [_verified_space(store, identity, repair=repair) for identity in store.spaces()]
        return verified + [_unlisted(store, name) for name in getattr(store, "unlisted", tuple)()]
    except Exception as error:  # noqa: BLE001 - a foreign store's any trouble: the report names it
        pass_on_signals(error)
        return [SpaceReport(repr(store), "", troubles=(Trouble(repr(store), describe(error)),))]


def _unlisted(store: EmbeddingStore, name: str) -> SpaceReport:
    return SpaceReport(repr(store), name, troubles=(Trouble(f"{store!r}: {name}", _NOBODYS),))


def _verified_space(store: EmbeddingStore, identity: ModelIdentity, *, repair: bool) -> SpaceReport:
    """Read all that a space can list: what is there, and not found, is damaged."""
    space = store.space(identity)
    keys = list(space.keys())
    parts = [keys[at : at + _AT_ONCE] for at in range(0, len(keys), _AT_ONCE)]
    bad = [key for part in parts for key in sorted({*part} - {*map(bytes.fromhex, _among(space, part))})]
    if repair and bad:
        space.delete_many(bad)
    over = repair and not {*bad}.intersection(space.keys())
    trouble = Trouble(repr(store), f"{len(bad)} of its {len(keys)} entries are damaged", repaired=over)
    troubles = (trouble,) if bad else ()
    return SpaceReport(repr(store), identity.directory, len(keys), len(bad), len(keys), (), troubles)
