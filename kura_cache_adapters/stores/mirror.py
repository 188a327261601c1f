"""MirroredStore: a directory of segments with a mirror in an object store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._mirror.bucket import SCHEMES, Bucket, is_space
from kura_cache_adapters._mirror.counts import Counts
from kura_cache_adapters._mirror.directory import DirectoryMirror
from kura_cache_adapters._mirror.keeper import Keeper, settle
from kura_cache_adapters._mirror.space import SpaceMirror
from kura_cache_adapters._runtime.threads import LONGEST
from kura_cache_adapters._segments.bounds import Bounds
from kura_cache_adapters._segments.directory import SegmentStore
from kura_cache_adapters._segments.space import SegmentSpace
from kura_cache_adapters.errors import UnsupportedError, require
from kura_cache_adapters.receipts import KEPT_DAYS, Trouble
from kura_cache_adapters.stores.spaces import all_meant
from kura_cache_adapters.stores.url_options import read_options

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from kura_cache_adapters._observe.events import Observer
    from kura_cache_adapters._observe.tiers import MirrorStats, TierStats
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore, Hits, Vectors
    from kura_cache_adapters.receipts import Forgotten
    from kura_cache_adapters.spaces import SpaceName

_MANY = 128  # segments: then they are merged, though they were not pushed yet
_STAYS = "objects that hold it stay until `kura-cache prune --remote` is run; they are hidden everywhere"


class MirroredStore(SegmentStore):
    """A local directory that pushes what is written and pulls what others have pushed, in the background."""

    def __init__(  # noqa: PLR0913 - by name
        self,
        local: SegmentStore,
        url: str,
        *,
        anonymous: bool = False,
        endpoint: str | None = None,
        region: str | None = None,
        push: bool = True,
        every: float = 60.0,
        wait: float = 30.0,
    ) -> None:
        """Name a directory and its mirror; the object store is reached by the first use.

        Args:
            local: an Arrow, Parquet or JSONL store; what is written is there before anything else.
            url: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`.
                Credentials are where the tools of each store look for them: in the environment.
            anonymous: send no credentials, as forks of a public project do.
            endpoint: of a server that speaks S3's or Azure's language, as `https://minio.example:9000`.
            region: of an S3 bucket.
            push: give what is written here; without, it is only taken what is there.
            every: seconds after which a look-up has the mirror looked at again, in the background.
            wait: seconds that the first look-up waits for what is there.

        Raises:
            TypeError: a store that keeps no segments.
            ValueError: a URL of another kind, datasets, which are directories, a negative or endless time.
            MissingExtraError: `obstore` is not installed.

        """
        _refuse_local(local, url)
        if not (every >= 0 and 0 <= wait < LONGEST):
            message = f"{every=} and {wait=} must not be negative, and to wait must end"
            raise ValueError(message)
        require("obstore", extra="object-store")
        super().__init__(local.path, local.format)
        self._upkeep = local._upkeep  # noqa: SLF001 - it is the same directory, within the same bounds
        self.bucket: Bucket = Bucket(url, anonymous=anonymous, endpoint=endpoint, region=region)
        self._counts = Counts(repr(self))
        self._push, self._every, self._wait = push, every, wait

    @property
    def counts(self) -> MirrorStats:
        """What went up and came down in this process, and what failed."""
        return self._counts.stats

    def tier_stats(self) -> tuple[TierStats, ...]:
        """Tell the same as that of a tier, see `TierStats`."""
        return (self._counts.tier(),)

    def _open(self, identity: ModelIdentity) -> MirroredSpace:
        return MirroredSpace(self, identity)

    def forget(
        self, keys: Sequence[bytes], *, days: float, within: Collection[ModelIdentity] | None
    ) -> list[Forgotten]:
        """Forget keys in every space here, and in those of some models that are only there yet."""
        for space in map(self.space, within or ()):
            space.quiet()  # which pulls
        return super().forget(keys, days=days, within=within)

    def close(self) -> None:
        """Wait a moment for what is being pushed, and let go of all mapped files."""
        settle([space.keeper for space in [*self._spaces.values()] if isinstance(space, MirroredSpace)])
        super().close()

    def __repr__(self) -> str:
        """Name the class, the directory and the mirror."""
        return f"{type(self).__name__}({str(self.path)!r}, {self.bucket.url!r})"


class MirroredSpace(SegmentSpace):
    """One model's segments, here and there."""

    def __init__(self, store: MirroredStore, identity: ModelIdentity) -> None:
        """Open the space of a model in a store."""
        super().__init__(store.path / identity.directory, identity, store.format, store._upkeep)  # noqa: SLF001
        self._pushes, self._url = store._push, store.bucket.url  # noqa: SLF001
        mirror = SpaceMirror(
            store.bucket,
            self.path,
            store.format,
            patience=2 * store._wait,  # noqa: SLF001
            most=_room(store),
        )
        times = {"every": store._every, "wait": store._wait}  # noqa: SLF001
        self._counts = store._counts  # noqa: SLF001
        self.keeper: Keeper = Keeper(mirror, self._counts, merge=self.merge_due, pushes=self._pushes, **times)

    def watch(self, observer: Observer) -> None:
        """Tell an observer, for as long as it lives, when the object store is not reached, or is again."""
        self._counts.watchers.add(observer)

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Look keys up here, where by now is what was there."""
        self.keeper.ready()
        return super().get_many(keys)

    def glance(self, keys: list[bytes]) -> Hits | None:
        """Find all keys in the open segments, if nobody needs to be asked."""
        return super().glance(keys) if self.keeper.at_hand else None

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:
        """Write one new segment here, and push it soon: as it is, it need not be pushed again when merged."""
        self.merges: bool = not self._pushes or len(self._listing.names) > _MANY
        super().put_many(keys, vectors, durable=durable)
        self.keeper.written()

    def delete_many(self, keys: Iterable[bytes], *, days: float = KEPT_DAYS) -> int:
        """Forget keys here, and soon wherever this mirror is pulled."""
        try:
            return super().delete_many(keys, days=days)
        finally:
            self.keeper.written()

    def forget(self, keys: Collection[bytes], *, days: float = KEPT_DAYS) -> Forgotten:
        """Forget keys here, and tell that the mirror's objects stay, or may hold what is not here."""
        self.keeper.ready()
        done = super().forget(keys, days=days)
        self.keeper.written()
        left = (Trouble(self._url, _STAYS),) if done.keys or self.keeper.may_lack else ()
        return replace(done, unreachable=(*done.unreachable, *left))

    def quiet(self) -> SegmentSpace:
        """Return this space as one whose look-ups stamp no file as used, after what was there was pulled."""
        self.keeper.ready()
        return super().quiet()


