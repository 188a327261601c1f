"""What happens in a cache, as values that observers are called with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from kura_cache_adapters._observe.tiers import TierStats


class LookedUp(NamedTuple):  # one for each hit: a frozen dataclass takes three times as long to make
    """A call's texts were looked up, in `seconds`.

    Of `texts`, `hits` were found; `missing` distinct ones are left to the model, and `repeated` texts are
    the same as one of these. `invalid` entries were there and not fit to use. `tiers` says how many each
    tier of a tiered store had, in their order. `readable` is false where the store failed. All events of
    one call have its number, `call`.
    """

    call: int
    model: str
    texts: int
    hits: int
    missing: int
    repeated: int
    invalid: int
    tiers: tuple[int, ...]
    readable: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Embedded:
    """Some of a call's missing texts have their vectors: `texts` from the model, in `seconds` of waiting.

    `shared` ones were embedded by another call at the same time, `adopted` ones found in the `fallback`.
    `tokens` is what the model has billed since the call's last such event, where it tells; None where it
    does not.
    """

    call: int
    model: str
    texts: int
    shared: int
    seconds: float
    tokens: int | None = None
    adopted: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """A batch was written: `entries` with `nbytes` of vectors, in `seconds`.

    `unwritten` more are not: a server will get them, of which later events tell, or they were dropped.
    """

    model: str
    entries: int
    nbytes: int
    seconds: float
    unwritten: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The store could not `read` or `write` a batch, and the call goes on; or the model did not `embed`.

    `reason` says why, without what was read or embedded, which `error` may quote. `call` is the number of
    a call whose model failed, else 0.
    """

    action: Literal["read", "write", "embed"]
    model: str
    cache: str
    reason: str
    call: int = 0
    error: BaseException | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A remote tier has changed: it is left alone (`open`), answers again (`closed`), or was `dropped` from.

    So has the object store of a mirrored one, to `read` from which is to pull, and to `write` to push.

    `action` says whether that is reading or writing, `reason` why, and `stats` what it has done so far. It
    is of no one `model`.
    """

    action: Literal["read", "write"]
    change: Literal["open", "closed", "dropped"]
    reason: str
    stats: TierStats
    model: str = ""


Event: TypeAlias = LookedUp | Embedded | Stored | Failed | Guarded
"""What an observer may be called with; later versions may add others."""


class Observer(Protocol):
    """Called with each event, in the thread in which it happens: it must be quick, and call no cache."""

    def __call__(self, event: Event, /) -> object:
        """Hear of an event."""


@runtime_checkable
class Watched(Protocol):
    """A space that tells what happens to a store on a server behind it."""

    def watch(self, observer: Observer) -> None:
        """Tell an observer, for as long as it lives, of each change."""
