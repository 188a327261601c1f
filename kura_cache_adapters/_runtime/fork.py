"""Locks that no fork leaves held in the child."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable

_fork_locks: WeakSet[ForkLock] = WeakSet()


class ForkLock:
    """A lock that no fork leaves held in the child: a fork waits for it and both sides free it.

    The thread that holds it may fork, and may take it again.
    """

    waited_for = True

    def __init__(self) -> None:
        """Make a free lock."""
        self.lock = threading.RLock()
        _fork_locks.add(self)

    # Properties, so that `with` calls the lock itself: between a Python function's taking of a lock
    # and its return there is a place where Ctrl-C would leave it taken.

    @property
    def __enter__(self) -> Callable[[], object]:
        """Take the lock."""
        return self.lock.__enter__

    @property
    def __exit__(self) -> Callable[..., None]:  # noqa: PLE0302, PYI036 - a property
        """Free the lock."""
        return self.lock.__exit__

    def __reduce__(self) -> tuple[type[ForkLock], tuple[()]]:
        """Pickle as a new, free lock."""
        return type(self), ()


class ModelLock(ForkLock):
    """A lock that is held for as long as a model computes: no fork waits, and the child's is free."""

    waited_for = False


_held: list[Any] = []


def _known_locks() -> list[ForkLock]:
    while True:
        try:
            return list(_fork_locks)
        except RuntimeError:  # another thread has just made one
            continue


def _before_fork() -> None:
    locks: list[Any] = [one.lock for one in _known_locks() if one.waited_for]
    for lock in locks:
        lock.acquire()
        _held.append(lock)  # one by one: Ctrl-C may end the waiting, and the fork goes on


def _after_fork() -> None:
    while _held:
        _held.pop().release()


def _after_fork_in_child() -> None:
    _held.clear()
    for fork_lock in _known_locks():
        fork_lock.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork,
        after_in_child=_after_fork_in_child,
    )
