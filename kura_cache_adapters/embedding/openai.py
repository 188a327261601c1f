"""OpenAIEmbeddingModel: any API that speaks OpenAI's, through the official SDK."""

from __future__ import annotations

import asyncio
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._runtime import loop
from kura_cache_adapters._runtime.detached import stop_if_left
from kura_cache_adapters.embedding._openai import tokens
from kura_cache_adapters.embedding._openai.asking import Asking
from kura_cache_adapters.embedding._openai.batches import Batches, RequestSize
from kura_cache_adapters.embedding._openai.endpoint import Endpoint, Usage
from kura_cache_adapters.embedding.streaming import collect
from kura_cache_adapters.errors import require
from kura_cache_adapters.identity import DOCUMENT, checked_role, known_role
from kura_cache_adapters.protocols import BaseEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from openai import AsyncOpenAI

    from kura_cache_adapters.embedding._openai.endpoint import Encoding
    from kura_cache_adapters.identity import Role

_MOST_TEXTS = 2_048  # a request: https://platform.openai.com/docs/api-reference/embeddings/create


class OpenAIEmbeddingModel(BaseEmbeddingModel):
    """Embed with OpenAI's API, or any that speaks it, through the official SDK.

    Requests run on one event loop of this package, whichever loop or thread asks, over connections
    of their own: a client may be shared with the application. The SDK's own retries and timeouts
    apply. Needs the extra `openai`, and a key at the first request.
    """

    runs_on = "background"

    def __init__(  # noqa: PLR0913 - what an API may be asked with
        self,
        model_name: str = "text-embedding-3-small",
        model_batch_size: int = 256,
        n_concurrent_jobs: int = 5,
        *,
        dimensions: int | None = None,
        client: AsyncOpenAI | None = None,
        encoding_format: Encoding = "base64",
        extra_body: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str] | None = None,
        roles: Mapping[Role, Mapping[str, Any]] | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """Name a model; without a client, one is made from the environment at the first request.

        Args:
            model_name: what the API calls it; it is in every key.
            model_batch_size: texts in a request, fewer where they could exceed 300,000 tokens.
            n_concurrent_jobs: requests at once.
            dimensions: asked of the API, where it can shorten its vectors.
            client: an AsyncOpenAI or AsyncAzureOpenAI; its address and parameters are in the key.
            encoding_format: how vectors travel; "float" is turned to where "base64" is refused.
            extra_body: further fields of each request, as in the SDK.
            extra_headers: further headers of each request, as in the SDK.
            roles: what else a role is asked with, `{"query": {"prefix": "query: "}}`: its prefix,
                extra_body and extra_headers. Where roles differ, each is cached apart.
            identity: replaces all that is read from the client and these options for the key; the
                name that the API gives its model is then not compared.

        Raises:
            ValueError: a number out of range, or an encoding that there is not.
            TypeError: a client that is not async, or an option that a role does not take.

        """
        _check_numbers(model_batch_size, n_concurrent_jobs)
        if encoding_format not in {"base64", "float"}:
            message = f"encoding_format must be 'base64' or 'float', not {encoding_format!r}"
            raise ValueError(message)
        if client is not None:
            _check_client(client)
        elif find_spec("openai") is None:  # not imported: a run of hits does without it
            require("openai", extra="openai")
        self.model_name = model_name
        self.dimensions = dimensions
        self._slug = f"openai:{model_name}-batchsize:{model_batch_size}"
        self._size = RequestSize(model_batch_size)
        self._n_concurrent_jobs = n_concurrent_jobs
        self._asking = {
            role: Asking.of(role, (roles or {}).get(role, {}), extra_body, extra_headers)
            for role in map(checked_role, (DOCUMENT, "query", *(roles or {})))
        }
        self._given = None if identity is None else dict(identity)
        self._endpoint = Endpoint(client, n_concurrent_jobs, encoding_format, one_model=identity is None)

    @property
    def client(self) -> AsyncOpenAI:
        """The client that was given, or one made from the environment (OPENAI_API_KEY) when first used."""
        return self._endpoint.client

    @property
    def usage(self) -> Usage:
        """What the API has been asked for so far."""
        return self._endpoint.usage

    @property
    def answers_as(self) -> str:
        """The name under which the API answers, as far as it is known; what answers as another is refused."""
        return self._endpoint.answers_as

    @answers_as.setter
    def answers_as(self, name: str) -> None:
        self._endpoint.answers_as = name

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles, "query" among them; none where all are asked for alike."""
        document, others = self._deciding()
        return tuple(others) if any(told != document for told in others.values()) else ()

    def slug(self) -> str:
        """Return a name for people."""
        return self._slug

    def identity(self) -> dict[str, Any]:
        """Return what decides the vectors beside the model's name, secrets sealed.

        The API's address, the parameters and headers that the client adds, the dimensions, and what
        documents are asked with; under `roles`, what others are asked with where that differs.
        """
        if self._given is not None:
            return dict(self._given)
        document, others = self._deciding()
        nothing = dict.fromkeys(document)  # what a role goes without is no part of its keys either
        roles = {role: {**nothing, **told} for role, told in others.items() if told != document}
        told = {**self._endpoint.address.deciding(), **self._dimensions(), **document}
        return {**told, "roles": roles} if roles else told

    def count_tokens(self, texts: list[str], *, role: Role = "document") -> list[int] | None:
        """Count the tokens of each text as it is sent; None without tiktoken, or for a foreign model."""
        asking = self._asking[known_role(role, self.roles, self.model_name)]
        return tokens.count(self.model_name, asking.prefixed(texts))

    async def embed(self, texts: list[str], *, role: Role = "document") -> list[list[float]]:
        """Embed each text, from any event loop.

        Raises:
            ValueError: a role that it was given nothing for, where others are told apart.
            openai.OpenAIError: what the SDK raises.
            RefusedTextsError: some of the texts were refused.
            VectorCountError: the answer is not one vector a text.
            AnswerError: the answer is no embeddings.
            IdentityError: another model answers than before.

        """
        return await loop.hop(collect(self, texts, role))

    async def embed_batches(
        self,
        texts: list[str],
        *,
        role: Role,
    ) -> AsyncGenerator[tuple[Sequence[int], Any], None]:
        """Yield (positions, vectors) as each request is answered; to be run on one event loop.

        A request that is refused for some of its texts is halved until they are found. When one
        fails otherwise no new one is sent; those under way are yielded, then the error raised. When
        the caller is cancelled, what has been answered by then is yielded first.
        """
        asking = self._asking[known_role(role, self.roles, self.model_name)]
        texts = asking.prefixed(texts)
        batches = Batches(texts, self._size, self._n_concurrent_jobs, partial(self._endpoint.quoted, asking))
        options = {"model": self.model_name, **self._dimensions()}
        running: dict[asyncio.Task[Any], list[int]] = {}
        failure: BaseException | None = None
        try:
            while True:
                try:
                    stop_if_left()
                    for batch in batches.take(0 if failure else self._n_concurrent_jobs - len(running)):
                        some = [texts[at] for at in batch]
                        running[asyncio.create_task(self._endpoint.request(some, options, asking))] = batch
                    if not running:
                        break
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                except asyncio.CancelledError as cancelled:
                    failure = cancelled
                for task in [task for task in running if task.done()]:
                    batch = running.pop(task)
                    if (error := task.exception()) is None:
                        batches.answered()
                        yield batch, task.result()
                    else:
                        failure = failure or batches.failed(batch, error)
                if isinstance(failure, asyncio.CancelledError):
                    break
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if failure is not None:
            raise failure
        batches.raise_for_refused(self.model_name)

    def _dimensions(self) -> dict[str, int]:
        return {} if self.dimensions is None else {"dimensions": self.dimensions}

    def _deciding(self) -> tuple[dict[str, Any], dict[Role, dict[str, Any]]]:
        """Return what decides documents, and what decides each other role."""
        headers = self._endpoint.address.headers
        others = {role: asking.deciding(headers) for role, asking in self._asking.items()}
        return others.pop(DOCUMENT), others


def _check_numbers(model_batch_size: int, n_concurrent_jobs: int) -> None:
    if not 1 <= model_batch_size <= _MOST_TEXTS:
        message = f"model_batch_size must be between 1 and {_MOST_TEXTS}, not {model_batch_size}"
        raise ValueError(message)
    if n_concurrent_jobs < 1:
        message = f"n_concurrent_jobs must be at least 1, not {n_concurrent_jobs}"
        raise ValueError(message)


def _check_client(client: object) -> None:
    openai = require("openai", extra="openai")
    if isinstance(client, openai.AsyncOpenAI):
        return
    asynchronous = "AsyncAzureOpenAI" if isinstance(client, openai.AzureOpenAI) else "AsyncOpenAI"
    message = f"client must be async, not {type(client).__name__}: pass openai.{asynchronous}(...)"
    raise TypeError(message)
