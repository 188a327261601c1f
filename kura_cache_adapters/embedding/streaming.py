"""Models that are their batches: what streams, and how its stream becomes one answer."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._core.vectors import as_lists, counted, merged
from kura_cache_adapters.protocols import BaseEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.protocols import StreamsBatches


class StreamingEmbeddingModel(BaseEmbeddingModel):
    """A model that is its batches: all else follows from `embed_batches`."""

    @abstractmethod
    def embed_batches(
        self,
        texts: list[str],
        *,
        role: Role,
    ) -> AsyncGenerator[tuple[Sequence[int], Any], None]:
        """Yield (positions in texts, their vectors) until each text has been answered once."""

    async def embed(self, texts: list[str], *, role: Role = "document") -> list[list[float]]:
        """Embed each text; raises what the batches raise."""
        return await collect(self, texts, role)


async def collect(model: StreamsBatches, texts: list[str], role: Role) -> list[list[float]]:
    """Gather a streaming model's batches into one list per text, in their order.

    Raises VectorCountError for a batch that has no vector for each of its positions.
    """
    name = str(getattr(model, "model_name", type(model).__name__))
    async with aclosing(model.embed_batches(texts, role=role)) as batches:
        parts = [(at, counted(answer, len(at), name)) async for at, answer in batches]
    whole = merged(len(texts), parts) if parts else []
    return as_lists(whole)
