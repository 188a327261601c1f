"""OpenAIEmbeddingModel: any API that speaks OpenAI's, through the official SDK."""

from __future__ import annotations

import asyncio
import base64
import os
import weakref
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters import background
from kura_cache_adapters.answers import matrix_or_list
from kura_cache_adapters.errands import stop_if_left
from kura_cache_adapters.errors import VectorCountError, require
from kura_cache_adapters.identity import plain_url
from kura_cache_adapters.protocols import BaseEmbeddingModel
from kura_cache_adapters.source import collect

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from openai import AsyncOpenAI

    from kura_cache_adapters.identity import Role

_MOST_TEXTS = 2_048
_MOST_TOKENS = 300_000
# Per request: https://platform.openai.com/docs/api-reference/embeddings/create


@dataclass(frozen=True, slots=True)
class Usage:
    """What an API has been asked for: requests, texts, and the tokens that it counted."""

    requests: int = 0
    texts: int = 0
    tokens: int = 0


class OpenAIEmbeddingModel(BaseEmbeddingModel):
    """Embed with OpenAI's API, or any that speaks it, through the official SDK.

    Requests run on one event loop of this package, whichever loop or thread asks; so one client
    serves them all. The SDK's own retries and timeouts apply. Needs the extra `openai`.
    """

    runs_on = "background"

    def __init__(
        self,
        model_name: str = "text-embedding-3-small",
        model_batch_size: int = 256,
        n_concurrent_jobs: int = 5,
        *,
        dimensions: int | None = None,
        client: AsyncOpenAI | None = None,
    ) -> None:
        """Name a model; without a client, one is made from the environment (OPENAI_API_KEY).

        `model_batch_size` texts go into a request, fewer where they could exceed 300,000 tokens;
        `n_concurrent_jobs` requests run at once. Raises ValueError for numbers out of range.
        """
        if not 1 <= model_batch_size <= _MOST_TEXTS:
            message = f"model_batch_size must be between 1 and {_MOST_TEXTS}, not {model_batch_size}"
            raise ValueError(message)
        if n_concurrent_jobs < 1:
            message = f"n_concurrent_jobs must be at least 1, not {n_concurrent_jobs}"
            raise ValueError(message)
        self.model_name = model_name
        self.dimensions = dimensions
        self.usage = Usage()
        self._model_batch_size = model_batch_size
        self._n_concurrent_jobs = n_concurrent_jobs
        self._given = client
        self._line: _Line | None = None
        self.client: AsyncOpenAI = client or require("openai", extra="openai").AsyncOpenAI()

    def slug(self) -> str:
        """Return a name for people."""
        return f"openai:{self.model_name}-batchsize:{self._model_batch_size}"

    def identity(self) -> dict[str, Any]:
        """Return the dimensions asked for, and the API's address without user, password or query."""
        dimensions = {} if self.dimensions is None else {"dimensions": self.dimensions}
        return {"base_url": plain_url(str(self.client.base_url)), **dimensions}

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Embed texts from any event loop.

        Raises the SDK's errors, and VectorCountError for an answer that is not one vector a text.
        """
        return await background.hop(collect(self, texts, "document"))

    async def embed_batches(
        self,
        texts: list[str],
        *,
        role: Role,  # noqa: ARG002 - these models make no difference
    ) -> AsyncGenerator[tuple[Sequence[int], Any], None]:
        """Yield (positions, vectors) as each request is answered; to be run on one event loop.

        When a request fails no new one is sent; those under way are yielded, then the error raised.
        When the caller is cancelled, what has been answered by then is yielded first.
        """
        left = _batches(texts, self._model_batch_size)
        line = self._on_this_loop()
        running: set[asyncio.Task[tuple[Sequence[int], Any]]] = set()
        failure: BaseException | None = None
        try:
            while True:
                free = 0 if failure else self._n_concurrent_jobs - len(running)
                try:
                    stop_if_left()
                    for batch in islice(left, free):
                        running.add(asyncio.create_task(self._request(line, texts, batch)))
                    if not running:
                        break
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                except asyncio.CancelledError as cancelled:
                    failure = cancelled
                for task in [task for task in running if task.done()]:
                    running.discard(task)
                    if task.exception() is None:
                        yield task.result()
                    else:
                        failure = failure or task.exception()
                if isinstance(failure, asyncio.CancelledError):
                    break
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if failure is not None:
            raise failure

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the client, which the other side makes from its environment."""
        if self._given is not None:
            message = "a model with a client of its own cannot be pickled: leave client=None"
            raise TypeError(message)
        return {**self.__dict__, "client": None, "_line": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a client from the environment."""
        self.__dict__.update(state)
        self.client = require("openai", extra="openai").AsyncOpenAI()

    async def _request(
        self,
        line: _Line,
        texts: list[str],
        batch: Sequence[int],
    ) -> tuple[Sequence[int], Any]:
        optional: dict[str, Any] = {} if self.dimensions is None else {"dimensions": self.dimensions}
        async with line.places:
            response = await line.client.embeddings.create(
                input=[texts[at] for at in batch],
                model=self.model_name,
                encoding_format="base64",
                **optional,
            )
        self._count(len(batch), response.usage)
        return batch, _in_order(response.data, len(batch), self.model_name)

    def _count(self, texts: int, usage: Any) -> None:  # noqa: ANN401 - some servers send none
        now, tokens = self.usage, getattr(usage, "prompt_tokens", None) or 0
        self.usage = Usage(now.requests + 1, now.texts + texts, now.tokens + tokens)

    def _on_this_loop(self) -> _Line:
        """Return a client that no other loop has used: its connections belong to one."""
        loop = asyncio.get_running_loop()
        if self._line is None or self._line.loop is not loop:
            if self._line is not None:  # after a fork: the connections belong to the parent
                fresh = require("openai", extra="openai").DefaultAsyncHttpxClient()
                self.client = self.client.copy(http_client=fresh)
            self._line = _Line(loop, self.client, asyncio.Semaphore(self._n_concurrent_jobs))
            if self.client is not self._given:
                weakref.finalize(self, _hang_up, self._line, os.getpid()).atexit = False
        return self._line


@dataclass(frozen=True, slots=True)
class _Line:
    """A client with the loop that its connections are bound to, and its free places."""

    loop: asyncio.AbstractEventLoop
    client: AsyncOpenAI
    places: asyncio.Semaphore


def _hang_up(line: _Line, owner: int) -> None:
    """Close a client on its own loop; left to the garbage collector, its sockets would leak."""
    if os.getpid() == owner and line.loop.is_running():
        asyncio.run_coroutine_threadsafe(line.client.close(), line.loop)


def _batches(texts: list[str], size: int) -> Iterator[list[int]]:
    """Cut positions into batches within the API's limits: a token has at least one byte."""
    batch: list[int] = []
    tokens = 0
    for at, text in enumerate(texts):
        most = len(text.encode("utf-8", "surrogatepass"))
        if batch and (len(batch) == size or tokens + most > _MOST_TOKENS):
            yield batch
            batch, tokens = [], 0
        batch.append(at)
        tokens += most
    if batch:
        yield batch


def _in_order(data: Sequence[Any], asked: int, model_name: str) -> Any:  # noqa: ANN401 - a matrix, or what makes none
    """Order the API's answer by its `index`; raise VectorCountError unless each is there once."""
    if sorted(item.index for item in data) != list(range(asked)):
        answered = f"{len(data)} vectors for the texts {sorted(item.index for item in data)!r:.100}"
        raise VectorCountError(model_name, asked, answered)
    return matrix_or_list([_decoded(item.embedding) for item in sorted(data, key=lambda item: item.index)])


def _decoded(embedding: str | list[float]) -> Any:  # noqa: ANN401 - an array or the server's list
    """Decode base64 of little-endian float32; a server without base64 sends a list."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4")
    return embedding
