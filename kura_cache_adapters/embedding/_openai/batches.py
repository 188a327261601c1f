"""Cut the texts of a call into requests; those that are refused are halved, until the bad texts are found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters.errors import RefusedTextsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openai import APIStatusError

logger = logger_of("openai")

_MOST_TOKENS = 300_000  # a request: https://platform.openai.com/docs/api-reference/embeddings/create
_TOO_LARGE = 413
_FOR_ITS_TEXTS = frozenset({400, _TOO_LARGE, 422})
_OF_COUNT = re.compile(r"batch|array|too many", re.IGNORECASE)
_OF_SIZE = re.compile(r"too large|per request|request size", re.IGNORECASE)

# So many refusals are taken before a request is thought to be refused whatever its texts: enough to
# find two texts in 2,048. Each answer in between is worth some more.
_PATIENCE = 24
_PER_ANSWER = 8
_MOST_PATIENCE = 256


@dataclass(slots=True)
class RequestSize:
    """How many texts a server takes at once: what was asked for, or what it was found to take."""

    texts: int
    told: bool = False

    def refused(self, size: int, status: int, message: str) -> None:
        """Learn from a refusal of so many texts, when it speaks of that."""
        of_count = _OF_COUNT.search(message) is not None
        if not (of_count or status == _TOO_LARGE or _OF_SIZE.search(message)):
            return
        if of_count and "token" not in message.lower():  # other texts may have fewer tokens
            self.texts = min(self.texts, max(1, size // 2))
        if not self.told:
            self.told = True
            logger.warning(
                "A request of %d texts was refused for its size, and is sent again in halves: %s. "
                "A smaller model_batch_size spares the server and you that.",
                size,
                message,
            )


class Batches:
    """The requests of one call, as positions in its texts."""

    def __init__(
        self,
        texts: list[str],
        size: RequestSize,
        at_once: int,
        quote: Callable[[APIStatusError, list[str]], str],
    ) -> None:
        """Take the texts, how many go into a request, how many run at once, and how to quote a refusal.

        What is quoted must not show the texts.
        """
        self._texts = texts
        self._size = size
        self._quote = quote
        self._fresh = self._cut()
        self._halves: list[list[int]] = []
        self._refused: dict[int, APIStatusError] = {}
        self._patience = _PATIENCE + at_once
        self._elsewhere = False

    def take(self, most: int) -> Iterator[list[int]]:
        """Yield what to ask for now."""
        while most > 0 and (batch := self._next()):
            most -= 1
            yield batch

    def answered(self) -> None:
        """Hear that a request was answered."""
        self._patience = min(_MOST_PATIENCE, self._patience + _PER_ANSWER)

    def failed(self, batch: list[int], failure: BaseException) -> BaseException | None:
        """Hear of a request's failure and return it, or None where the request goes on in halves."""
        if getattr(failure, "status_code", None) not in _FOR_ITS_TEXTS:
            return failure
        self._patience -= 1
        if self._patience <= 0:
            return failure
        self._halve(batch, cast("APIStatusError", failure))
        return None

    def raise_for_refused(self, model_name: str) -> None:
        """Raise RefusedTextsError when texts were refused one by one."""
        if not self._refused:
            return
        positions = sorted(self._refused)
        first = self._refused[positions[0]]
        message = self._quote(first, [self._texts[positions[0]]])
        raise RefusedTextsError(model_name, positions, message) from first

    def _halve(self, batch: list[int], refusal: APIStatusError) -> None:
        if len(batch) == 1:
            self._refused[batch[0]] = refusal
            self._elsewhere = True
            return
        message = self._quote(refusal, [self._texts[at] for at in batch])
        self._size.refused(len(batch), refusal.status_code, message)
        middle = len(batch) // 2
        self._halves += [batch[middle:], batch[:middle]]

    def _next(self) -> list[int] | None:
        if not self._halves:
            return next(self._fresh, None)
        # A bad text has many a bad neighbour: the next try is where most others are.
        largest = max(range(len(self._halves)), key=lambda at: len(self._halves[at]))
        batch = self._halves.pop(largest if self._elsewhere else -1)
        self._elsewhere = False
        if rest := batch[self._size.texts :]:
            self._halves.append(rest)
        return batch[: self._size.texts]

    def _cut(self) -> Iterator[list[int]]:
        """Cut positions into batches within the API's limits: a token has at least one byte."""
        batch: list[int] = []
        tokens = 0
        for at, text in enumerate(self._texts):
            most = len(text.encode("utf-8", "surrogatepass"))
            if batch and (len(batch) >= self._size.texts or tokens + most > _MOST_TOKENS):
                yield batch
                batch, tokens = [], 0
            batch.append(at)
            tokens += most
        if batch:
            yield batch
