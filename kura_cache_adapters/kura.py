"""What only the real Kura needs: its base classes, its models, its checkpoints, its imports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kura_cache_adapters import checkpoints
from kura_cache_adapters import protocols as ours
from kura_cache_adapters._adopt.summaries import summaries_in
from kura_cache_adapters.cached_embedding import CachedEmbeddingModel as _CachedEmbeddingModel
from kura_cache_adapters.errors import require
from kura_cache_adapters.options import DEFAULT, CacheOptions, one_cache

if TYPE_CHECKING:
    from types import ModuleType

    from kura.base_classes import BaseCheckpointManager, BaseEmbeddingModel, BaseSummaryModel
    from kura.types import Conversation, ConversationSummary

    from kura_cache_adapters.options import CacheLike
    from kura_cache_adapters.protocols import SupportsCheckpoints
else:
    _classes = require("kura.base_classes", extra="kura")
    BaseCheckpointManager, BaseEmbeddingModel = _classes.BaseCheckpointManager, _classes.BaseEmbeddingModel


class CachedEmbeddingModel(_CachedEmbeddingModel, BaseEmbeddingModel):  # type: ignore[misc] # Kura has no types
    """A `CachedEmbeddingModel` that is a `kura.base_classes.BaseEmbeddingModel` too."""


class JSONLCheckpointManager(checkpoints.JSONLCheckpointManager, BaseCheckpointManager):  # type: ignore[misc]
    """Our JSONL manager, which is a `kura.base_classes.BaseCheckpointManager` too."""


class ParquetCheckpointManager(checkpoints.ParquetCheckpointManager, BaseCheckpointManager):  # type: ignore[misc]
    """Our Parquet manager, which is a `kura.base_classes.BaseCheckpointManager` too."""


class HFDatasetCheckpointManager(checkpoints.HFDatasetCheckpointManager, BaseCheckpointManager):  # type: ignore[misc]
    """Our datasets manager, which is a `kura.base_classes.BaseCheckpointManager` too."""


class MultiCheckpointManager(checkpoints.MultiCheckpointManager, BaseCheckpointManager):  # type: ignore[misc]
    """Our manager of managers, which is a `kura.base_classes.BaseCheckpointManager` too."""


def cached(
    embedding_model: ours.BaseEmbeddingModel | BaseEmbeddingModel,
    cache: CacheLike = DEFAULT,
    *,
    cache_manager: CacheLike = None,
    options: CacheOptions = CacheOptions(),
    **key_kwargs: Any,
) -> CachedEmbeddingModel:
    """Put a cache around any embedding model, Kura's own among them, for use in a Kura pipeline.

    `cache` is a directory, URL, store or checkpoint manager; further keywords enter the key. Kura's
    models with clients of their own run on this package's loop, so that one client serves all loops.
    """
    kuras, chosen = require("kura.embedding", extra="kura"), one_cache(cache_manager, cache)
    if isinstance(embedding_model, (kuras.OpenAIEmbeddingModel, kuras.CohereEmbeddingModel)):
        vars(embedding_model).setdefault("runs_on", "background")
    return CachedEmbeddingModel(embedding_model, chosen, options=options, **key_kwargs)


def import_summaries(
    model: _CachedEmbeddingModel,
    checkpoint_manager: SupportsCheckpoints,
    filename: str = "summaries",
) -> int:
    """Store the embeddings of a checkpoint of summaries; return how many there were.

    Kura embeds `str(summary)`, in which the embedding itself appears once it is set. So each is
    found under both texts: with it, as Kura asks for a loaded summary, and without, as for a fresh
    one. Raises DimensionMismatchError if they are of several dimensions.
    """
    texts, vectors = summaries_in(checkpoint_manager, filename)
    model.add(texts, vectors)
    return len(texts) // 2


def import_dimensionality() -> ModuleType:
    """Import `kura.dimensionality`, which by itself asks for an OpenAI key when it is imported.

    Without one, `HDBUMAP` has no default model: give it `embedding_model=`.
    """
    embedding: Any = require("kura.embedding", extra="kura")
    original = embedding.OpenAIEmbeddingModel
    try:
        return import_module("kura.dimensionality")
    except require("openai", extra="openai").OpenAIError:
        embedding.OpenAIEmbeddingModel = _NoModel  # only while its default argument is made
        try:
            dimensionality: Any = import_module("kura.dimensionality")
        finally:
            embedding.OpenAIEmbeddingModel = original
    dimensionality.OpenAIEmbeddingModel = original
    module: ModuleType = dimensionality
    return module


async def summarise_conversations(
    conversations: list[Conversation],
    *,
    model: BaseSummaryModel | None = None,
    embedding_model: ours.BaseEmbeddingModel | None = None,
    **parameters: Any,
) -> list[ConversationSummary]:
    """Summarise with Kura (its default model without `model`), then embed the summaries.

    Kura itself embeds summaries when it clusters them, by their `str()`. Embedded here by a cached
    model they are found there, and a crash in between costs no embedding. The summaries are
    returned as Kura made them; `parameters` go to Kura's function. Needs the extra `kura`.
    """
    kura = require("kura.summarisation", extra="kura")
    summaries: list[ConversationSummary] = await kura.summarise_conversations(
        conversations,
        model=kura.SummaryModel() if model is None else model,
        **parameters,
    )
    if embedding_model is not None and summaries:
        await embedding_model.embed([str(summary) for summary in summaries])
    return summaries


class _NoModel(BaseEmbeddingModel):  # type: ignore[misc]
    """What stands for Kura's default model where there is no key for it."""

    def slug(self) -> str:
        return "none"

    async def embed(self, texts: list[str]) -> list[list[float]]:
        message = f"no model for {len(texts)} texts: HDBUMAP(embedding_model=...), or set OPENAI_API_KEY"
        raise ValueError(message)
