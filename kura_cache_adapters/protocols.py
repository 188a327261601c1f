"""The contracts that meet here: Kura's models and managers, and this package's stores."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
    TypeAlias,
    TypeVar,
    runtime_checkable,
)

import numpy as np
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from kura_cache_adapters.identity import ModelIdentity, Role
    from kura_cache_adapters.receipts import Forgotten, SpaceReport
    from kura_cache_adapters.spaces import Part

_logger = logging.getLogger("kura_cache_adapters.checkpoints")

Vectors: TypeAlias = "NDArray[np.float32] | NDArray[np.float64]"
"""A matrix of vectors, shape (N, D), C-contiguous, float32 or float64."""

ModelT = TypeVar("ModelT", bound=BaseModel)


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


@dataclass(frozen=True, slots=True)
class Hits:
    """The found part of a look-up.

    `positions` has shape (k,) and rises: which of the keys asked for were found. `vectors` has
    shape (k, D), float32 or float64, and belongs to the caller. `invalid` counts entries that
    were there and were not fit to use (damaged, foreign); they are misses. `tiers` says how many were
    found in each tier of a store that has tiers.
    """

    positions: NDArray[np.intp]
    vectors: Vectors
    invalid: int = 0
    tiers: tuple[int, ...] = ()

    @classmethod
    def none(cls, invalid: int = 0) -> Hits:
        """Return the look-up that found nothing: shapes (0,) and (0, 0)."""
        return cls(np.empty(0, np.intp), np.empty((0, 0), np.float32), invalid)

    def checked(self, asked: int) -> Hits:
        """Return these hits; raise ValueError if they are no answer to `asked` keys."""
        at, vectors = self.positions, self.vectors
        matrix = vectors.ndim == 2 and vectors.dtype.char in "fd" and len(vectors) == len(at)  # noqa: PLR2004
        inside = not len(at) or (at.dtype.kind == "i" and at[0] >= 0 and at[-1] < asked)
        if matrix and inside and (len(at) < 2 or (at[1:] > at[:-1]).all()):  # noqa: PLR2004
            return self
        message = f"hits at {at!r:.80} with {vectors.dtype} vectors {vectors.shape} answer no {asked} keys"
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class SpaceStats:
    """What a space holds: rows (duplicates included), bytes stored, parts, and D (None: empty)."""

    rows: int
    nbytes: int
    parts: int
    dimension: int | None


@runtime_checkable
class VectorSpace(Protocol):
    """The vectors of one model identity: one dimension, immutable entries, thread-safe, batched.

    Keys are 32 bytes each. An entry never changes: putting a key again may keep either vector.
    A space whose entries end with this process says so by the attribute `volatile = True`, one that
    cannot list its keys by `countable = False`.
    """

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Look all keys up in one batch."""

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:
        """Store one vector per key, shape (N, D); return when they outlive this process.

        With durable, they outlive a power cut too. Raises DimensionMismatchError for another D
        than the space has, ValueError for keys or shapes that do not fit.
        """

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Forget the keys; return how many of them were there."""

    def keys(self) -> Iterator[bytes]:
        """Iterate over the distinct keys, in no order."""

    def stats(self) -> SpaceStats:
        """Count what the space holds."""


@runtime_checkable
class AnswersAtOnce(Protocol):
    """A space that can answer on an event loop, without a thread, what it has at hand."""

    def glance(self, keys: list[bytes]) -> Hits | None:
        """Find all keys in memory, or in what is open and local; None, at once, where that is not all.

        No directory is listed, no file opened, no server asked and no lock waited for.
        """


@runtime_checkable
class NotesAnswerer(Protocol):
    """A space that keeps, beside its vectors, the name under which a server has answered for them."""

    def answerer(self) -> str:
        """Return the name; empty if none is noted."""

    def note_answerer(self, name: str) -> None:
        """Note the name."""


class Claim(Protocol):
    """Keys that a caller has claimed. It ends with its last key, with the object, and with the process.

    Claims of a space are numbered: `turn` is this one's. `beside` counts the others that were there. Who made
    the one before, and saw none beside it that was not his own, knows that nobody else has stored since.
    """

    turn: int
    beside: int

    @property
    def keys(self) -> Collection[bytes]:
        """The keys that are claimed and not released."""

    def release(self, keys: Iterable[bytes]) -> None:
        """Give up those of the keys that are claimed here."""


@runtime_checkable
class OffersClaims(Protocol):
    """A space whose callers say what they are embedding, so that no other process pays for it, too.

    Claims are advice: one that is lost costs a payment, and never makes a wrong vector. What is stored
    before its claim is released is found by whoever claims it next, and looks it up then.
    """

    def claim(self, keys: Collection[bytes], *, durable: bool = True) -> Claim | None:
        """Claim the keys that nobody else has claimed, at once; None where nothing can be claimed.

        With durable, a space that is made for it outlives a power cut.
        """


@runtime_checkable
class TellsForgotten(Protocol):
    """A space that tells what any process has forgotten here: faster tiers let go of that, too."""

    @property
    def fresh(self) -> bool:
        """Whether `forgotten` answers at once, with what was known a moment ago."""

    def forgotten(self) -> frozenset[bytes]:
        """Return the keys, the same object for as long as they are the same ones."""


@runtime_checkable
class Forgets(Protocol):
    """A store that forgets keys in all its spaces at once, and tells what it did and could not do."""

    def forget(
        self, keys: Sequence[bytes], *, days: float, within: Collection[ModelIdentity] | None
    ) -> Sequence[Forgotten]:
        """Forget keys, in the spaces of some models or in all; copies stay hidden for so many days."""


@runtime_checkable
class Verifies(Protocol):
    """A store that reads all it has, and tells what is damaged."""

    def verify(self, *, repair: bool) -> Sequence[SpaceReport]:
        """Read everything; with `repair`, leave only what is intact."""


@runtime_checkable
class LooksQuietly(Protocol):
    """A space whose look-ups leave traces: stamps of use, copies in faster tiers."""

    def quiet(self) -> VectorSpace:
        """Return the same vectors as a space whose look-ups leave none, the same object each time."""


@runtime_checkable
class KeepsParts(Protocol):
    """A space in parts that go as a whole, so that what is old or too much can be dropped.

    All that changes something is safe beside other processes: no merge brings back what has gone, and
    a reader that loses a part has misses. SpaceBusyError is raised where that cannot be had now.
    """

    def parts(self) -> list[Part]:
        """List the parts, oldest first; nothing is locked or changed."""

    def drop_parts(self, names: Collection[str]) -> list[Part]:
        """Remove parts by their names; return those that went."""

    def compact(self) -> tuple[list[Part], list[Part]]:
        """Make few parts of many, without what is forgotten; return those that went, and became."""

    def remove(self) -> list[Part]:
        """Remove all there is of the space; return the parts that went."""


@runtime_checkable
class HasTiers(Protocol):
    """A space over the same model's spaces in several stores."""

    @property
    def tiers(self) -> Sequence[VectorSpace]:
        """The spaces, from fast to slow."""


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