def mirrored_at(local: object, url: str) -> MirroredStore:
    """Mirror a store at a URL with options behind a `?`, as it stands behind it in a list of caches."""
    base, options = _read(url)
    return MirroredStore(_refuse_local(local, base), base, **options)


def mirror_of(store: EmbeddingStore, url: str, model: SpaceName | None) -> DirectoryMirror:
    """Pair a store's directory, or a model in it, with a URL, options included.

    Raises UnsupportedError where the store has none, ValueError for another URL or a name of nothing.
    """
    base, options = _read(url)
    found = next((each for each in _tiers(store) if isinstance(each, SegmentStore)), None)
    if found is None:
        message = f"{store!r} keeps no files that could be pushed or pulled: say which directory"
        raise UnsupportedError(message)
    _refuse_local(found, base)
    kept = {name: options[name] for name in ("anonymous", "endpoint", "region") if name in options}
    return DirectoryMirror(found.path, found.format, Bucket(base, **kept), _named(store, model), _room(found))


def _room(local: SegmentStore) -> int | None:
    return local._upkeep.bounds.max_bytes  # noqa: SLF001 - what is pulled is kept within it, too


def remote_bounds(told: dict[str, Any]) -> Bounds:
    """Take the bounds of objects, or none; raise ValueError for what an object store does not tell."""
    if told["unused_for"] is not None:
        message = "an object store does not tell what was used: say older_than= or max_bytes="
        raise ValueError(message)
    return Bounds() if set(told.values()) == {None} else Bounds.of(**told)


def _named(store: EmbeddingStore, model: SpaceName | None) -> frozenset[str] | None:
    """Return the names of the spaces that are meant; one that is called by its own may be there alone."""
    if model is None or (isinstance(model, str) and is_space(model)):
        return None if model is None else frozenset([model])
    return frozenset(identity.directory for identity in all_meant(store, model))


def _tiers(store: Any) -> list[Any]:  # noqa: ANN401 - of any origin
    return [leaf for tier in store.stores for leaf in _tiers(tier)] if hasattr(store, "stores") else [store]


def _read(url: str) -> tuple[str, dict[str, Any]]:
    base, question, query = url.partition("?")
    scheme = base.partition("://")[0]
    if scheme not in SCHEMES:
        message = "no object store is meant by this: write s3://bucket/prefix, gs://, az:// or file://"
        raise ValueError(message)
    return base, read_options(scheme, MirroredStore, query if question else None)


def _refuse_local(local: object, url: str) -> SegmentStore:
    scheme = url.partition("://")[0]
    if not isinstance(local, SegmentStore):
        message = (
            f"{scheme}:// mirrors the directory before it, and {type(local).__name__} is none: "
            f'write ["./cache", "{scheme}://..."]'
        )
        raise TypeError(message)
    if local.format.suffix == ".hf":
        message = (
            f"{scheme}:// takes single files, and datasets are directories: "
            "mirror an arrow:// or parquet:// cache, into which `kura-cache convert` copies this one"
        )
        raise ValueError(message)
    return local
