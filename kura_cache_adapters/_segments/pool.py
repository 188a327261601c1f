"""How many files this process holds open, over all caches: beyond a bound, the oldest are closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from kura_cache_adapters._runtime.members import members

if TYPE_CHECKING:
    from collections.abc import Sized

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_MOST = 256
_LEAST = 16
_SHARE = 4  # the program's own files come first: a quarter of what the system allows


class Holder(Protocol):
    """What holds files open: a listing."""

    @property
    def open(self) -> Sized:
        """The files."""

    @property
    def last_used(self) -> float:
        """A time by which holders are compared."""

    def close(self) -> None:
        """Close them; without a lock, since it is called from any thread."""


_holders: WeakSet[Holder] = WeakSet()


def join(holder: Holder) -> None:
    """Count a holder's open files from now on."""
    _holders.add(holder)


def make_room(keep: Holder, *, most: int | None = None) -> bool:
    """Close the files of those used longest ago, but for one; tell whether that closed any.

    They are opened again by the next look-up there. One holder alone may have more than the bound.
    """
    others = sorted((each for each in members(_holders) if each.open and each is not keep), key=_last_used)
    excess = len(keep.open) + sum(len(each.open) for each in others) - (_bound() if most is None else most)
    closed = False
    for holder in others:
        if excess <= 0:
            break
        excess -= len(holder.open)
        holder.close()
        closed = True
    return closed


def _last_used(holder: Holder) -> float:
    return holder.last_used


def _bound() -> int:
    if resource is None:
        return _MOST
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if allowed == resource.RLIM_INFINITY else max(_LEAST, min(_MOST, allowed // _SHARE))
