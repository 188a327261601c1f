"""The guard around a store on a server: its deadlines, its circuit, its backlog, and lists of caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import pytest

from kura_cache_adapters import ArrowStore, MemoryStore, Remote
from kura_cache_adapters.testing import StoreContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kura_cache_adapters.protocols import EmbeddingStore


class TestWrittenThrough(StoreContract):
    write: ClassVar[Literal["behind", "through"]] = "through"

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: Remote(ArrowStore(tmp_path / "cache"), write=self.write)


class TestMemoryWrittenThrough(TestWrittenThrough):
    persistent = False

    @pytest.fixture
    def open_store(self) -> Callable[[], EmbeddingStore]:
        return lambda: Remote(MemoryStore(), write=self.write)


class TestMemoryWrittenBehind(TestMemoryWrittenThrough):
    write = "behind"


class TestWrittenBehind(TestWrittenThrough):
    write = "behind"
