"""Which keys are being embedded now, and who waits for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kura_cache_adapters._core.vectors import Kept


class Flights:
    """Which keys are being embedded now, and who waits for them.

    It is used on the background loop only, so it needs no lock.
    """

    def __init__(self) -> None:
        """Start with nothing in flight."""
        self._flying: set[bytes] = set()
        self._waiting: dict[bytes, list[asyncio.Future[Any]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def claim(self, keys: Iterable[bytes]) -> list[bytes]:
        """Take the keys that nobody is embedding; the caller owes each a landing or a release."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # a forked child: the parent's flights never land here
            self._loop, self._flying, self._waiting = loop, set(), {}
        mine = [key for key in keys if key not in self._flying] if self._flying else list(keys)
        self._flying.update(mine)
        return mine

    def wait(self, key: bytes) -> asyncio.Future[Any]:
        """Return a future of another's vector; it holds None when that flight has failed."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        return future

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for another's vector."""
        return bool(self._waiting)

    def land(self, keys: Sequence[bytes], vectors: Kept) -> None:
        """Hand each key's vector to those who wait for it."""
        self._flying.difference_update(keys)
        if self._waiting:
            for at, key in enumerate(keys):
                self._tell(key, vectors[at])

    def release(self, keys: Iterable[bytes]) -> None:
        """Give keys up: whoever waits may take over."""
        self._flying.difference_update(keys)
        if self._waiting:
            for key in keys:
                self._tell(key, None)

    def _tell(self, key: bytes, vector: Any) -> None:  # noqa: ANN401 - a row, or None
        for future in self._waiting.pop(key, ()):
            if not future.done():
                future.set_result(vector)
