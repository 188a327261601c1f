"""Where vectors live: one space for each model identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols.spaces import VectorSpace


@runtime_checkable
class EmbeddingStore(Protocol):
    """Where vectors live: one space per model identity.

    A store in memory may have the attribute `remembered_keys`, as a `MemoryStore` has and others may
    hand on: there its models keep texts with their keys, so as not to hash them again.
    """

    def space(self, identity: ModelIdentity) -> VectorSpace:
        """Open the space of a model, the same object each time; nothing is written yet."""

    def spaces(self) -> list[ModelIdentity]:
        """List the identities that have a space with entries here."""

    def close(self) -> None:
        """Let go of files and memory; the next use opens them again."""
