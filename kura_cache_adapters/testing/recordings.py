"""Recordings of embeddings beside the tests that need them: replayed, recorded, rewritten, compared."""

from __future__ import annotations

import shutil
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kura_cache_adapters._core.modes import PinnedOptions
from kura_cache_adapters._segments.format import row_count
from kura_cache_adapters.cached_embedding import CachedEmbeddingModel
from kura_cache_adapters.checks import check_dimension
from kura_cache_adapters.errors import DimensionMismatchError
from kura_cache_adapters.options import CacheOptions
from kura_cache_adapters.stores.memory import MemorySpace, MemoryStore
from kura_cache_adapters.stores.parquet import ParquetStore

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kura_cache_adapters._segments.space import SegmentSpace
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import Vectors, VectorSpace

REWRITTEN = ".rewritten"
"""Where a run that rewrites keeps what it has embedded, until it ends."""

_ATTRIBUTES = "*.parquet -diff linguist-generated\n"
_IGNORED = f"/{REWRITTEN}/\n.claims/\n"
_CURE = "Record what is missing with: pytest --embeddings=record"
_OPTIONS: dict[str, dict[str, Any]] = {
    "replay": {"on_miss": "raise", "read_only": True},
    "live": {"enabled": False},
}


class Drift(NamedTuple):
    """How far a model's vectors of some texts are from those that were recorded.

    `largest` is the largest absolute difference of two numbers, `cosine` the least of two vectors;
    `unknown` texts had no recording, or one of another dimension.
    """

    model: str
    texts: int
    largest: float
    cosine: float
    unknown: int


class RecordingStore(ParquetStore):
    """A ParquetStore that merges nothing by itself and counts no uses: what is committed is not rewritten."""

    def __init__(self, path: Path) -> None:
        """Name the directory; the umask decides who may read it, as with all that git checks out."""
        super().__init__(path, compression="zstd", shared=True)

    def space(self, identity: ModelIdentity) -> SegmentSpace:
        """Open the space of a model, the same object each time."""
        space = super().space(identity)
        space.merges, space.use_record = False, None
        return space


class Recordings:
    """The recordings in a directory, as one mode uses them."""

    def __init__(self, directory: Path, mode: str) -> None:
        """Open a directory; it is made, and marked for git, only in a mode that records."""
        self._options = _OPTIONS.get(mode, {})
        self._store: RecordingStore | DriftStore
        match mode:
            case "drift":
                self._store = DriftStore(directory)
            case "rewrite":
                self._store = RecordingStore(directory / REWRITTEN)
            case _:
                self._store = RecordingStore(directory)
        if mode in {"record", "rewrite"}:
            _mark(directory)

    def model(
        self,
        model: Any,
        /,
        *,
        options: CacheOptions = CacheOptions(),
        **keywords: Any,
    ) -> CachedEmbeddingModel:
        """Wrap an embedder, see `CachedEmbeddingModel`; the mode of the run overrides that of `options`."""
        given = {each.name: getattr(options, each.name) for each in fields(CacheOptions)}
        modes = {"on_miss": "embed", "refresh": False, "read_only": False, "enabled": True, **self._options}
        pinned = PinnedOptions(**{**given, **modes}, cure=_CURE)
        return CachedEmbeddingModel(model, self._store, options=pinned, **keywords)

    def drifts(self) -> list[Drift]:
        """Return how far each model has drifted; none in other modes."""
        return self._store.drifts() if isinstance(self._store, DriftStore) else []

    def close(self) -> None:
        """Let go of the files."""
        self._store.close()


def files_in(directory: Path) -> set[Path]:
    """List the files of the recordings."""
    return {*directory.glob("*/*.parquet")}


def discard(directory: Path) -> None:
    """Remove what a run that rewrites has left, which was killed before its end."""
    shutil.rmtree(directory / REWRITTEN, ignore_errors=True)


def join(directory: Path, before: set[Path]) -> list[str]:
    """Make one file per model of what was recorded since; say how many embeddings that are."""
    store, new = RecordingStore(directory), files_in(directory) - before
    for space in map(store.space, store.spaces()):
        space.join([path.name for path in new if path.parent == space.path])
    store.close()
    count = sum(row_count(path.name) for path in files_in(directory) - before)
    return [f"{count} recorded in {directory}"] if count else []


