"""Every store keeps the contract of stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kura_cache_adapters.checkpoints import (
    JSONLCheckpointManager,
)
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
