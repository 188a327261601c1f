"""Cache: a directory, URL, store or manager without a model, as an operator or a notebook holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kura_cache_adapters._observe.bar import table
from kura_cache_adapters._observe.uses import UseStats, record_of
from kura_cache_adapters.stores import as_store

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from typing_extensions import Self

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore, SpaceStats, SupportsCheckpoints


class Cache:
    """What can be asked of a cache without a model: make one by `open_cache`, or take `model.cache`.

    Unlike a cached model, which goes on without its store, this raises what the store raises.
    """

    def __init__(self, store: EmbeddingStore, *, owned: bool = False) -> None:
        """Hold a store; one that is `owned` is closed with the cache."""
        self.store: EmbeddingStore = store
        self._owned = owned

    def spaces(self) -> list[ModelIdentity]:
        """List the identities of the models that have entries here."""
        return self.store.spaces()

    def stats(self, identity: ModelIdentity) -> SpaceStats:
        """Count what is held of a model: rows, bytes, parts, and the dimension."""
        return self.store.space(identity.shared).stats()

    def hit_rates(self) -> dict[ModelIdentity, UseStats]:
        """Sum up, over all processes, what the entries of each model were used for.

        What a process has counted is written down after each batch that it stores, after hits at most every
        five seconds, and at its end; a kill loses what came since. Stores that keep no record (memory,
        checkpoint managers) have none here.
        """
        spaces = {identity: record_of(self.store.space(identity)) for identity in self.store.spaces()}
        return {identity: record.total() for identity, record in spaces.items() if record is not None}

    def keys(self, identity: ModelIdentity) -> Iterator[bytes]:
        """Iterate over the distinct keys (32 bytes each) of a model, of all roles, in no order."""
        return self.store.space(identity.shared).keys()

    def missing(self, identity: ModelIdentity, keys: Iterable[bytes]) -> list[bytes]:
        """Return those of a model's keys that are not here, each once, in their order.

        A text's key is `bytes.fromhex(model.cache_key(text))`; a model itself takes `missing(texts)`.

        Raises:
            ValueError: a key that has not 32 bytes.

        """
        wanted = list(dict.fromkeys(keys))
        hits = self.store.space(identity.shared).get_many(wanted)
        found = set(hits.checked(len(wanted)).positions.tolist())
        return [key for at, key in enumerate(wanted) if at not in found]

    def close(self) -> None:
        """Close the store, unless it was handed in open; the next use opens it again."""
        if self._owned:
            self.store.close()

    def __enter__(self) -> Self:
        """Return the cache itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Name the store."""
        return f"{type(self).__name__}({self.store!r})"

    def _repr_html_(self) -> str:
        rates = self.hit_rates()
        lines = ((each, self.stats(each), rates.get(each, UseStats())) for each in self.store.spaces())
        return table(repr(self), [(_said(each, held), uses) for each, held, uses in lines])


def _said(identity: ModelIdentity, held: SpaceStats) -> list[str]:
    counts = (f"{held.rows:,} rows", f"{held.nbytes:,} bytes", f"D {held.dimension}")
    return [identity.model_name, identity.parameters, *counts]


def open_cache(cache: SupportsCheckpoints | EmbeddingStore | str | os.PathLike[str]) -> Cache:
    """Open a cache without a model.

    Args:
        cache: a directory or URL (see `open_store`), a store, or a checkpoint manager.

    Raises:
        TypeError: something else.
        ValueError: a manager that is switched off; a path or URL that `open_store` refuses.

    """
    store = as_store(cache)
    if store is None:
        message = f"{cache!r} is switched off, so there is no cache to open"
        raise ValueError(message)
    return Cache(store, owned=store is not cache)