def settle(directory: Path, *, whole: bool) -> list[str]:
    """Put what was rewritten in the place of what was recorded; say what was done.

    Of a `whole` run, what nobody has asked for is pruned.
    """
    new, old = RecordingStore(directory / REWRITTEN), RecordingStore(directory)
    keys_of = {identity: [*new.space(identity).keys()] for identity in new.spaces()}
    if not keys_of:
        return []
    before = set[bytes]().union(*(old.space(identity).keys() for identity in old.spaces()))
    rest = len(before.difference(*keys_of.values()))
    if whole:
        for space in map(old.space, old.spaces()):
            shutil.rmtree(space.path)
        old = RecordingStore(directory)
    told = [_move(keys, new.space(identity), old.space(identity)) for identity, keys in keys_of.items()]
    new.close()
    discard(directory)
    if rest:
        why = "no test has asked for them"
        why = why if whole else f"{why}, and only a run of all, without failures or skips, prunes"
        told.append(f"{rest} {'pruned' if whole else 'left'}: {why}")
    return told


def _move(keys: list[bytes], source: SegmentSpace, target: SegmentSpace) -> str:
    """Put vectors in the place of known ones; these are forgotten first, so that no tombstone stays."""
    hits = source.get_many(keys)
    keys = [keys[at] for at in hits.positions]
    known = target.get_many(keys)
    try:
        check_dimension(known.vectors.shape[1] or None, hits.vectors, str(target.path))
        target.delete_many([keys[at] for at in known.positions])
        target.put_many(keys, hits.vectors)
    except DimensionMismatchError as error:
        return f"Not rewritten: {error}. Run all tests, or delete that directory"
    if name := source.answerer():
        target.note_answerer(name)
    return f"{len(keys)} rewritten in {target.path}"


def tell(drifts: Iterable[tuple[Any, ...]]) -> list[str]:
    """Say how far models have drifted."""
    return [
        f"{drift.model}: {drift.texts} embedded, {drift.unknown} of them not recorded; largest difference "
        f"{drift.largest:.3g}, least cosine {drift.cosine:.9f}"
        for drift in sum_up(Drift(*each) for each in drifts)
    ]


def _mark(directory: Path) -> None:
    """Make the directory of recordings, and tell git what is in it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in ((".gitattributes", _ATTRIBUTES), (".gitignore", _IGNORED)):
        if not (directory / name).exists():
            (directory / name).write_text(content)


class DriftStore(MemoryStore):
    """A store in memory that compares what is embedded with what was recorded."""

    def __init__(self, directory: Path) -> None:
        """Name the recordings; they are only read."""
        super().__init__()
        self._recorded = RecordingStore(directory)
        self.seen: list[Drift] = []  # of each batch

    def space(self, identity: ModelIdentity) -> MemorySpace:
        """Open the space of a model, the same object each time."""
        with self.locked():
            recorded = self._recorded.space(identity).quiet()
            return self._spaces.setdefault(identity, _DriftSpace(self, identity.model_name, recorded))

    def drifts(self) -> list[Drift]:
        """Return how far each model has drifted."""
        return sum_up(self.seen)


class _DriftSpace(MemorySpace):
    def __init__(self, store: DriftStore, model: str, recorded: VectorSpace) -> None:
        super().__init__(store)
        self._drift_store, self._model, self._recorded = store, model, recorded

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:
        """Compare vectors, and keep them for this run."""
        wanted = list(keys)
        self._drift_store.seen.append(self._compared(wanted, vectors))
        super().put_many(wanted, vectors, durable=durable)

    def _compared(self, keys: list[bytes], vectors: Vectors) -> Drift:
        hits = self._recorded.get_many(keys)
        if not len(hits.positions) or hits.vectors.shape[1] != vectors.shape[1]:
            return Drift(self._model, len(keys), 0.0, 1.0, len(keys))
        now, then = vectors[hits.positions].astype(np.float64), hits.vectors.astype(np.float64)
        lengths = np.linalg.norm(now, axis=1) * np.linalg.norm(then, axis=1)
        products = (now * then).sum(axis=1)
        cosines = np.divide(products, lengths, out=np.ones_like(products), where=lengths > 0)
        largest, cosine = float(np.abs(now - then).max()), float(cosines.min())
        return Drift(self._model, len(keys), largest, cosine, len(keys) - len(now))


def sum_up(drifts: Iterable[Drift]) -> list[Drift]:
    """Make one of all drifts of a model."""
    models: dict[str, list[Drift]] = {}
    for drift in drifts:
        models.setdefault(drift.model, []).append(drift)
    return [
        Drift(
            model,
            sum(each.texts for each in some),
            max(each.largest for each in some),
            min(each.cosine for each in some),
            sum(each.unknown for each in some),
        )
        for model, some in models.items()
    ]