@runtime_checkable
class OpensStore(Protocol):
    """A manager that can open a native vector store in its own format."""

    def open_store(self) -> EmbeddingStore:
        """Open the store below the manager's directory."""


@runtime_checkable
class SupportsCheckpoints(Protocol):
    """The part of a checkpoint manager, Kura's or anyone's, that a cache needs."""

    def is_enabled(self) -> bool:
        """Tell whether the manager stores anything."""

    def load_checkpoint(self, filename: str, model_class: type[ModelT]) -> list[ModelT] | None:
        """Load a checkpoint; None when there is none."""

    def save_checkpoint(self, filename: str, data: list[ModelT]) -> None:
        """Save a checkpoint under a name."""


class BaseCheckpointManager(ABC):
    """Kura's checkpoint manager contract (kura 0.5.4, `kura.base_classes.checkpoint`)."""

    checkpoint_dir: Path
    enabled: bool

    def __init__(self, checkpoint_dir: str | Path, *, enabled: bool = True) -> None:
        """Keep checkpoints in a directory, made at once when enabled."""
        self.checkpoint_dir = Path(checkpoint_dir)
        self.enabled = enabled
        if enabled:
            self.setup_checkpoint_dir()

    def setup_checkpoint_dir(self) -> None:
        """Make the directory; a failure is logged here and raised by the first save."""
        try:
            self._make_directory()
        except OSError as error:
            _logger.warning("No checkpoint directory %s: %s", self.checkpoint_dir, error)

    def _make_directory(self) -> None:
        self.checkpoint_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    @abstractmethod
    def load_checkpoint(
        self,
        filename: str,
        model_class: type[ModelT],
        **kwargs: Any,
    ) -> list[ModelT] | None:
        """Load a checkpoint as a list of models; None when there is none or when disabled."""

    @abstractmethod
    def save_checkpoint(self, filename: str, data: Sequence[BaseModel], **kwargs: Any) -> None:
        """Save models under a name, all or nothing."""

    @abstractmethod
    def list_checkpoints(self) -> list[str]:
        """List the saved names, sorted."""

    @abstractmethod
    def delete_checkpoint(self, filename: str) -> bool:
        """Delete a checkpoint; tell whether it was there."""

    @abstractmethod
    def get_checkpoint_path(self, filename: str) -> Path:
        """Return where a checkpoint lies; raise ValueError for a name that is not one."""

    def is_enabled(self) -> bool:
        """Tell whether the manager stores anything."""
        return self.enabled

    def __repr__(self) -> str:
        """Name the class, the directory and whether it is enabled."""
        name = type(self).__name__
        return f"{name}(checkpoint_dir={str(self.checkpoint_dir)!r}, enabled={self.enabled})"
