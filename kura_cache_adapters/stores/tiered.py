"""TieredStore: fast stores in front of slow ones."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters.protocols import Hits, NotesAnswerer, SpaceStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore, Vectors, VectorSpace

_logger = logging.getLogger("kura_cache_adapters.store")

_MOST_OWED = 1_000_000  # keys remembered for a tier that refuses them
_AT_ONCE = 1024  # of them are written at a time


class TieredStore:
    """Read from the first store to the last and fill the ones before a hit; write to all."""

    def __init__(self, *stores: EmbeddingStore) -> None:
        """Order stores from fast to slow.

        Args:
            *stores: of any origin; the last gets everything, and its statistics are the store's.

        Raises:
            ValueError: no store.

        """
        if not stores:
            message = "a TieredStore needs at least one store"
            raise ValueError(message)
        self.stores = stores
        self.remembered_bytes: int = getattr(stores[0], "remembered_bytes", 0)
        self._spaces: dict[ModelIdentity, TieredSpace] = {}

    def space(self, identity: ModelIdentity) -> TieredSpace:
        """Open the space of a model in every store, the same object each time."""
        if identity not in self._spaces:
            space = TieredSpace([store.space(identity) for store in self.stores])
            self._spaces.setdefault(identity, space)
        return self._spaces[identity]

    def spaces(self) -> list[ModelIdentity]:
        """List the identities that any store has."""
        return list(dict.fromkeys(i for store in self.stores for i in store.spaces()))

    def close(self) -> None:
        """Close every store, after a last try to write what one of them has refused."""
        for space in list(self._spaces.values()):
            space.catch_up()
        with ExitStack() as stack:
            for store in self.stores:
                stack.callback(store.close)

    def __reduce__(self) -> tuple[type[TieredStore], tuple[EmbeddingStore, ...]]:
        """Pickle the stores, never what is open."""
        return type(self), self.stores

    def __repr__(self) -> str:
        """Name the class and its stores."""
        return f"{type(self).__name__}({', '.join(map(repr, self.stores))})"


class TieredSpace:
    """The same model's spaces in several stores."""

    def __init__(self, tiers: list[VectorSpace]) -> None:
        """Order spaces from fast to slow."""
        self._tiers = tiers
        self._owed: list[set[bytes]] = [set() for _ in tiers]
        self._log = OnceLog(_logger)

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Look in each tier for what those before it did not have."""
        wanted = list(keys)
        hits = self._ask(self._tiers[0], wanted)
        if len(hits.positions) == len(wanted):  # without dataclasses.replace: it takes as long as finding one
            return Hits(hits.positions, hits.vectors, hits.invalid, (len(wanted),))
        tiers = [len(hits.positions)]
        for index, tier in enumerate(self._tiers[1:], 1):
            if len(hits.positions) == len(wanted):
                break
            missing = np.setdiff1d(np.arange(len(wanted)), hits.positions, assume_unique=True)
            found = self._ask(tier, [wanted[at] for at in missing])
            if len(found.positions):
                self._fill(index, [wanted[missing[at]] for at in found.positions], found.vectors)
            hits = _joined(hits, Hits(missing[found.positions], found.vectors, found.invalid))
            tiers.append(len(hits.positions) - sum(tiers))
        return replace(hits, tiers=tuple(tiers))

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:
        """Write to every tier, slowest first; one that fails does not keep the others from it.

        What a tier has refused, and another one still has, is written with its next batch, or by
        `catch_up`: once a fast tier has it, nobody would bring it again. Raises what a tier has raised.
        """
        wanted = list(keys)
        with ExitStack() as stack:
            for index in range(len(self._tiers)):
                stack.callback(self._put, index, wanted, vectors, durable=durable)

    def answerer(self) -> str:
        """Return the name under which a server has answered, from the first tier that has noted one."""
        noted = (tier.answerer() for tier in self._tiers if isinstance(tier, NotesAnswerer))
        return next(filter(None, noted), "")

    def note_answerer(self, name: str) -> None:
        """Note under which name a server answers, in each tier that can."""
        for tier in self._tiers:
            if isinstance(tier, NotesAnswerer):
                tier.note_answerer(name)

    def catch_up(self) -> None:
        """Try again to write what tiers have refused."""
        for index in range(len(self._tiers)):
            self._catch_up(index, durable=True)

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Delete from every tier; return how many the fullest had."""
        wanted = list(keys)
        for owed in self._owed:
            owed.difference_update(wanted)
        return max([tier.delete_many(wanted) for tier in self._tiers])

    def keys(self) -> Iterator[bytes]:
        """Iterate over the distinct keys of all tiers."""
        return iter(set().union(*(tier.keys() for tier in self._tiers)))

    def stats(self) -> SpaceStats:
        """Count what the slowest tier holds: it gets everything and evicts last."""
        return self._tiers[-1].stats()

    def _put(self, index: int, keys: list[bytes], vectors: Vectors, *, durable: bool) -> None:
        owed = self._owed[index]
        try:
            self._tiers[index].put_many(keys, vectors, durable=durable)
        except Exception:  # whatever it was: the caller hears of it, and it is owed
            owed.update(keys[: max(0, _MOST_OWED - len(owed))])
            raise
        self._catch_up(index, durable=durable)

    def _catch_up(self, index: int, *, durable: bool) -> None:
        owed = list(self._owed[index])
        try:
            for start in range(0, len(owed), _AT_ONCE):
                self._pay(index, owed[start : start + _AT_ONCE], durable=durable)
        except Exception as error:  # noqa: BLE001 - a foreign store that fails again; the rest is still owed
            tier = self._tiers[index]
            self._log.report(f"write {index}", "Could not write to %r: %s", tier, describe(error))

    def _pay(self, index: int, keys: list[bytes], *, durable: bool) -> None:
        """Write to a tier what the others have; what none has any more is forgotten."""
        for other in self._tiers[:index] + self._tiers[index + 1 :]:
            hits = other.get_many(keys).checked(len(keys))
            if len(hits.positions):
                found = [keys[at] for at in hits.positions]
                self._tiers[index].put_many(found, hits.vectors, durable=durable)
        self._owed[index].difference_update(keys)

    def _fill(self, found_in: int, keys: list[bytes], vectors: Vectors) -> None:
        for tier in self._tiers[:found_in]:
            try:
                tier.put_many(keys, vectors, durable=False)
            except Exception as error:  # noqa: BLE001 - a foreign store that cannot be filled is only slow
                self._log.report(f"fill {tier!r}", "Could not fill %r: %s", tier, describe(error))

    def _ask(self, tier: VectorSpace, keys: list[bytes]) -> Hits:
        try:
            hits = tier.get_many(keys).checked(len(keys))
        except Exception as error:  # noqa: BLE001 - a foreign store that fails has nothing; the next may
            self._log.report(f"read {tier!r}", "Could not read from %r: %s", tier, describe(error))
            return Hits.none()
        if self._log.known:
            self._log.over(f"read {tier!r}")
        return hits


def _joined(left: Hits, right: Hits) -> Hits:
    invalid = left.invalid + right.invalid
    if not len(left.positions):
        return replace(right, invalid=invalid)
    if not len(right.positions):
        return replace(left, invalid=invalid)
    if left.vectors.shape[1] != right.vectors.shape[1]:
        return left
    positions = np.concatenate([left.positions, right.positions])
    order = np.argsort(positions)
    vectors = np.concatenate([left.vectors, right.vectors])[order]
    return Hits(positions[order], vectors, invalid)
