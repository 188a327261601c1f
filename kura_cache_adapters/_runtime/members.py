"""Lists what is in a weak set while other threads add to it, which ends its own iteration."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from weakref import WeakSet

_T = TypeVar("_T")


def members(weak: WeakSet[_T]) -> list[_T]:
    """Return what was in a weak set at one moment."""
    while True:
        try:
            return list(weak)
        except RuntimeError:  # another thread has just added to it
            continue
