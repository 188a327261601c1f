"""Which keys are being embedded now, and who waits for them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kura_cache_adapters._core.vectors import Kept


@dataclass(slots=True)
class _OfLoop:
    flying: set[bytes] = field(default_factory=set)
    waiting: dict[bytes, list[asyncio.Future[Any]]] = field(default_factory=dict)


class Flights:
    """Which keys are being embedded now, and who waits for them.

    It is used on the background loop, so it needs no lock. Other loops have flights of their own, in a
    forked child and where no thread can be started: a future belongs to one loop.
    """

    def __init__(self) -> None:
        """Start with nothing in flight."""
        self._of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = WeakKeyDictionary()

    def claim(self, keys: Iterable[bytes]) -> list[bytes]:
        """Take the keys that nobody is embedding; the caller owes each a landing or a release."""
        flying = self._here.flying
        mine = [key for key in keys if key not in flying] if flying else list(keys)
        flying.update(mine)
        return mine

    def wait(self, key: bytes) -> asyncio.Future[Any]:
        """Return a future of another's vector; it holds None when that flight has failed."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._here.waiting.setdefault(key, []).append(future)
        return future

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for another's vector."""
        return bool(self._here.waiting)

    def land(self, keys: Sequence[bytes], vectors: Kept) -> None:
        """Hand each key's vector to those who wait for it."""
        here = self._here
        here.flying.difference_update(keys)
        if here.waiting:
            for at, key in enumerate(keys):
                _tell(here, key, vectors[at])

    def release(self, keys: Iterable[bytes]) -> None:
        """Give keys up: whoever waits may take over."""
        here = self._here
        here.flying.difference_update(keys)
        if here.waiting:
            for key in keys:
                _tell(here, key, None)

    @property
    def _here(self) -> _OfLoop:
        loop = asyncio._get_running_loop()  # noqa: SLF001 - None where a task is collected after its loop's end
        if loop is None:
            return _OfLoop()
        return self._of_loop.get(loop) or self._of_loop.setdefault(loop, _OfLoop())


def _tell(here: _OfLoop, key: bytes, vector: Any) -> None:  # noqa: ANN401 - a row, or None
    for future in here.waiting.pop(key, ()):
        if not future.done():
            future.set_result(vector)
