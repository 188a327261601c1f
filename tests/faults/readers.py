"""Every reader as a function of bytes, for fuzzing: it answers as documented, or an assertion fails."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters.errors import CheckpointError
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.damage import GROUPS, contents, segments
from tests.faults.fault_lab import FORMATS, MANAGERS, WAYS, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = GROUPS[0]


class Record(BaseModel):
    """What a checkpoint holds."""

    name: str
    scores: list[float]
    more: Any = None


RECORDS = [Record(name=f"n{at}", scores=[at / 3], more={"a": [at, "b"]}) for at in range(6)]
CHECKPOINTS = {
    "JSONL manager": "one.jsonl",
    "Parquet manager": "one.parquet",
    "HF manager": "one/data-00000-of-00001.arrow",
}


@cache
def cached_in(way: str) -> tuple[Path, bytes]:
    """Make a cache of one segment; return the file with its rows, and its content."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-"))
    ledger = Ledger(way, path, "")
    ledger.ask(ledger.open(), TEXTS)
    (segment,) = segments(path)
    file = contents(segment)[0]
    return file, file.read_bytes()


def segment(way: str, content: bytes) -> None:
    """Read bytes as a segment: a vector that is found is the model's, and nothing is raised."""
    file, _ = cached_in(way)
    file.write_bytes(content)
    root = next(parent for parent in file.parents if parent.name.startswith("fuzz-"))
    store, model = WAYS[way](root), FakeEmbeddingModel()
    (space,) = map(store.space, store.spaces())
    cached = CachedEmbeddingModel(model)
    hits = space.get_many([bytes.fromhex(cached.cache_key(text)) for text in TEXTS])
    right = model.array([TEXTS[at] for at in hits.positions])
    assert hits.vectors.shape in {right.shape, (0, 0)}
    assert hits.vectors.tobytes() == right.tobytes()


@cache
def saved_in(way: str) -> tuple[Path, bytes]:
    """Save a checkpoint; return its file and its content."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-"))
    WAYS[way](path).save_checkpoint("one", RECORDS)
    (path / "one" / "data.sha256").unlink(missing_ok=True)
    file = path / CHECKPOINTS[way]
    return file, file.read_bytes()


def checkpoint(way: str, content: bytes) -> None:
    """Read bytes as a checkpoint: records, or a CheckpointError."""
    file, _ = saved_in(way)
    file.write_bytes(content)
    root = next(parent for parent in file.parents if parent.name.startswith("fuzz-"))
    try:
        loaded = WAYS[way](root).load_checkpoint("one", Record)
    except CheckpointError:
        return
    assert loaded is not None
    assert all(isinstance(record, Record) for record in loaded)


def identity(content: bytes) -> None:
    """Read bytes as an identity: what is one reads back as itself, anything else is a ValueError."""
    try:
        decoded = ModelIdentity.from_json(content)
    except ValueError:
        return
    assert ModelIdentity.from_json(decoded.to_json()) == decoded


def _bound(function: Callable[[str, bytes], None], way: str) -> Callable[[bytes], None]:
    return lambda content: function(way, content)


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], bytes]]] = {
    "identity": (identity, lambda: ModelIdentity.of("m", {"a": [1, 2.5]}, {"b": None}).to_json().encode()),
    **{way: (_bound(segment, way), lambda way=way: cached_in(way)[1]) for way in FORMATS},  # type: ignore[misc]
    **{
        way: (_bound(checkpoint, way), lambda way=way: saved_in(way)[1])  # type: ignore[misc]
        for way in MANAGERS
        if way in WAYS and way in CHECKPOINTS
    },
}
"""What reads bytes, and a real file to begin with."""
