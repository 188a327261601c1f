"""LangChain's own standard tests for embeddings, run against the adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("langchain_tests", reason="LangChain's standard tests are not installed")

from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from kura_cache_adapters import CachedEmbeddingModel, LangChainCachedEmbeddings, MemoryStore
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings


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
