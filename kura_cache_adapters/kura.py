"""What only the real Kura needs: summaries whose embeddings are cached as soon as they exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kura_cache_adapters.errors import require

if TYPE_CHECKING:
    from kura.base_classes import BaseSummaryModel
    from kura.types import Conversation, ConversationSummary

    from kura_cache_adapters.protocols import BaseEmbeddingModel


async def summarise_conversations(
    conversations: list[Conversation],
    *,
    model: BaseSummaryModel | None = None,
    embedding_model: BaseEmbeddingModel | None = None,
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
