"""What changes a foreign embedder's vectors, read from the live object; never a secret."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, SecretBytes, SecretStr

from kura_cache_adapters import embedders
from kura_cache_adapters.embedding.sentence_transformer import content_digest, described
from kura_cache_adapters.errors import IdentityError
from kura_cache_adapters.identity import plain_url
from kura_cache_adapters.protocols import BaseEmbeddingModel
from kura_cache_adapters.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

FINGERPRINT_VERSION = 1
"""Version of the rules below; it is part of every fingerprint."""

_MODEL_NAMES = ("model_name", "model", "model_id")
_DEPTH = 8  # an object graph deeper than this is no description

# A name of one of these words holds a secret, or may ...
_SECRET = re.compile(
    r"(^|_)([a-z]*keys?|[a-z]*(?<!tik)token|secrets?|pass(word|wd|phrase)|pwd|credentials?|auth|"
    r"authorization|bearer|jwt|pat|sas|signature|dsn|connection_string|cookies?|headers?|session|"
    r"prox(y|ies))(_|$)",
)
# ... but these are words of a tokenizer.
_VOCABULARY = re.compile(r"(^|_)(bos|eos|sep|cls|pad|mask|unk|query|document|passage|special)_token$")
_LEAST_SECRET = 12  # characters; shorter ones ("ollama") are also words, and are not cut out of texts
# How vectors are fetched: none of it changes them. Whatever is not listed counts.
_TRANSPORT = re.compile(
    r"(^|_)(batch_size|chunk_size|retries|timeout|wait_time|workers|threads|concurren\w+|parallel|"
    r"devices?|device_ids|cache|cache_folder|cache_dir|embeddings_cache|show_progress\w*|verbose|"
    r"callbacks?|callback_manager|rate_limiter|client|client_kwargs|client_args|user_agent|"
    r"organization|api_version|request_options)$"
    r"|^retry_",
)
# Bookkeeping, in a private attribute.
_COUNTER = re.compile(
    r"_(n_|num_)?(calls?|call_count|count|counter|requests?|hits|misses|elapsed|usage|"
    r"(started|created|last_(used|call|request))(_at)?|total_(calls|cost|requests|tokens))",
)
# Objects of these modules change no vector.
_TOOLS = frozenset({"_thread", "threading", "logging", "asyncio.locks", "concurrent.futures.thread"})
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_URL_USER = re.compile(r"(?<=://)[^/\s@]+@")
_URL_FIELDS = frozenset({"base_url", "api_base", "openai_api_base"})
_ADDRESS = "@address"  # no attribute has this name


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """An embedder's name, what else decides its vectors, and whether queries are documents.

    `local` is a model in this process, which one thread at a time may use, if there is one.
    """

    name: str
    fields: dict[str, Any]
    symmetric: bool
    local: object | None


def fingerprint(embedder: object, *, strict: bool = True) -> Fingerprint:
    """Read from a live embedder what decides its vectors.

    Every attribute counts unless it is known not to: doubt costs a miss, never a wrong hit. Raises
    IdentityError for an embedder whose vectors depend on the other texts of a batch and, if
    strict, for one that cannot be described.
    """
    _refuse_mixing(embedder)
    reader = _Reader(embedder, strict=strict)
    declared = reader.attributes(embedder)
    name = _name(embedder, local=reader.local is not None)
    if strict and name is None and not declared:
        raise IdentityError(embedders.class_path(embedder), "says nothing about its model")
    _normalise_names(declared, local=reader.local is not None)
    return Fingerprint(
        reader.redacted(name or type(embedder).__name__),
        {
            "class": embedders.class_path(embedder),
            "fingerprint": FINGERPRINT_VERSION,
            "attributes": reader.redacted(declared),
        },
        embedders.is_symmetric(embedder),
        reader.local,
    )


def held(thing: object) -> Iterator[tuple[str, Any]]:
    """Iterate over what an object holds, public and private, without counters and caches."""
    names = dict.fromkeys(getattr(thing, "__dict__", {}))
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names |= dict.fromkeys([slots] if isinstance(slots, str) else slots)
    if isinstance(thing, BaseModel):
        names = dict.fromkeys(thing.__dict__) | dict.fromkeys(thing.__pydantic_private__ or {})
        names |= dict.fromkeys(thing.__pydantic_extra__ or {})
    for name in names:
        derived = isinstance(getattr(type(thing), name, None), cached_property)
        counts = not (derived or name.startswith("__") or _COUNTER.fullmatch(name))
        if counts and hasattr(thing, name):
            yield name, getattr(thing, name)


def is_transport(embedder: object, name: str) -> bool:
    """Tell whether an attribute of an embedder says how vectors are fetched, not which."""
    name = _snake(name)
    return name in embedders.transport_of(embedder) or _TRANSPORT.search(name) is not None


class _Undescribed(Exception):  # noqa: N818 - a signal between the functions here
    """A value is an object of which nothing can be said."""


class _Reader:
    """Reads one embedder; remembers its secrets, so that none slips out in another field."""

    def __init__(self, embedder: object, *, strict: bool) -> None:
        self.local: object | None = None
        self._embedder = embedder
        self._strict = strict
        self._hides_transport = embedders.is_of_a_framework(embedder)
        self._secrets: set[str] = set()

    def attributes(self, thing: object, depth: int = 0) -> dict[str, Any]:
        """Describe what an object holds, without what does not count."""
        found: dict[str, Any] = {}
        addresses: set[str] = set()
        for name, value in held(thing):
            if not embedders.has_lazy_client(self._embedder):
                addresses |= set(_addresses(value))
            if self._is_secret(name, value) or (self._is_transport(name) and not self._is_own(value)):
                continue
            try:
                found[name] = self.value(value, depth + 1)
            except _Undescribed:
                self._refuse(thing, name, value)
        found = {name: value for name, value in found.items() if value not in (None, [], {})}
        addresses |= {str(found.pop(name)) for name in _URL_FIELDS & found.keys()}
        return {**found, _ADDRESS: sorted(addresses)} if addresses else found

    def value(self, value: Any, depth: int) -> Any:  # noqa: ANN401, C901, PLR0911 - one line per kind of value
        """Turn a value into JSON; raise _Undescribed for what cannot be."""
        if depth > _DEPTH:
            raise _Undescribed
        if value is None or type(value) in (bool, int, float):
            return value
        if isinstance(value, Enum):
            return self.value(value.value, depth + 1)
        if isinstance(value, str):
            return plain_url(str(value)) if _URL.fullmatch(value) else _URL_USER.sub("", value)
        if isinstance(value, (Path, re.Pattern)):
            return str(value)
        if isinstance(value, np.generic):
            return self.value(value.item(), depth + 1)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return [str(value.dtype), list(value.shape), sha256(value.tobytes()).hexdigest()]
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple)):
            return [self.value(item, depth + 1) for item in value]
        if isinstance(value, (set, frozenset)):
            return sorted((self.value(item, depth + 1) for item in value), key=repr)
        if isinstance(value, type):
            return f"{value.__module__}.{value.__qualname__}"
        return self._object(value, depth)

    def redacted(self, value: Any) -> Any:  # noqa: ANN401 - JSON in, JSON out
        """Return JSON without any string that holds a secret met before."""
        if isinstance(value, dict):
            return {name: self.redacted(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.redacted(item) for item in value]
        if isinstance(value, str):
            for secret in sorted(self._secrets, key=len, reverse=True):
                value = value.replace(secret, "***")
        return value

    def _mapping(self, mapping: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        return {
            str(name): self.value(item, depth + 1)
            for name, item in mapping.items()
            if not self._is_secret(str(name), item) and not self._is_transport(str(name))
        }

    def _object(self, value: Any, depth: int) -> Any:  # noqa: ANN401 - an object in, JSON out
        if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
            return str(value)
        if type(value).__module__ in _TOOLS:
            return None
        if _is_sentence_transformer(value):
            self.local = value
            return described(value)
        if isinstance(value, BaseEmbeddingModel):
            return json.loads(Source(value).identity({}).to_json())
        if self._is_own(value) or isinstance(value, BaseModel) or hasattr(value, "__dataclass_fields__"):
            return {"class": embedders.class_path(value), **self.attributes(value, depth + 1)}
        raise _Undescribed

    def _is_own(self, value: object) -> bool:
        """Tell whether a value is a part of the embedder's own making, or an embedder itself."""
        own = type(value).__module__ == type(self._embedder).__module__ and not callable(value)
        return own or _is_sentence_transformer(value) or embedders.is_embedder(value)

    def _is_secret(self, name: str, value: object) -> bool:
        if isinstance(value, (SecretStr, SecretBytes)):
            self._remember(value.get_secret_value())
            return True
        words = _snake(name)
        if not _SECRET.search(words) or _VOCABULARY.search(words) or isinstance(value, (bool, int, float)):
            return False  # a number is no secret: max_token=512
        self._remember(value)
        return True

    def _remember(self, value: object) -> None:
        if isinstance(value, str) and len(value) >= _LEAST_SECRET:
            self._secrets.add(value)
        elif isinstance(value, (Mapping, list, tuple)):
            for item in value.values() if isinstance(value, Mapping) else value:
                self._remember(item)

    def _is_transport(self, name: str) -> bool:
        return is_transport(self._embedder, name)

    def _refuse(self, thing: object, name: str, value: object) -> None:
        hidden = name.startswith("_") and self._hides_transport
        if self._strict and not hidden:
            why = f"has the attribute {name!r}, a {type(value).__name__}, of which nothing can be read"
            raise IdentityError(embedders.class_path(thing), why)


