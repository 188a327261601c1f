"""Ask one API: with which client, in which encoding, and whether the same model answers."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kura_cache_adapters._observe.billing import note_billed
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters.embedding._openai.asking import Address
from kura_cache_adapters.embedding._openai.connection import Connection
from kura_cache_adapters.embedding._openai.reading import quoted, read_answer
from kura_cache_adapters.errors import IdentityError, require

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openai import APIStatusError, AsyncOpenAI

    from kura_cache_adapters.embedding._openai.asking import Asking
    from kura_cache_adapters.embedding._openai.reading import Answer

    Encoding = Literal["base64", "float"]

logger = logger_of("openai")

_OF_ENCODING = re.compile(rb"base64|encoding[-_ ]?format", re.IGNORECASE)
_NOT_UNDERSTOOD = frozenset({400, 415, 422})


@dataclass(frozen=True, slots=True)
class Usage:
    """What an API has been asked for: requests, texts, and the tokens that it counted."""

    requests: int = 0
    texts: int = 0
    tokens: int = 0


class Endpoint:
    """An API as one client, given or the environment's, reaches it."""

    def __init__(
        self,
        client: AsyncOpenAI | None,
        slots: int,
        encoding: Encoding,
        *,
        one_model: bool,
    ) -> None:
        """Take the client, how many requests it takes at once, and whether to look who answers."""
        self.usage = Usage()
        self._given = client
        self._made: AsyncOpenAI | None = None
        self._environment = Address.of_environment()
        self._slots = slots
        self._connection: Connection | None = None
        self._encoding = encoding
        self._untried = encoding == "base64"
        self._one_model = one_model
        self.answers_as = ""
        self._told: set[str] = set()

    @property
    def client(self) -> AsyncOpenAI:
        """The client that was given, or one made from the environment."""
        if self._given is not None:
            return self._given
        if self._made is None:
            openai, read = require("openai", extra="openai"), self._environment
            self._made = openai.AsyncOpenAI(
                api_key=read.tokens[0] or None,
                base_url=read.base_url,
                default_headers=read.headers,
            )
        return self._made

    @property
    def address(self) -> Address:
        """Where requests go; no client is made for it."""
        return self._environment if self._given is None else Address.of_client(self._given)

    async def request(self, texts: list[str], options: Mapping[str, Any], asking: Asking) -> Any:  # noqa: ANN401 - a matrix, or what makes none
        """Embed texts in one request; raises what `OpenAIEmbeddingModel.embed` does."""
        connection = self._connected()
        refused: type[APIStatusError] = require("openai", extra="openai").APIStatusError
        async with connection.slots:
            client, encoding = connection.client(self.client), self._encoding
            try:
                answer = await _ask(client, encoding, texts, options, asking)
            except refused as refusal:
                if encoding == "float" or not self._may_be_for_the_encoding(refusal):
                    raise
                answer = await _ask(client, "float", texts, options, asking)
                self._encoding = "float"
        self._untried = False
        now = self.usage
        self.usage = Usage(now.requests + 1, now.texts + len(texts), now.tokens + answer.tokens)
        note_billed(answer.tokens)
        self._refuse_another_model(answer.model, options["model"])
        return answer.vectors

    def quoted(self, asking: Asking, refusal: APIStatusError, texts: list[str]) -> str:
        """Return the server's message, without secrets and without the texts."""
        secrets = Address.of_client(self.client).secrets(asking)
        return quoted(refusal.response.content, [*secrets, *texts])

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the client, which the other side makes from its environment."""
        if self._given is not None:
            message = "a model with a client of its own cannot be pickled: leave client=None"
            raise TypeError(message)
        return {**self.__dict__, "_made": None, "_connection": None, "_environment": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read this side's environment."""
        self.__dict__.update(state)
        self._environment = Address.of_environment()

    def _connected(self) -> Connection:
        """Return the connections for this loop; a forked child's are not its parent's."""
        if self._connection is None or self._connection.loop is not asyncio.get_running_loop():
            self._connection = Connection.of(self.client, self._slots, self)
        return self._connection

    def _may_be_for_the_encoding(self, refusal: APIStatusError) -> bool:
        """Tell whether a refusal speaks of base64; the first of all may also keep its reason to itself."""
        first, self._untried = self._untried, False
        if _OF_ENCODING.search(refusal.response.content):
            return True
        return first and refusal.status_code in _NOT_UNDERSTOOD

    def _refuse_another_model(self, name: str, asked: str) -> None:
        """Compare who answers with who did first: the vectors of two models make no sense together."""
        if not name or not self._one_model:
            return
        self.answers_as = before = self.answers_as or name
        if name == before:
            return
        what, told = (
            f"{self.address.shown} answers for {asked}",
            f"as {name!r:.100} and before as {before!r:.100}",
        )
        if name not in self._told:
            self._told.add(name)
            logger.warning("%s %s: what it answers now is neither stored nor handed out", what, told)
        cure = (
            "Give what answers now another model_name, and another cache is filled; if both names are "
            "one model's, pass identity=model.identity()."
        )
        raise IdentityError(what, told, cure)


async def _ask(
    client: AsyncOpenAI,
    encoding: Encoding,
    texts: list[str],
    options: Mapping[str, Any],
    asking: Asking,
) -> Answer:
    # The raw answer: the SDK's own reading fails on what some servers send, and takes its time over lists.
    response = await client.embeddings.with_raw_response.create(
        input=texts,
        encoding_format=encoding,
        extra_body=asking.extra_body or None,
        extra_headers=asking.extra_headers or None,
        **options,
    )
    address = Address.of_client(client)
    secrets = [*address.secrets(asking), *texts]
    return read_answer(response.content, len(texts), options["model"], address, secrets)
