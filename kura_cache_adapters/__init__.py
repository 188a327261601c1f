"""Embed each text once: a cache for the embedding models of Kura, LangChain and LlamaIndex."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kura_cache_adapters.cached_embedding import CachedEmbeddingModel, CacheOptions
from kura_cache_adapters.errors import (
    CheckpointError,
    DimensionMismatchError,
    KuraCacheError,
    MissingExtraError,
    VectorCountError,
)
from kura_cache_adapters.protocols import (
    BaseCheckpointManager,
    BaseEmbeddingModel,
    EmbeddingStore,
    VectorSpace,
)
from kura_cache_adapters.stores import open_store
from kura_cache_adapters.tally import CacheStats

if TYPE_CHECKING:
    from kura_cache_adapters.checkpoints import (
        HFDatasetCheckpointManager,
        JSONLCheckpointManager,
        MultiCheckpointManager,
        ParquetCheckpointManager,
    )
    from kura_cache_adapters.embedding import (
        CallableEmbeddingModel,
        OpenAIEmbeddingModel,
        SentenceTransformerEmbeddingModel,
    )
    from kura_cache_adapters.kura import summarise_conversations
    from kura_cache_adapters.stores import (
        ArrowStore,
        HFDatasetStore,
        JSONLStore,
        MemoryStore,
        ParquetStore,
        TieredStore,
    )
    from kura_cache_adapters.stores.checkpoint import CachedEmbedding

__version__ = "0.1.0"

__all__ = [
    "ArrowStore",
    "BaseCheckpointManager",
    "BaseEmbeddingModel",
    "CacheOptions",
    "CacheStats",
    "CachedEmbedding",
    "CachedEmbeddingModel",
    "CallableEmbeddingModel",
    "CheckpointError",
    "DimensionMismatchError",
    "EmbeddingStore",
    "HFDatasetCheckpointManager",
    "HFDatasetStore",
    "JSONLCheckpointManager",
    "JSONLStore",
    "KuraCacheError",
    "MemoryStore",
    "MissingExtraError",
    "MultiCheckpointManager",
    "OpenAIEmbeddingModel",
    "ParquetCheckpointManager",
    "ParquetStore",
    "SentenceTransformerEmbeddingModel",
    "TieredStore",
    "VectorCountError",
    "VectorSpace",
    "open_store",
    "summarise_conversations",
]


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - public names, imported when first used
    for room in ("stores", "stores.checkpoint", "checkpoints", "embedding", "kura"):
        if name in __all__ and hasattr(module := import_module(f"{__name__}.{room}"), name):
            return getattr(module, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