def _name(embedder: object, *, local: bool) -> str | None:
    for attribute in _MODEL_NAMES:
        name = getattr(embedder, attribute, None)
        if isinstance(name, str) and name not in {"", "unknown"}:
            if local and Path(name).is_dir():
                return Path(name).name
            return plain_url(name) if _URL.fullmatch(name) else str(name).removeprefix("models/")
    return None


def _normalise_names(declared: dict[str, Any], *, local: bool) -> None:
    """Write equal models equally: a local one by what is in its files, not by where they are."""
    for attribute in _MODEL_NAMES:
        name = declared.get(attribute)
        if isinstance(name, str) and name:
            here = local and Path(name).is_dir()
            declared[attribute] = content_digest(Path(name)) if here else name.removeprefix("models/")


def _addresses(client: object) -> Iterator[str]:
    """Iterate over the addresses that an SDK's client talks to."""
    if client is None or isinstance(client, (str, bytes, int, float, list, tuple, dict, BaseModel)):
        return
    for path in embedders.ADDRESSES:
        place: Any = client
        with suppress(Exception):  # a foreign object's property may raise anything
            for step in path.split("."):
                place = place.get(step) if isinstance(place, dict) else getattr(place, step, None)
            text = str(place) if place is not None else ""
            if _URL.fullmatch(text) and not (urlsplit(text).hostname or "").endswith(".amazonaws.com"):
                yield plain_url(text)


def _refuse_mixing(embedder: object) -> None:
    """Refuse embedders that hold vectors which are not the asked text's own."""
    name = str(getattr(embedder, "model_name", None) or getattr(embedder, "model", ""))
    voyage = "voyage" in type(embedder).__module__ and "-context-" in name
    if voyage or getattr(embedder, "_late_chunking", None):
        why = "embeds the texts of a batch together, so that a text alone has no vector to cache"
        raise IdentityError(embedders.class_path(embedder), why, cure="Use it without a cache.")
    if getattr(embedder, "embeddings_cache", None) is not None:
        why = "has an embeddings_cache, which answers a query with a document's vector"
        cure = "Set embeddings_cache=None; this cache replaces it."
        raise IdentityError(embedders.class_path(embedder), why, cure=cure)


def _is_sentence_transformer(value: object) -> bool:
    return any(
        kind.__name__ == "SentenceTransformer" and kind.__module__.startswith("sentence_transformers.")
        for kind in type(value).__mro__
    )


def _snake(name: str) -> str:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.lstrip("_"))
    return re.sub(r"\W", "_", name).lower()
