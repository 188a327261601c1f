"""Cache: a directory, URL, store or manager without a model, as an operator or a notebook holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kura_cache_adapters._adopt.files import export_keys, import_keys
from kura_cache_adapters._observe.bar import table
from kura_cache_adapters._observe.uses import UseStats, record_of
from kura_cache_adapters._runtime.loop import in_thread
from kura_cache_adapters._segments.bounds import Bounds
from kura_cache_adapters.checks import keys_of
from kura_cache_adapters.receipts import KEPT_DAYS
from kura_cache_adapters.stores import as_store, cleaning, copying, spaces
from kura_cache_adapters.stores.everywhere import forget, verify
from kura_cache_adapters.stores.mirror import mirror_of, remote_bounds

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import timedelta

    from typing_extensions import Self

    from kura_cache_adapters._adopt.adopting import Adopted
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.options import OneCache
    from kura_cache_adapters.protocols import EmbeddingStore, SpaceStats, VectorSpace
    from kura_cache_adapters.receipts import Receipt, Report, SyncReceipt
    from kura_cache_adapters.spaces import CleaningReceipt, SpaceInfo, SpaceName


class Cache:
    """What can be asked of a cache without a model: make one by `open_cache`, or take `model.cache`.

    Unlike a cached model, which goes on without its store, this raises what the store raises.
    """

    def __init__(self, store: EmbeddingStore, *, owned: bool = False) -> None:
        """Hold a store; one that is `owned` is closed with the cache."""
        self.store: EmbeddingStore = store
        self._owned = owned

    def spaces(self) -> list[SpaceInfo]:
        """List what is held of each model.

        Over tiers, as the slowest on this machine tells it.
        """
        return [spaces.info_of(self.store, identity) for identity in self.store.spaces()]

    def hit_rates(self) -> dict[ModelIdentity, UseStats]:
        """Sum up, over all processes, what the entries of each model were used for.

        What a process has counted is written down after each batch that it stores, after hits at most every
        five seconds, and at its end; a kill loses what came since. Stores that keep no record (memory,
        checkpoint managers) have none here.
        """
        spaces = {identity: record_of(self.store.space(identity)) for identity in self.store.spaces()}
        return {identity: record.total() for identity, record in spaces.items() if record is not None}

    def stats(self, space: SpaceName | None = None) -> SpaceStats:
        """Count what is held: rows, bytes, parts, and the dimension, None where there are several.

        Args:
            space: count this one only; see `prune` for how it is called.

        Raises:
            ValueError: no space is called so, or several are.

        """
        return spaces.totals_of(self.store) if space is None else self._space(space).stats()

    def keys(self, space: SpaceName) -> Iterator[bytes]:
        """Iterate over the distinct keys (32 bytes each) of a model, of all roles, in no order.

        Raises ValueError where no space is called so, or several are.
        """
        return self._space(space).keys()

    def missing(self, space: SpaceName, keys: Iterable[bytes]) -> list[bytes]:
        """Return those of a model's keys that are not here, each once, in their order.

        A text's key is `bytes.fromhex(model.cache_key(text))`; a model itself takes `missing(texts)`.

        Raises:
            ValueError: a key that has not 32 bytes; no space is called so, or several are.

        """
        wanted = list(dict.fromkeys(keys))
        hits = self._space(space).get_many(wanted)
        found = set(hits.checked(len(wanted)).positions.tolist())
        return [key for at, key in enumerate(wanted) if at not in found]

    def forget(self, keys: Iterable[bytes | str], *, days: float = KEPT_DAYS) -> Receipt:
        """Forget keys in all spaces of all tiers, to the last byte; tell what could not be reached.

        Files are written anew without their rows, files that were set aside as damaged are removed, and
        for so many days no copy that is put back brings them again. What fails is in the receipt, and
        keeps no other tier from it.

        Args:
            keys: 32 bytes or 64 hexadecimal characters each, as `model.cache_key(text)` returns them.
            days: how long tombstones stand against copies, backups and machines that were away.

        Raises:
            ValueError: something else than a key.
            MissingExtraError: datasets lie in the directory of another format, and `datasets` is missing.

        """
        return forget(self.store, keys_of(keys), days=days)

    def verify(self, *, repair: bool = False) -> Report:
        """Read every checksum of every space, of all tiers; it works while others write.

        Args:
            repair: write files anew that hold damaged rows, without them; set aside those that cannot be
                read, as `_<name>.damaged`; and remove what killed writers have left.

        """
        return verify(self.store, repair=repair)

    def export_file(self, path: str | os.PathLike[str], space: SpaceName) -> int:
        """Write all that is held in a space to a new file, by keys; return how many.

        It is a `.parquet`, `.jsonl` or `.npz` file (that one is made in memory) without texts, and
        appears whole. `import_file` takes it, on any machine, into any store.

        Raises:
            ValueError: another ending; nothing is held of the model.

        """
        return export_keys(spaces.unguarded(self.store), spaces.meant(self.store, space), path)

    def import_file(self, path: str | os.PathLike[str]) -> Adopted:
        """Store what `export_file` has written; what is damaged is left out and counted.

        Raises:
            ValueError: another file; one with texts is for a model's `import_file`.
            DimensionMismatchError: its vectors are of another dimension than what is stored.

        """
        return import_keys(spaces.unguarded(self.store), path)

    def copy_to(self, other: Cache, *, model: SpaceName | None = None) -> int:
        """Copy what another cache has not yet, of any format; return how many entries that were.

        One that was interrupted goes on where it was.

        Args:
            other: the cache that gets them.
            model: copy only what is called so, see `prune`.

        Raises:
            ValueError: nothing is called so.
            DimensionMismatchError: a model's vectors are of another dimension there.

        """
        source, target = spaces.unguarded(self.store), spaces.unguarded(other.store)
        return copying.copy(source, target, spaces.all_meant(source, model))

    def push(self, url: str, *, model: SpaceName | None = None, dry_run: bool = False) -> SyncReceipt:
        """Put what is new here into an object store, where `pull` finds it; return what went.

        Nothing there is changed or deleted, so any number of machines may do so at once; what was interrupted
        goes on where it was.

        Args:
            url: `s3://bucket/prefix`, `gs://`, `az://` or `file:///directory`, with the options of
                MirroredStore behind a `?`.
            model: only what is called so, see `prune`.
            dry_run: return what would go; nothing is changed.

        Raises:
            ValueError: another URL; nothing is called so.
            UnsupportedError: the cache keeps no files, as memory and checkpoint managers.
            MissingExtraError: `obstore` is not installed.
            UnreachableError: the object store cannot be reached, or refuses.

        """
        return mirror_of(self.store, url, model).sync(push=True, pull=False, dry_run=dry_run)

    def pull(self, url: str, *, model: SpaceName | None = None, dry_run: bool = False) -> SyncReceipt:
        """Take what is new in an object store, row by row; what was forgotten there is so here.

        Takes, returns and raises what `push` does.
        """
        return mirror_of(self.store, url, model).sync(push=False, pull=True, dry_run=dry_run)

    def sync(self, url: str, *, model: SpaceName | None = None, dry_run: bool = False) -> SyncReceipt:
        """Do `pull` and `push`."""
        return mirror_of(self.store, url, model).sync(push=True, pull=True, dry_run=dry_run)

    def prune(  # noqa: PLR0913 - by name
        self,
        *,
        older_than: timedelta | float | None = None,
        unused_for: timedelta | float | None = None,
        max_bytes: int | None = None,
        model: SpaceName | None = None,
        remote: str | None = None,
        dry_run: bool = False,
    ) -> CleaningReceipt:
        """Drop whole segments, and return what went; other processes may read and write meanwhile.

        Over tiers the bounds hold for each that is kept on disk; memory in front of them bounds itself.

        Args:
            older_than: drop those whose newest row was written longer ago, in seconds or as a timedelta.
            unused_for: drop those in which nothing was found for so long; uses are noted once a day, so
                they go up to a day later.
            max_bytes: then drop the oldest, over all spaces that are chosen, until the rest is no more.
            model: clean only what is called so: a space's name, identity or info, or a model's name
                with all of its spaces.
            remote: the URL of an object store, to clean that instead: after a `sync` and a `compact`, objects
                go of which files here hold all that is not forgotten, and those beyond the bounds, if any.
            dry_run: return what would go; nothing is locked or changed.

        Raises:
            ValueError: no bound or a negative one; nothing is called so.
            UnreachableError: the object store cannot be reached, or refuses.
            UnsupportedError: a store that cannot do it, such as memory; nothing is changed then.
            SpaceBusyError: another process was merging in some spaces; its `receipt` tells of the others.
            OSError: a segment cannot be removed.

        """
        if remote is not None:
            told = {"older_than": older_than, "unused_for": unused_for, "max_bytes": max_bytes}
            return mirror_of(self.store, remote, model).prune(remote_bounds(told), dry_run=dry_run)
        bounds = Bounds.of(older_than=older_than, unused_for=unused_for, max_bytes=max_bytes)
        chosen = spaces.all_meant(self.store, model)
        return cleaning.prune(self.store, bounds, chosen, dry_run=dry_run)

    def compact(self, *, model: SpaceName | None = None) -> CleaningReceipt:
        """Merge the segments of spaces into as few as the limits allow, without forgotten rows and leftovers.

        Those of different ages and number types stay apart. Takes and raises what `prune` does.
        """
        return cleaning.compact(self.store, spaces.all_meant(self.store, model))

    def rm(self, space: SpaceName) -> CleaningReceipt:
        """Remove one space from every tier, and return what went.

        Where something was forgotten in it, an empty space stays with the tombstones. Memory in front of
        it in other processes is not reached.

        Raises:
            ValueError: no space is called so, or several are.
            UnsupportedError: its store cannot list or delete what is in it.
            SpaceBusyError: another process was merging in it.

        """
        return cleaning.remove(self.store, [spaces.meant(self.store, space)])

    def clear(self) -> CleaningReceipt:
        """Remove all spaces, see `rm`."""
        return cleaning.remove(self.store, self.store.spaces())

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

    async def __aenter__(self) -> Self:
        """Return the cache itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it, in a thread."""
        await in_thread("store", self.close)

    def __len__(self) -> int:
        """Count the entries of all spaces; raise UnsupportedError where a store cannot tell."""
        return spaces.count(self.store)

    def __bool__(self) -> bool:
        """Return True: an empty cache is one, too."""
        return True

    def __repr__(self) -> str:
        """Name the store."""
        return f"{type(self).__name__}({self.store!r})"

    def _space(self, name: SpaceName) -> VectorSpace:
        return spaces.unguarded(self.store).space(spaces.meant(self.store, name))

    def _repr_html_(self) -> str:
        rates = self.hit_rates()
        lines = ((each, self.stats(each), rates.get(each, UseStats())) for each in self.store.spaces())
        return table(repr(self), [(_said(each, held), uses) for each, held, uses in lines])


def _said(identity: ModelIdentity, held: SpaceStats) -> list[str]:
    counts = (f"{held.rows:,} rows", f"{held.nbytes:,} bytes", f"D {held.dimension}")
    return [identity.model_name, identity.parameters, *counts]


def open_cache(cache: OneCache | Sequence[OneCache]) -> Cache:
    """Open a cache without a model.

    Args:
        cache: a directory or URL (see `open_store`), a store, a checkpoint manager, a key-value store of
            LangChain or LlamaIndex (see `KeyValueStore`), or a list of these, from fast to slow.

    Raises:
        TypeError: something else.
        ValueError: a manager that is switched off; a path or URL that `open_store` refuses.

    """
    store = as_store(cache)
    if store is None:
        message = f"{cache!r} is switched off, so there is no cache to open"
        raise ValueError(message)
    return Cache(store, owned=store is not cache)
