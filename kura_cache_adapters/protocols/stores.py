"""Where vectors live: one space for each model identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols.spaces import VectorSpace


@runtime_checkable
class EmbeddingStore(Protocol):
    """Where vectors live: one space per model identity.

    A store in memory may have the attribute `remembered_keys`, as a `MemoryStore` has and others may
    hand on: there its models keep texts with their keys, so as not to hash them again. A store on a server
    says so by `remote = True` in its class: opened by its URL it is within a `Remote`. One with
    `takes_url = True` is handed the URL, with the options in it that are not its own, instead of the path.
    """

    def space(self, identity: ModelIdentity) -> VectorSpace:
        """Open the space of a model, the same object each time; nothing is written yet."""

    def spaces(self) -> list[ModelIdentity]:
        """List the identities that have a space with entries here."""

    def close(self) -> None:
        """Let go of files and memory; the next use opens them again."""


@runtime_checkable
class KeepsBytes(Protocol):
    """What keeps bytes by name, in batches: LangChain's `BaseStore[str, bytes]` (`ByteStore`)."""

    def mget(self, keys: Sequence[str], /) -> Sequence[bytes | None]:
        """Return one value per key, None where there is none."""

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]], /) -> None:
        """Keep values."""

    def mdelete(self, keys: Sequence[str], /) -> None:
        """Forget keys."""

    def yield_keys(self) -> Iterable[str]:
        """List all keys."""


@runtime_checkable
class KeepsDicts(Protocol):
    """What keeps dicts by collection and key: LlamaIndex's `BaseKVStore`."""

    def get(self, key: str, /, collection: str = ...) -> dict[str, Any] | None:
        """Return a value, None where there is none."""

    def get_all(self, collection: str = ..., /) -> dict[str, dict[str, Any]]:
        """Return all of a collection."""

    def put_all(
        self, kv_pairs: list[tuple[str, dict[str, Any]]], /, collection: str = ..., batch_size: int = ...
    ) -> None:
        """Keep values, so many at a time."""

    def delete(self, key: str, /, collection: str = ...) -> bool:
        """Forget a key; tell whether it was there."""
