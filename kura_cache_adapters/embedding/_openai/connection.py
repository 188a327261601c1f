"""A client with connections of its own, on the one loop that they are bound to."""

from __future__ import annotations

import asyncio
import os
import weakref
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@dataclass(frozen=True, slots=True)
class Connection:
    """The connections of a model, the loop that they are bound to, and the free slots for requests."""

    http: Any  # an httpx.AsyncClient, or httpx2's
    loop: asyncio.AbstractEventLoop
    slots: asyncio.Semaphore

    @classmethod
    def of(cls, client: AsyncOpenAI, slots: int, owner: object) -> Connection:
        """Connect for the running loop, as the client would; closed when its owner is no more."""
        http = _unconnected(client._client)  # noqa: SLF001 - nothing public leads there
        connection = cls(http, asyncio.get_running_loop(), asyncio.Semaphore(slots))
        weakref.finalize(owner, _close, connection, os.getpid()).atexit = False
        return connection

    def client(self, of: AsyncOpenAI) -> AsyncOpenAI:
        """Return the client as it is now, over these connections."""
        own = copy(of)
        own._client = self.http  # noqa: SLF001 - `copy()` of the SDK logs in anew, and calls a subclass's constructor
        own.__dict__.pop("embeddings", None)  # it remembers the client that it was asked of
        return own


def _unconnected(http: Any) -> Any:  # noqa: ANN401 - of httpx or httpx2
    """Copy an HTTP client with its hooks, proxies and transports; it has no connection yet."""
    own = _without_connections(http)
    own._mounts = {  # noqa: SLF001 - httpx hands out no copies
        pattern: transport and _without_connections(transport)
        for pattern, transport in http._mounts.items()  # noqa: SLF001
    }
    own._state = type(http._state).UNOPENED  # noqa: SLF001
    return own


def _without_connections(layer: Any) -> Any:  # noqa: ANN401 - of httpx or httpx2
    """Copy a transport down to its pool of connections, which is empty; what is no transport is shared."""
    own = copy(layer)
    for name, part in getattr(layer, "__dict__", {}).items():
        if hasattr(part, "handle_async_request"):
            setattr(own, name, _without_connections(part))
        elif type(part).__module__.startswith("aiohttp."):  # a loop's session; another is opened
            setattr(own, name, None)
    if hasattr(own, "_connections") and hasattr(own, "_requests"):
        own._connections, own._requests = [], []  # noqa: SLF001 - httpcore's pool
    return own


def _close(connection: Connection, owner: int) -> None:
    """Close connections on their own loop; left to the garbage collector, their sockets would leak."""
    if os.getpid() == owner and connection.loop.is_running():
        asyncio.run_coroutine_threadsafe(connection.http.aclose(), connection.loop)
