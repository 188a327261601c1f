"""TieredStore: fast stores in front of slow ones."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING

from kura_cache_adapters._observe.tiers import TellsTiers, TierStats
from kura_cache_adapters.stores.tiered_space import TieredSpace

if TYPE_CHECKING:
    from kura_cache_adapters._identity.keys import RememberedKeys
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore


class TieredStore:
    """Read from the first store to the last and fill the ones before a hit; write to all."""

    lent: tuple[EmbeddingStore, ...] = ()  # of the stores, those that others close

    def __init__(self, *stores: EmbeddingStore) -> None:
        """Order stores from fast to slow.

        Args:
            *stores: of any origin. The last that is not on a server gets everything: what it has is stored,
                and its statistics are the store's. In the place of another TieredStore are its stores.

        Raises:
            ValueError: no store.

        """
        if not stores:
            message = "a TieredStore needs at least one store"
            raise ValueError(message)
        self.stores: tuple[EmbeddingStore, ...] = tuple(chain.from_iterable(map(_tiers, stores)))
        self.remembered_keys: RememberedKeys | None = getattr(self.stores[0], "remembered_keys", None)
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
                if not any(store is each for each in self.lent):
                    stack.callback(store.close)

    def tier_stats(self) -> list[TierStats]:
        """Tell what each tier has answered, as far as it counts that itself."""
        return [
            told
            for store in self.stores
            for told in (store.tier_stats() if isinstance(store, TellsTiers) else [TierStats(repr(store))])
        ]

    def __reduce__(self) -> tuple[type[TieredStore], tuple[EmbeddingStore, ...]]:
        """Pickle the stores, never what is open."""
        return type(self), self.stores

    def __repr__(self) -> str:
        """Name the class and its stores."""
        return f"{type(self).__name__}({', '.join(map(repr, self.stores))})"


def _tiers(store: EmbeddingStore) -> tuple[EmbeddingStore, ...]:
    return store.stores if isinstance(store, TieredStore) else (store,)
