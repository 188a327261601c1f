"""Lab: a cache under a fault, and what counts afterwards: acknowledged, lost, wrong, raised."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    CacheOptions,
    HFDatasetCheckpointManager,
    HFDatasetStore,
    JSONLCheckpointManager,
    JSONLStore,
    MemoryStore,
    MultiCheckpointManager,
    ParquetCheckpointManager,
    ParquetStore,
    TieredStore,
)
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


STORES: dict[str, Callable[[Path], Any]] = {
    "arrow": ArrowStore,
    "parquet": ParquetStore,
    "parquet-zstd": lambda path: ParquetStore(path, compression="zstd"),
    "jsonl": JSONLStore,
    "hf": HFDatasetStore,
}
"""Every format of a store on disk, by the name that the tables give it."""

MANAGERS: dict[str, Callable[[Path], Any]] = {
    "JSONL manager": JSONLCheckpointManager,
    "Parquet manager": ParquetCheckpointManager,
    "HF manager": HFDatasetCheckpointManager,
    "Multi manager": lambda path: MultiCheckpointManager(
        [JSONLCheckpointManager(path / "one"), ParquetCheckpointManager(path / "two")]
    ),
}
"""Every manager of ours, as a cache."""

TIERS: dict[str, Callable[[Path], Any]] = {
    "memory, arrow": lambda path: TieredStore(MemoryStore(), ArrowStore(path)),
}

WAYS = {
    name: way
    for name, way in {**STORES, **MANAGERS, **TIERS}.items()
    if find_spec("datasets") or not name.lower().startswith("hf")
}
FORMATS = [name for name in STORES if name in WAYS]


@dataclass
class Outcome:
    """One line of the table: what became of what was acknowledged under a fault, in so many rounds.

    Lost: acknowledged, then a miss. Wrong: any vector that is not the model's. Raised: an exception
    that is not the model's own. Stuck: afterwards, new entries were not taken or not found.
    """

    fault: str
    way: str
    rounds: int = 0
    acknowledged: int = 0
    lost: int = 0
    wrong: int = 0
    raised: int = 0
    stuck: int = 0

    def __add__(self, other: Outcome) -> Outcome:
        """Add up two outcomes of one fault."""
        counts = [self.rounds, self.acknowledged, self.lost, self.wrong, self.raised, self.stuck]
        others = [other.rounds, other.acknowledged, other.lost, other.wrong, other.raised, other.stuck]
        return Outcome(self.fault, self.way, *(a + b for a, b in zip(counts, others, strict=True)))

    @property
    def good(self) -> bool:
        """Tell whether every promise was kept."""
        return not (self.lost or self.wrong or self.raised or self.stuck)


TABLE: dict[tuple[str, str], Outcome] = {}
"""All outcomes of this run; tests/faults/conftest.py writes them down."""


@dataclass
class Ledger:
    """A cache at a path that is opened anew as often as wanted, and what it has acknowledged.

    `damaging` says that the fault destroys what is stored: then a miss is no loss.
    """

    way: str
    path: Path
    fault: str
    damaging: bool = False
    model_name: str = "fake"
    dimension: int = 8
    acknowledged: set[str] = field(default_factory=set)
    outcome: Outcome = field(init=False)
    audits: int = 0

    def __post_init__(self) -> None:
        self.outcome = Outcome(self.fault, self.way)

    def open(self, options: CacheOptions | None = None) -> CachedEmbeddingModel:
        """Open the cache as a new process would, around a model of its own."""
        model = FakeEmbeddingModel(self.model_name, dimension=self.dimension)
        cache = WAYS[self.way](self.path)
        return CachedEmbeddingModel(model, cache, options=options or CacheOptions())

    def ask(self, cached: CachedEmbeddingModel, texts: list[str]) -> None:
        """Embed texts; what comes back is checked and counts as acknowledged."""
        try:
            vectors = cached.embed_array_sync(texts)
        except Exception:  # noqa: BLE001 - a cache never breaks the program: none is allowed
            self.outcome.raised += 1
            return
        self.outcome.wrong += self.count_wrong(texts, vectors)
        self.acknowledged.update(texts)

    def count_wrong(self, texts: list[str], vectors: Any) -> int:
        """Count the vectors that are not the model's, bit for bit."""
        right = FakeEmbeddingModel(self.model_name, dimension=self.dimension).array(texts)
        given = np.asarray(vectors, right.dtype)
        if given.shape != right.shape:
            return len(texts)
        return int((given.view(np.uint32) != right.view(np.uint32)).any(axis=1).sum())

    def audit(self, acknowledged: Iterable[str] = ()) -> Outcome:
        """Open the cache anew, look for all that was acknowledged, then store and find something new.

        The outcome is added to the table and returned.
        """
        self.acknowledged.update(acknowledged)
        expected = sorted(self.acknowledged)
        self.outcome.rounds += 1
        self.outcome.acknowledged += len(expected)
        fresh = self.open()
        if expected:
            self.ask(fresh, expected)
        if not self.damaging:
            self.outcome.lost += len(_fake(fresh).texts)
        self._store_and_find()
        key = (self.fault, self.way)
        TABLE[key] = TABLE.get(key, Outcome(*key)) + self.outcome
        outcome, self.outcome = self.outcome, Outcome(*key)
        return outcome

    def _store_and_find(self) -> None:
        self.audits += 1
        new = [f"new {number} of audit {self.audits}" for number in range(3)]
        self.ask(self.open(), new)
        second = self.open()
        self.ask(second, new)
        self.outcome.stuck += bool(_fake(second).texts)
        self.acknowledged.difference_update(new)


def _fake(cached: CachedEmbeddingModel) -> FakeEmbeddingModel:
    model = cached.embedding_model
    assert isinstance(model, FakeEmbeddingModel)
    return model
