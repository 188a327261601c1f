"""Reads an object's attributes as JSON, exactly: None, [] and {} are three things, 1 and "1" two."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import Enum
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, SecretBytes, SecretStr

from kura_cache_adapters._identity import modules
from kura_cache_adapters._identity.origin import class_path, is_installed
from kura_cache_adapters._identity.secrets import (
    deciding_headers,
    deciding_query,
    deciding_url,
    is_credential,
    is_secret_name,
    sealed,
)
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters.errors import IdentityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logger_of("identity")

_DEPTH = 8  # an object graph deeper than this is no description
_MOST_FILES = 10_000  # of a directory that is read as content
_LEAST_SECRET = 12  # characters; shorter ones ("ollama") are also words, and are not cut out of texts
_DAY = 86_400.0

# Objects of these modules change no vector.
_TOOLS = frozenset({"_thread", "threading", "logging", "asyncio.locks", "concurrent.futures.thread"})
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_URL_USER = re.compile(r"(?<=://)[^/\s@]+@")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_COUNTER = re.compile(
    r"_(n_|num_|total_)?(calls?|call_count|count|counter|requests?|hits|misses|usage|elapsed)"
)


class Unreadable(Exception):  # noqa: N818 - a signal between the functions here
    """A value is an object of which nothing can be said."""


def held(thing: object) -> Iterator[tuple[str, Any]]:
    """Iterate over what an object holds, public and private, without what it computes when asked."""
    names = dict.fromkeys(getattr(thing, "__dict__", {}))
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names |= dict.fromkeys([slots] if isinstance(slots, str) else slots)
    if isinstance(thing, BaseModel):
        names = dict.fromkeys(thing.__dict__) | dict.fromkeys(thing.__pydantic_private__ or {})
        names |= dict.fromkeys(thing.__pydantic_extra__ or {})
    for name in names:
        derived = isinstance(getattr(type(thing), name, None), cached_property)
        if not derived and not name.startswith("__") and hasattr(thing, name):
            yield name, getattr(thing, name)


class Reader:
    """Reads one embedder; remembers its secrets, so that none slips out in another field.

    `nested` describes an embedder inside it; `silent` and `defaults` leave out of mappings what says
    nothing (see `Provider`). Of a `known` class None inside an object is as good as absent, and an
    object of pydantic's is the mapping that it may be written as.
    """

    def __init__(
        self,
        embedder: object,
        nested: Callable[[Any], Any],
        *,
        silent: frozenset[str] = frozenset(),
        defaults: Mapping[str, Any] | None = None,
        known: bool = False,
    ) -> None:
        self._embedder = embedder
        self._home = type(embedder).__module__.partition(".")[0]
        self._nested = nested
        self._silent = silent
        self._defaults = defaults or {}
        self._known = known
        self._secrets: set[str] = set()

    def attribute(self, name: str, value: object) -> Any:  # noqa: ANN401 - JSON
        """Describe an attribute; raise IdentityError, which names it, for what cannot be read."""
        try:
            return self.value(value, 1)
        except Unreadable:
            why = f"has the attribute {name!r}, a {type(value).__name__}, of which nothing can be read"
            raise IdentityError(class_path(self._embedder), why) from None

    def attributes(self, thing: object, depth: int = 0) -> dict[str, Any]:
        """Describe all that an object holds; credentials are left out, other secrets sealed."""
        found: dict[str, Any] = {}
        for name, value in held(thing):
            if self.is_credential(name, value) or type(value).__module__ in _TOOLS:
                continue
            self._warn_of_what_passes(name, value)
            if is_secret_name(name) and not isinstance(value, (bool, int, float, type(None))):
                self._remember(value)
                found[name] = {"@sealed": sealed(json.dumps(self._try(name, value, depth), sort_keys=True))}
            else:
                found[name] = self._try(name, value, depth)
        return found

    def _try(self, name: str, value: object, depth: int) -> Any:  # noqa: ANN401
        return self.value(value, depth + 1) if depth else self.attribute(name, value)

    def value(self, value: Any, depth: int) -> Any:  # noqa: ANN401, C901, PLR0911, PLR0912 - one line per kind
        """Turn a value into JSON that no other value has; raise Unreadable for what cannot be."""
        if depth > _DEPTH:
            raise Unreadable
        if value is None or type(value) in (bool, int):
            return value
        if isinstance(value, Enum):
            return {"@enum": f"{class_path(value)}.{value.name}"}
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"@float": repr(float(value))}
        if isinstance(value, str):
            return self._text(str(value))
        if isinstance(value, (bytes, bytearray)):
            return {"@bytes": sha256(value).hexdigest()}
        if isinstance(value, Path):
            return {"@path": _content(value) or str(value)}
        if isinstance(value, re.Pattern):
            return {"@pattern": [str(value.pattern), value.flags]}
        if isinstance(value, (dt.date, uuid.UUID)):
            return {"@text": str(value)}
        if isinstance(value, np.generic):
            return self.value(value.item(), depth + 1)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufSU":
            return {"@array": [str(value.dtype), list(value.shape), sha256(value.tobytes()).hexdigest()]}
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple)):
            return [self.value(item, depth + 1) for item in value]
        if isinstance(value, (set, frozenset)):
            return {"@set": sorted((self.value(item, depth + 1) for item in value), key=repr)}
        if isinstance(value, type):
            return {"@class": f"{value.__module__}.{value.__qualname__}"}
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

    def is_credential(self, name: str, value: object) -> bool:
        """Tell whether an attribute is what is paid or logged in with; it is remembered as a secret."""
        if isinstance(value, (SecretStr, SecretBytes)):
            self._remember(value.get_secret_value())
            return True
        if not is_credential(name) or isinstance(value, (bool, int, float, type(None))):
            return False  # a number is none: max_token=512
        self._remember(value)
        return True

    def _text(self, text: str) -> Any:  # noqa: ANN401
        if _URL.fullmatch(text):
            return deciding_url(text)
        if ("/" in text or "\\" in text) and len(text) < 4096 and (found := _content(Path(text))):  # noqa: PLR2004
            return {"@path": found}
        return _URL_USER.sub("", text)

    def _mapping(self, mapping: Mapping[Any, Any], depth: int) -> Any:  # noqa: ANN401
        """Describe a mapping; one with other keys than strings by its items."""
        told = {}
        for name, item in mapping.items():
            if isinstance(name, str) and (self.is_credential(name, item) or name in self._silent):
                continue
            if name in self._defaults and self._defaults[name] == item:
                continue
            told[name] = self._item(name, item, depth)
        if all(type(name) is str for name in told):
            return told
        items = [[self.value(name, depth + 1), item] for name, item in told.items()]
        return {"@items": sorted(items, key=repr)}

    def _item(self, name: object, item: object, depth: int) -> Any:  # noqa: ANN401
        if isinstance(item, Mapping) and isinstance(name, str):
            if name.endswith("headers"):
                return deciding_headers(item)
            if name.endswith("query"):
                return deciding_query(item)
        if (
            isinstance(name, str)
            and is_secret_name(name)
            and not isinstance(item, (bool, int, float, type(None)))
        ):
            self._remember(item)
            return {"@sealed": sealed(json.dumps(self.value(item, depth + 1), sort_keys=True))}
        return self.value(item, depth + 1)

    def _object(self, value: Any, depth: int) -> Any:  # noqa: ANN401 - an object in, JSON out
        if (inner := self._nested(value)) is not None:
            return inner
        if modules.is_torch(value):
            return modules.content_of(value)
        if self._known and isinstance(value, BaseModel) and is_installed(type(value).__module__):
            return self._mapping(value.model_dump(exclude_none=True), depth)
        same = type(value).__module__.partition(".")[0] == self._home and not callable(value)
        if not is_installed(type(value).__module__) or not (
            same or isinstance(value, BaseModel) or is_dataclass(value)
        ):
            raise Unreadable
        return {"class": class_path(value), **self.attributes(value, depth + 1)}

    def _warn_of_what_passes(self, name: str, value: object) -> None:
        if _passes(name, value):
            logger.warning(
                "The attribute %r of %s looks like a time stamp, a counter or an instance's own id. It is "
                "in every key, so that no other run may ever find an entry: name the embedder with "
                "model_name=... and identity={...} instead.",
                name,
                class_path(self._embedder),
            )

    def _remember(self, value: object) -> None:
        if isinstance(value, (str, bytes)):
            text = value if isinstance(value, str) else value.decode("utf-8", "replace")
            self._secrets |= {text} if len(text) >= _LEAST_SECRET else set()
        elif isinstance(value, (Mapping, list, tuple)):
            for item in value.values() if isinstance(value, Mapping) else value:
                self._remember(item)


def _passes(name: str, value: object) -> bool:
    """Tell whether a value is of one moment or one object: another run would have another."""
    if isinstance(value, (uuid.UUID, dt.datetime)) or (isinstance(value, str) and _UUID.fullmatch(value)):
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    now = time.time()
    near = any(abs(value / unit - now) < _DAY for unit in (1, 1e3, 1e6, 1e9))
    return near or _COUNTER.fullmatch(name) is not None


def _content(path: Path) -> str | None:
    """Digest a file, or the files of a directory; None for what is not there."""
    try:
        if path.is_file():
            return sha256(path.read_bytes()).hexdigest()
        if not path.is_dir():
            return None
        inside = sorted(file for file in path.rglob("*") if file.is_file())
    except OSError:
        return None
    if len(inside) > _MOST_FILES:
        raise Unreadable
    total = sha256()
    for file in inside:
        total.update(f"{file.relative_to(path).as_posix()}\0".encode())
        total.update(sha256(file.read_bytes()).digest())
    return total.hexdigest()
