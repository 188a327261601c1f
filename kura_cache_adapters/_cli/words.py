"""What people type for times, sizes and models, read; and sizes and times, written as people read them."""

from __future__ import annotations

import importlib
import json
import re
import sys
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click

from kura_cache_adapters._identity.secrets import plain_url
from kura_cache_adapters.cached_embedding import CachedEmbeddingModel
from kura_cache_adapters.options import CacheOptions
from kura_cache_adapters.stores.url_options import read_span

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SIZES = ["B", "kB", "MB", "GB", "TB"]
_BINARY = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_MODELS = {
    "openai": "OpenAIEmbeddingModel",
    "sentence-transformers": "SentenceTransformerEmbeddingModel",
}


def duration(word: str) -> timedelta:
    """Read a number with s, m, h, d or w behind it; raise ValueError for something else."""
    try:
        return read_span(word.strip())
    except ValueError as error:
        message = f"{word!r} is no time: write 90s, 15m, 12h, 30d or 8w"
        raise ValueError(message) from error


def size(word: str) -> int:
    """Read a number of bytes, as 500MB, 10GB or 2GiB; raise ValueError for something else."""
    read = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)", word.strip().lower())
    unit = "" if read is None else (read[2].rstrip("b") + "b").upper()
    factors = {**_BINARY, **{name.upper(): 1000**power for power, name in enumerate(_SIZES)}}
    if read is None or unit not in factors:
        message = f"{word!r} is no size: write 500MB, 10GB or 2GiB"
        raise ValueError(message)
    return int(float(read[1]) * factors[unit])


def bytes_of(count: int | None) -> str:
    """Write a number of bytes with three digits, `?` for None."""
    if count is None:
        return "?"
    number, units = float(count), iter(_SIZES)
    unit = next(units)
    while number >= 999.5 and unit != _SIZES[-1]:  # noqa: PLR2004 - what would be written as 1,000
        number, unit = number / 1000, next(units)
    return f"{count} B" if unit == "B" else f"{number:.3g} {unit}"


def longer_ago(moment: datetime | None, than: timedelta) -> bool:
    """Tell whether something is longer ago; not if that is not known."""
    return moment is not None and datetime.now(timezone.utc) - moment > than


def counted(number: int | None) -> str:
    """Write a count with its thousands, `?` for None."""
    return "?" if number is None else f"{number:,}"


def ago(moment: datetime | None) -> str:
    """Write how long ago something was, `?` for None."""
    if moment is None:
        return "?"
    seconds = max(0.0, (datetime.now(timezone.utc) - moment).total_seconds())
    unit = max((each for each in _UNITS if _UNITS[each] <= seconds), key=_UNITS.__getitem__, default="s")
    return f"{int(seconds // _UNITS[unit])}{unit} ago"


def without_password(cache: str) -> str:
    """Return a path as it is, and a URL without what may hold secrets."""
    return plain_url(cache) if "://" in cache else cache


def lines_of(path: str) -> list[str]:
    """Read lines without their ends; `-` is standard input."""
    with click.open_file(path, encoding="utf-8") as lines:
        return [line.rstrip("\r\n") for line in lines]


def model_named(word: str) -> Any:  # noqa: ANN401 - whatever embeds
    """Make the model that a word names.

    `openai:NAME`, `sentence-transformers:NAME`, or `module:attribute` for an embedding model of your own, or
    for a function without parameters that makes one. Raises ValueError where there is none.
    """
    origin, colon, name = word.partition(":")
    if not colon or not name:
        message = (
            f"{word!r} names no model: write openai:text-embedding-3-small, "
            "sentence-transformers:all-MiniLM-L6-v2, or package.module:attribute"
        )
        raise ValueError(message)
    if origin in _MODELS:
        return getattr(importlib.import_module("kura_cache_adapters"), _MODELS[origin])(name)
    return _own(origin, name)


def cached_model(
    word: str,
    cache: str,
    keywords: list[str] | None,
    **options: Any,
) -> CachedEmbeddingModel:
    """Make the cached model that a word names, with keywords written as NAME=VALUE: JSON, or else a text.

    Raises ValueError and TypeError for what names none, or is no part of a key.
    """
    named = dict(map(_keyword, keywords or ()))
    return CachedEmbeddingModel(model_named(word), cache, options=CacheOptions(**options), **named)


def _keyword(word: str) -> tuple[str, Any]:
    name, sign, value = word.partition("=")
    if not sign or not name.isidentifier():
        message = f"--param {word} is no NAME=VALUE, as in batch_size=50"
        raise ValueError(message)
    with suppress(ValueError):
        return name, json.loads(value)
    return name, value


def _own(module: str, attribute: str) -> Any:  # noqa: ANN401 - as above
    if (here := str(Path.cwd())) not in sys.path:  # where a script of pip's does not look
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        message = f"There is no {attribute!r} in a module {module!r} that can be imported from here: {error}"
        raise ValueError(message) from error
    return found() if callable(found) and not hasattr(found, "model_name") else found
