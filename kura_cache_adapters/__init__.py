"""Embed each text once: a cache for the embedding models of Kura, LangChain and LlamaIndex."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kura_cache_adapters._runtime.lazy import lazy

if TYPE_CHECKING:
    from kura_cache_adapters._adopt.adopting import Adopted
    from kura_cache_adapters._core.explain import Explanation
    from kura_cache_adapters._core.plan import Plan
    from kura_cache_adapters._guard.breaker import Breaker
    from kura_cache_adapters._observe.counters import CacheStats
    from kura_cache_adapters._observe.events import (
        Embedded,
        Event,
        Failed,
        Guarded,
        LookedUp,
        Observer,
        Stored,
    )
    from kura_cache_adapters._observe.tiers import MirrorStats, TierStats
    from kura_cache_adapters._observe.uses import UseStats
    from kura_cache_adapters.cache import Cache, open_cache
    from kura_cache_adapters.cached_embedding import CachedEmbeddingModel
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
    from kura_cache_adapters.errors import (
        AnswerError,
        CacheMissError,
        CheckpointError,
        DimensionMismatchError,
        IdentityError,
        KuraCacheError,
        MissingExtraError,
        ReentryError,
        RefusedTextsError,
        RegistrationError,
        SpaceBusyError,
        UnreachableError,
        UnsupportedError,
        VectorCountError,
    )
    from kura_cache_adapters.kura import summarise_conversations as summarise_conversations
    from kura_cache_adapters.langchain import LangChainByteStore as LangChainByteStore
    from kura_cache_adapters.langchain import LangChainCachedEmbeddings as LangChainCachedEmbeddings
    from kura_cache_adapters.langchain import LangChainEmbeddingModel as LangChainEmbeddingModel
    from kura_cache_adapters.llama_index import LlamaIndexCachedEmbedding as LlamaIndexCachedEmbedding
    from kura_cache_adapters.llama_index import LlamaIndexEmbeddingModel as LlamaIndexEmbeddingModel
    from kura_cache_adapters.options import CacheOptions
    from kura_cache_adapters.protocols import (
        BaseCheckpointManager,
        BaseEmbeddingModel,
        EmbeddingStore,
        VectorSpace,
    )
    from kura_cache_adapters.receipts import Drift, Receipt, Report, SyncReceipt
    from kura_cache_adapters.spaces import CleaningReceipt, SpaceInfo
    from kura_cache_adapters.stores import (
        ArrowStore,
        HFDatasetStore,
        JSONLStore,
        KeyValueStore,
        MemoryStore,
        MirroredStore,
        ParquetStore,
        PostgresStore,
        RedisStore,
        Remote,
        TieredStore,
        open_store,
    )
    from kura_cache_adapters.stores.records import CachedEmbedding

__version__ = "0.1.0"

__all__ = [
    "Adopted",
    "AnswerError",
    "ArrowStore",
    "BaseCheckpointManager",
    "BaseEmbeddingModel",
    "Breaker",
    "Cache",
    "CacheMissError",
    "CacheOptions",
    "CacheStats",
    "CachedEmbedding",
    "CachedEmbeddingModel",
    "CallableEmbeddingModel",
    "CheckpointError",
    "CleaningReceipt",
    "DimensionMismatchError",
    "Drift",
    "Embedded",
    "EmbeddingStore",
    "Event",
    "Explanation",
    "Failed",
    "Guarded",
    "HFDatasetCheckpointManager",
    "HFDatasetStore",
    "IdentityError",
    "JSONLCheckpointManager",
    "JSONLStore",
    "KeyValueStore",
    "KuraCacheError",
    "LookedUp",
    "MemoryStore",
    "MirrorStats",
    "MirroredStore",
    "MissingExtraError",
    "MultiCheckpointManager",
    "Observer",
    "OpenAIEmbeddingModel",
    "ParquetCheckpointManager",
    "ParquetStore",
    "Plan",
    "PostgresStore",
    "Receipt",
    "RedisStore",
    "ReentryError",
    "RefusedTextsError",
    "RegistrationError",
    "Remote",
    "Report",
    "SentenceTransformerEmbeddingModel",
    "SpaceBusyError",
    "SpaceInfo",
    "Stored",
    "SyncReceipt",
    "TierStats",
    "TieredStore",
    "UnreachableError",
    "UnsupportedError",
    "UseStats",
    "VectorCountError",
    "VectorSpace",
    "open_cache",
    "open_store",
]


# Imported when first used; those that need a framework are not in a star import.
_HOMES = {
    "_adopt.adopting": "Adopted",
    "_guard.breaker": "Breaker",
    "_core.explain": "Explanation",
    "_core.plan": "Plan",
    "_observe.counters": "CacheStats",
    "_observe.events": "Embedded Event Failed Guarded LookedUp Observer Stored",
    "_observe.tiers": "MirrorStats TierStats",
    "_observe.uses": "UseStats",
    "cache": "Cache open_cache",
    "cached_embedding": "CachedEmbeddingModel",
    "errors": (
        "AnswerError CacheMissError CheckpointError DimensionMismatchError IdentityError KuraCacheError "
        "MissingExtraError ReentryError RefusedTextsError RegistrationError SpaceBusyError "
        "UnreachableError UnsupportedError VectorCountError"
    ),
    "options": "CacheOptions",
    "protocols": "BaseCheckpointManager BaseEmbeddingModel EmbeddingStore VectorSpace",
    "spaces": "CleaningReceipt SpaceInfo",
    "receipts": "Drift Receipt Report SyncReceipt",
    "stores": (
        "open_store ArrowStore HFDatasetStore JSONLStore KeyValueStore MemoryStore MirroredStore "
        "ParquetStore PostgresStore RedisStore Remote TieredStore"
    ),
    "stores.records": "CachedEmbedding",
    "checkpoints": (
        "HFDatasetCheckpointManager JSONLCheckpointManager MultiCheckpointManager ParquetCheckpointManager"
    ),
    "embedding": "CallableEmbeddingModel OpenAIEmbeddingModel SentenceTransformerEmbeddingModel",
    "kura": "summarise_conversations",
    "langchain": "LangChainByteStore LangChainCachedEmbeddings LangChainEmbeddingModel",
    "llama_index": "LlamaIndexCachedEmbedding LlamaIndexEmbeddingModel",
}
if not TYPE_CHECKING:  # a type checker knows the names, and that there are no others
    __getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*__all__, *" ".join(_HOMES.values()).split(), "__version__"})
