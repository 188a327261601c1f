"""LangChain's own standard tests for embeddings and for stores of bytes, run against the adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("langchain_tests", reason="LangChain's standard tests are not installed")

from langchain_tests.integration_tests import (
    BaseStoreAsyncTests,
    BaseStoreSyncTests,
    EmbeddingsIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    LangChainByteStore,
    LangChainCachedEmbeddings,
    MemoryStore,
    TieredStore,
)
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_core.embeddings import Embeddings

    from kura_cache_adapters import EmbeddingStore


def parameters() -> dict[str, Any]:
    return {"model": CachedEmbeddingModel(FakeEmbeddingModel(), MemoryStore())}


class TestUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return LangChainCachedEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return parameters()


class TestIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return LangChainCachedEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return parameters()


@pytest.fixture(params=["arrow", "memory", "tiers"])
def byte_store(request: Any, tmp_path: Path) -> LangChainByteStore:
    """Open one of the stores as LangChain's."""
    disk, memory = ArrowStore(tmp_path), MemoryStore()
    stores: dict[str, EmbeddingStore] = {"arrow": disk, "memory": memory, "tiers": TieredStore(memory, disk)}
    return LangChainByteStore(stores[request.param])


THREE = (b"", bytes(range(256)) * 20, "grün".encode())


class TestByteStore(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def kv_store(self, byte_store: LangChainByteStore) -> LangChainByteStore:
        return byte_store

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return THREE


class TestAsyncByteStore(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    async def kv_store(self, byte_store: LangChainByteStore) -> LangChainByteStore:
        return byte_store

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return THREE
