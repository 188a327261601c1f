"""Cache: a directory, URL, store or manager without a model, as an operator or a notebook holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kura_cache_adapters._adopt.files import export_keys, import_keys
from kura_cache_adapters.stores import as_store

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from typing_extensions import Self

    from kura_cache_adapters._adopt.adopting import Adopted
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

    def export_file(self, path: str | os.PathLike[str], identity: ModelIdentity) -> int:
        """Write all that is held of a model to a new file, by keys; return how many.

        It is a `.parquet`, `.jsonl` or `.npz` file (that one is made in memory) without texts, and
        appears whole. `import_file` takes it, on any machine, into any store.

        Raises:
            ValueError: another ending; nothing is held of the model.

        """
        return export_keys(self.store, identity, path)

    def import_file(self, path: str | os.PathLike[str]) -> Adopted:
        """Store what `export_file` has written; what is damaged is left out and counted.

        Raises:
            ValueError: another file; one with texts is for a model's `import_file`.
            DimensionMismatchError: its vectors are of another dimension than what is stored.

        """
        return import_keys(self.store, path)

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
