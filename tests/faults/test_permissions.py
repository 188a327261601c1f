"""Who may read what is stored: its owner alone, under any umask, unless the user shares it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    HFDatasetCheckpointManager,
    HFDatasetStore,
    JSONLCheckpointManager,
    JSONLStore,
    MultiCheckpointManager,
    ParquetCheckpointManager,
    ParquetStore,
)
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.fault_lab import MANAGERS, WAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UMASKS = [0o000, 0o002, 0o022, 0o077]
MERGES = 9
SHARED: dict[str, Callable[[Path], Any]] = {
    "arrow": lambda path: ArrowStore(path, shared=True),
    "parquet": lambda path: ParquetStore(path, shared=True),
    "parquet-zstd": lambda path: ParquetStore(path, compression="zstd", shared=True),
    "jsonl": lambda path: JSONLStore(path, shared=True),
    "hf": lambda path: HFDatasetStore(path, shared=True),
    "JSONL manager": lambda path: JSONLCheckpointManager(path, shared=True),
    "Parquet manager": lambda path: ParquetCheckpointManager(path, shared=True),
    "HF manager": lambda path: HFDatasetCheckpointManager(path, shared=True),
    "Multi manager": lambda path: MultiCheckpointManager(
        [
            JSONLCheckpointManager(path / "one", shared=True),
            ParquetCheckpointManager(path / "two", shared=True),
        ]
    ),
}


class Record(BaseModel):
    text: str


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def fill(way: str, opened: Any) -> None:
    """Store durably, merge, and save a checkpoint where there are any."""
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), opened)
    for number in range(MERGES):
        cached.embed_sync([f"text {number}"])
    assert cached.stats.stored == MERGES
    if way in MANAGERS:
        opened.save_checkpoint("records", [Record(text="a")])
        opened.save_checkpoint("records", [Record(text="b")])


def modes(path: Path) -> set[tuple[str, int]]:
    found = [path, *path.rglob("*")]
    assert len(found) > 3
    return {("directory" if each.is_dir() else "file", each.stat().st_mode & 0o777) for each in found}


@pytest.mark.parametrize("mask", UMASKS)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_stored_is_its_owners_alone_under_any_umask(way: str, mask: int, tmp_path: Path) -> None:
    with umask(mask):
        fill(way, WAYS[way](tmp_path / "new" / "cache"))
    assert modes(tmp_path / "new") == {("directory", 0o700), ("file", 0o600)}


@pytest.mark.parametrize("mask", UMASKS)
@pytest.mark.parametrize("way", [way for way in SHARED if way in WAYS])
def test_what_is_shared_is_as_the_umask_says(way: str, mask: int, tmp_path: Path) -> None:
    with umask(mask):
        fill(way, SHARED[way](tmp_path / "new" / "cache"))
    assert modes(tmp_path / "new") == {("directory", 0o777 & ~mask), ("file", 0o666 & ~mask)}


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o750)
    fill("arrow", ArrowStore(tmp_path / "cache"))
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o750
