"""What some spaces and stores can do beside that: answer at once, claim, forget, verify, be cleaned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols.spaces import Hits, VectorSpace
    from kura_cache_adapters.receipts import Forgotten, SpaceReport
    from kura_cache_adapters.spaces import Part


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
class WritesBehind(Protocol):
    """A space that writes later what it has taken, and may drop some of that."""

    @property
    def ready(self) -> bool:
        """Whether it takes now what it is owed from before."""

    def dropped(self) -> set[bytes]:
        """Return the keys that were taken, and dropped since the last call."""

    def withdraw(self, keys: Collection[bytes]) -> None:
        """Write these no more, if they wait: they are forgotten."""


@runtime_checkable
class TellsUnwritten(Protocol):
    """A space whose `put_many` may return before all is stored."""

    def unwritten(self, keys: Collection[bytes], tell: Callable[[int, int], object]) -> set[bytes]:
        """Return those of the keys, just put, that are stored nowhere.

        Of each batch of these that is written later, `tell` hears how many entries and bytes that are.
        """


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
