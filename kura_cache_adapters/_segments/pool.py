"""How many files this process holds open, over all caches: beyond a bound, the oldest are closed."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from kura_cache_adapters._segments.listing import Listing

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_MOST = 256
_LEAST = 16
_SHARE = 4  # the program's own files come first: a quarter of what the system allows

_listings: WeakSet[Listing] = WeakSet()


def join(listing: Listing) -> None:
    """Count a listing's open files from now on."""
    _listings.add(listing)


def make_room(keep: Listing, *, most: int | None = None) -> bool:
    """Close the files of the listings used longest ago, but for one; tell whether that closed any.

    They are opened again by the next look-up there. One listing alone may hold more than the bound.
    """
    others = sorted((each for each in list(_listings) if each.open and each is not keep), key=_last_used)
    excess = len(keep.open) + sum(len(each.open) for each in others) - (_bound() if most is None else most)
    closed = False
    for listing in others:
        if excess <= 0:
            break
        excess -= len(listing.open)
        listing.close()
        closed = True
    return closed


def _last_used(listing: Listing) -> float:
    return listing.last_used


def _bound() -> int:
    if resource is None:
        return _MOST
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if allowed == resource.RLIM_INFINITY else max(_LEAST, min(_MOST, allowed // _SHARE))
