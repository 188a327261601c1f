"""Counts tokens as OpenAI bills them, by its own tokenizer, where that is installed and knows the model."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiktoken import Encoding


def count(model_name: str, texts: list[str]) -> list[int] | None:
    """Count each text's tokens; None without tiktoken, or for a model that it does not know.

    The first count for a vocabulary that is not on this machine lets tiktoken fetch it; None where it cannot.
    """
    encoding = None if find_spec("tiktoken") is None else _encoding(model_name)
    return None if encoding is None else [len(encoding.encode_ordinary(text)) for text in texts]


@lru_cache(maxsize=8)
def _encoding(model_name: str) -> Encoding | None:
    import tiktoken  # noqa: PLC0415 - an optional package

    try:
        return tiktoken.encoding_for_model(model_name)
    except (KeyError, OSError, ValueError):  # unknown; no network; a vocabulary that is not what it should be
        return None
