"""The contracts that meet here: Kura's models and managers, and this package's stores."""

from __future__ import annotations

from kura_cache_adapters.protocols.abilities import (
    AnswersAtOnce,
    Claim,
    Forgets,
    HasTiers,
    KeepsParts,
    LooksQuietly,
    NotesAnswerer,
    OffersClaims,
    TellsForgotten,
    TellsUnwritten,
    Verifies,
    WritesBehind,
)
from kura_cache_adapters.protocols.checkpoints import (
    BaseCheckpointManager,
    ModelT,
    OpensStore,
    SupportsCheckpoints,
)
from kura_cache_adapters.protocols.models import (
    BaseEmbeddingModel,
    CountsTokens,
    HasIdentity,
    MayChange,
    StreamsBatches,
)
from kura_cache_adapters.protocols.spaces import Hits, SpaceStats, Vectors, VectorSpace
from kura_cache_adapters.protocols.stores import EmbeddingStore, KeepsBytes, KeepsDicts

__all__ = [
    "AnswersAtOnce",
    "BaseCheckpointManager",
    "BaseEmbeddingModel",
    "Claim",
    "CountsTokens",
    "EmbeddingStore",
    "Forgets",
    "HasIdentity",
    "HasTiers",
    "Hits",
    "KeepsBytes",
    "KeepsDicts",
    "KeepsParts",
    "LooksQuietly",
    "MayChange",
    "ModelT",
    "NotesAnswerer",
    "OffersClaims",
    "OpensStore",
    "SpaceStats",
    "StreamsBatches",
    "SupportsCheckpoints",
    "TellsForgotten",
    "TellsUnwritten",
    "VectorSpace",
    "Vectors",
    "Verifies",
    "WritesBehind",
]
