"""The embeddings in Kura's checkpoints of summaries, by the texts that Kura embeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kura_cache_adapters.errors import require

if TYPE_CHECKING:
    from kura_cache_adapters.protocols import SupportsCheckpoints


def summaries_in(
    manager: SupportsCheckpoints, filename: str = "summaries"
) -> tuple[list[str], list[list[float]]]:
    """Return texts and their vectors; each vector is there twice.

    Kura embeds `str(summary)`, in which the embedding itself appears once it is set: first are the texts
    with it, as Kura asks for a loaded summary, then those without, as for a fresh one.
    """
    kind = require("kura.types", extra="kura").ConversationSummary
    loaded = manager.load_checkpoint(filename, kind) or []
    summaries: list[Any] = [summary for summary in loaded if summary.embedding]
    bare = [summary.model_copy(update={"embedding": None}) for summary in summaries]
    vectors = [summary.embedding for summary in summaries]
    return [str(summary) for summary in [*summaries, *bare]], [*vectors, *vectors]
