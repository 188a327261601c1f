"""Counts what went between a store and its mirror in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kura_cache_adapters._runtime.fork import ForkLock

if TYPE_CHECKING:
    from kura_cache_adapters.receipts import SpaceSync


@dataclass
class Counts:
    """What was moved since the store was opened; `error` is the last one's, empty when it works again.

    Attributes:
        pushed: how many files went up.
        pulled: how many came down.
        pushed_bytes: in these.
        pulled_bytes: in those.
        refused: how many were not what their names say.
        errors: how often the store was not reached, or has refused.
        error: why, the last time; empty where it works.

    """

    pushed: int = 0
    pulled: int = 0
    pushed_bytes: int = 0
    pulled_bytes: int = 0
    refused: int = 0
    errors: int = 0
    error: str = ""
    _lock: ForkLock = field(default_factory=ForkLock, repr=False, compare=False)

    def add(self, moved: SpaceSync) -> None:
        """Add what one sync has moved."""
        with self._lock:
            self.pushed += moved.pushed
            self.pulled += moved.pulled
            self.pushed_bytes += moved.pushed_bytes
            self.pulled_bytes += moved.pulled_bytes
            self.refused += len(moved.refused)
            self.error = ""

    def failed(self, why: str) -> None:
        """Count a failure."""
        with self._lock:
            self.errors += 1
            self.error = why
