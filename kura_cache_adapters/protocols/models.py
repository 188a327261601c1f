"""What a cache asks of an embedding model: Kura's contract, and what a model may offer beside it."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from kura_cache_adapters.identity import ModelIdentity, Role


@runtime_checkable
class BaseEmbeddingModel(Protocol):
    """Kura's embedding model: subclass it, or hand over any object of this shape.

    The cache also wants the attribute `model_name: str`, and uses when present: `embed_sync` (called
    in a worker thread instead of `embed`), `roles`, `identity`, `state` (see the protocols below), and
    `asked_for(text) -> str`, which says as what a text is embedded by a model that edits it first.

    `roles: Collection[str]` names the roles that the model tells apart beside "document": `("query",)`,
    `("classification", "clustering")`, any strings. Without it, or empty, the model embeds everything
    alike, is never told a role, and all roles share their entries. With it each role has entries of its
    own, `embed` and `embed_sync` are called with `role=` for texts of these roles (and without for
    documents, as Kura calls them), and a role that it does not name is a ValueError before anything is
    looked up. Adapters of frameworks ask for "query": name it, if they are to. Roles change no more often
    than the identity.

    Awaited from an event loop, the model runs in the task that awaits the cache, so that sessions,
    clients and semaphores may belong to that loop. `runs_on = "background"` says that it always
    runs on this package's own loop, as for sync callers: one client serves all loops and threads.
    `runs_on = "anywhere"` says that it does not matter, since its work is in threads.

    `answers_as` is the name under which its server answers, where that is compared: it is kept
    beside the vectors, and set by the cache from there as long as it is empty.
    """

    @abstractmethod
    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Embed each text: one list of floats per text, in their order."""

    @abstractmethod
    def slug(self) -> str:
        """Return a short name for people; it never identifies a cache entry."""


@runtime_checkable
class HasIdentity(Protocol):
    """A model that says what else, beside its name, changes its vectors."""

    def identity(self) -> Mapping[str, Any] | ModelIdentity:
        """Return JSON-able fields; never a secret, never what leaves the vector alone.

        A model that stands for another one returns that one's whole identity.
        """


@runtime_checkable
class MayChange(Protocol):
    """A model that may be another one later: trained, exchanged, or not loaded yet.

    At each call of the cache its state is compared with what it was, and its identity asked for
    again when they differ.
    """

    def state(self) -> object:
        """Return at a glance what is equal for as long as the identity is."""

    def prepare(self) -> None:
        """Load what embeds, before a miss is asked for; `state` may change by that."""


@runtime_checkable
class StreamsBatches(Protocol):
    """A model that hands over each batch as it is finished, in any order.

    It is always told the role: one of its `roles`, or "document".
    """

    def embed_batches(
        self,
        texts: list[str],
        *,
        role: Role,
    ) -> AsyncGenerator[tuple[Sequence[int], Any], None]:
        """Yield (positions in texts, their vectors) until each text has been answered once."""


@runtime_checkable
class CountsTokens(Protocol):
    """A model that can tell what its server would bill for texts, without asking it."""

    def count_tokens(self, texts: list[str], *, role: Role = "document") -> list[int] | None:
        """Count the tokens of each text as it would be sent; None where that is not exactly known.

        No weights are loaded and no model is asked. `role` is told as to `embed`: only where it is one of
        its `roles`.
        """
