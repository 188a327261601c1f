"""Read the answers of servers that speak OpenAI's API, more or less."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from kura_cache_adapters._core.vectors import exact_matrix
from kura_cache_adapters.errors import AnswerError, VectorCountError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kura_cache_adapters.embedding._openai.asking import Address
    from kura_cache_adapters.protocols import Vectors

_MOST_QUOTED = 200  # characters of a server's message
_MOST_SHOWN = 40  # characters of a text or a secret
_MARKUP = re.compile(r"<(style|script).*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_LEAST_SECRET = 6  # characters: what is shorter stands in many words


@dataclass(frozen=True, slots=True)
class Answer:
    """One vector for each text, who made them, and the tokens that were counted."""

    vectors: Vectors | list[Any]
    model: str
    tokens: int


def read_answer(
    content: bytes,
    asked: int,
    model_name: str,
    address: Address,
    secrets: Iterable[str],
) -> Answer:
    """Read the body of an answer of status 200.

    Raises AnswerError for what holds no embeddings, VectorCountError unless there is one a text.
    """
    body = _json(content)
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list) or not all(isinstance(item, dict) and "embedding" in item for item in data):
        raise AnswerError(address.shown, quoted(content, secrets), _cure(address))
    try:
        vectors = [_decoded(item["embedding"]) for item in _in_order(data, asked, model_name)]
    except binascii.Error:
        raise AnswerError(address.shown, "embeddings that are not base64 of float32", "") from None
    return Answer(_of_one_type(vectors), _name(body.get("model")), _tokens(body.get("usage")))


def quoted(content: bytes, secrets: Iterable[str]) -> str:
    """Return what a server has to say, shortened: its message where there is one, no secret in it."""
    message = _said(content)
    for secret in secrets:
        message = _without(secret, message)
    return message if len(message) <= _MOST_QUOTED else f"{message[:_MOST_QUOTED]}..."


def _without(secret: str, message: str) -> str:
    """Take a secret or a text out of a message; what repeats only its beginning ends there."""
    if len(secret) < _LEAST_SECRET:
        return message
    message = message.replace(secret, "***")
    before, found, _ = message.partition(secret[:_MOST_SHOWN])
    return f"{before}***" if found else message


def _said(content: bytes) -> str:
    """Find a message, or say what came: vectors are nobody's to read."""
    body = _json(content)
    if message := _message(body):
        return message
    if isinstance(body, dict):
        return f"an object with the fields {[*map(str, body)]}"
    if isinstance(body, list):
        return f"a list of {len(body)}"
    text = re.sub(_MARKUP, " ", content.decode("utf-8", "replace"))
    return " ".join(text.split())


def _json(content: bytes) -> Any:  # noqa: ANN401 - any JSON, None for none
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _message(body: Any) -> str:  # noqa: ANN401 - any JSON
    """Find the message in the forms that servers give it: OpenAI's, TEI's, FastAPI's."""
    if isinstance(body, list):
        return "; ".join(filter(None, (_message(item) for item in body if isinstance(item, dict))))
    if not isinstance(body, dict):
        return body if isinstance(body, str) else ""
    forms = (body.get(name) for name in ("error", "message", "detail", "msg", "error_msg"))
    return next(filter(None, map(_message, forms)), "")


def _cure(address: Address) -> str:
    path = urlsplit(address.base_url).path
    if re.search(r"/v\d|/openai", path):
        return ""
    return f"Most servers want a base_url that ends in /v1: {address.shown}/v1"


def _in_order(data: Sequence[Any], asked: int, model_name: str) -> Sequence[Any]:
    """Order items by their `index`, or leave them as they are when none has one."""
    indices = [item.get("index") for item in data]
    if len(data) == asked and all(index is None for index in indices):
        return data
    whole = all(type(index) is int for index in indices)
    if not whole or sorted(indices) != list(range(asked)):
        answered = f"{len(data)} vectors for the texts {indices!r:.100}"
        raise VectorCountError(model_name, asked, answered)
    return sorted(data, key=lambda item: item["index"])


def _decoded(embedding: Any) -> Any:  # noqa: ANN401 - an array, the server's list, or a hole
    """Decode base64 of little-endian float32; a server without base64 sends a list."""
    if not isinstance(embedding, str):
        return embedding
    content = base64.b64decode(embedding, validate=True)
    if len(content) % 4:
        raise binascii.Error
    return np.frombuffer(content, "<f4") if content else None


def _of_one_type(vectors: list[Any]) -> Vectors | list[Any]:
    """Return one matrix, or lists of floats with what is no vector among them."""
    matrix = exact_matrix(vectors)
    if matrix is not None:
        return matrix
    return [vector.tolist() if isinstance(vector, np.ndarray) else vector for vector in vectors]


def _name(model: Any) -> str:  # noqa: ANN401 - any JSON
    return model if isinstance(model, str) else ""


def _tokens(usage: Any) -> int:  # noqa: ANN401 - any JSON: counting never costs an answer
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return max(tokens, 0) if type(tokens) is int else 0
