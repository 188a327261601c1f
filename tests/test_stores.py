"""Every store keeps the contract of stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from kura_cache_adapters import open_store
from kura_cache_adapters.checkpoints import JSONLCheckpointManager
from kura_cache_adapters.stores import (
    ArrowStore,
    CheckpointStore,
    HFDatasetStore,
    JSONLStore,
    MemoryStore,
    ParquetStore,
    TieredStore,
)
from kura_cache_adapters.testing import StoreContract
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kura_cache_adapters.protocols import EmbeddingStore


class TestArrowStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: ArrowStore(tmp_path / "cache")


class TestParquetStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: ParquetStore(tmp_path / "cache")


class TestCompressedParquetStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: ParquetStore(tmp_path / "cache", compression="zstd")


class TestJSONLStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: JSONLStore(tmp_path / "cache")


class TestHFDatasetStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        pytest.importorskip("datasets", reason="needs the extra `datasets`")
        return lambda: HFDatasetStore(tmp_path / "cache")


class TestMemoryStore(StoreContract):
    persistent = False

    @pytest.fixture
    def open_store(self) -> Callable[[], EmbeddingStore]:
        return MemoryStore


class TestTieredStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: TieredStore(MemoryStore(), ArrowStore(tmp_path / "cache"))


class TestCheckpointStore(StoreContract):
    counts_spaces = False
    examples = 5

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: CheckpointStore(JSONLCheckpointManager(tmp_path / "cache"))


@pytest.mark.parametrize("scheme", ["arrow", "jsonl"])
def test_what_is_let_go_while_it_is_read_is_read_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A look-up of much lets the file's pages go; they come back as they were."""
    monkeypatch.setattr("kura_cache_adapters.stores.search._MANY_BYTES", 1)
    numbers = list(range(3000))
    for half in (numbers[::2], numbers[1::2]):
        open_store(f"{scheme}://{tmp_path}").space(IDENTITY).put_many(map(key_of, half), vectors_of(half))
    space = open_store(f"{scheme}://{tmp_path}").space(IDENTITY)
    for _ in range(2):
        hits = space.get_many(map(key_of, [*numbers, 5000]))
        assert hits.positions.tolist() == numbers
        assert np.array_equal(hits.vectors, vectors_of(numbers))
