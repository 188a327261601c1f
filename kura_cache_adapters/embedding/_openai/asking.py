"""What is sent with the texts of a role, and what of it and of the client decides the vectors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kura_cache_adapters._identity.secrets import (
    deciding_headers,
    deciding_query,
    is_secret_name,
    plain_url,
    sealed,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_OPENAI = "https://api.openai.com/v1"
_PORTS = {"http": 80, "https": 443}

_PUBLIC_HEADERS = re.compile(r"accept|accept-encoding|connection|content-type|user-agent|x-stainless-.*")

# Parts of a body that say who asks, or how the answer is written.
_NOT_DECIDING = frozenset({"user", "safety_identifier", "encoding_format", "api_key"})


@dataclass(frozen=True, slots=True)
class Asking:
    """What is put before each text of a role, and into the body and the headers of its requests."""

    prefix: str = ""
    extra_body: dict[str, Any] = field(default_factory=dict)
    extra_headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        role: str,
        options: Mapping[str, Any],
        extra_body: Mapping[str, Any] | None,
        extra_headers: Mapping[str, str] | None,
    ) -> Asking:
        """Put a role's options over those of all roles; raise TypeError for one that is none."""
        if not isinstance(options, Mapping):
            message = f"roles[{role!r}] must be a mapping, as {{'prefix': ...}}, not {type(options).__name__}"
            raise TypeError(message)
        if unknown := options.keys() - {"prefix", "extra_body", "extra_headers"}:
            message = f"roles[{role!r}] takes prefix, extra_body and extra_headers, not {sorted(unknown)}"
            raise TypeError(message)
        if not isinstance(prefix := options.get("prefix") or "", str):
            message = f"roles[{role!r}]['prefix'] must be a str, not {type(prefix).__name__}"
            raise TypeError(message)
        body = {**(extra_body or {}), **(options.get("extra_body") or {})}
        headers = {**(extra_headers or {}), **(options.get("extra_headers") or {})}
        return cls(prefix, deepcopy(body), headers)

    def prefixed(self, texts: list[str]) -> list[str]:
        """Return the texts as they are sent."""
        return [self.prefix + text for text in texts] if self.prefix else texts

    def deciding(self, client_headers: Mapping[str, str]) -> dict[str, Any]:
        """Return what of it decides the vectors; what is empty is left out."""
        body = {name: value for name, value in self.extra_body.items() if name not in _NOT_DECIDING}
        told = {
            "prefix": self.prefix,
            "extra_body": _sealed_in(body),
            "headers": deciding_headers({**client_headers, **self.extra_headers}),
        }
        return {name: value for name, value in told.items() if value}


def _sealed_in(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a body with each secret in it sealed."""
    if isinstance(value, list | tuple):
        return [_sealed_in(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: sealed(json.dumps(item, sort_keys=True, default=repr))
        if isinstance(name, str) and is_secret_name(name)
        else _sealed_in(item)
        for name, item in value.items()
    }


@dataclass(frozen=True, slots=True)
class Address:
    """Where requests go: the URL as it is, and what else a client adds to each of them."""

    base_url: str
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()

    @classmethod
    def of_environment(cls) -> Address:
        """Read what the SDK reads when it makes a client (openai 1.108 to 3)."""
        lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
        pairs = (line.split(":", 1) for line in lines if ":" in line)
        headers = {name.strip(): value.strip() for name, value in pairs}
        url, key = os.environ.get("OPENAI_BASE_URL", _OPENAI), os.environ.get("OPENAI_API_KEY", "")
        return cls(url, headers=headers, tokens=(key,))

    @classmethod
    def of_client(cls, client: AsyncOpenAI) -> Address:
        """Read a client, and the HTTP client beneath it: both add to a request."""
        http = client._client  # noqa: SLF001 - nothing public leads there
        query = {**dict(http.params), **client.default_query}
        headers = {**dict(http.headers), **client.default_headers}
        told = {name: value for name, value in headers.items() if isinstance(value, str)}
        tokens = (client.api_key, getattr(client, "_azure_ad_token", None) or "")
        return cls(str(client.base_url), query, told, tokens)

    @property
    def shown(self) -> str:
        """The URL without user, password and query."""
        return plain_url(self.base_url)

    def secrets(self, asking: Asking) -> list[str]:
        """Return what no message may show: password, tokens, and the headers that are not the SDK's own."""
        headers = {**self.headers, **asking.extra_headers}
        told = [str(value) for name, value in headers.items() if not _PUBLIC_HEADERS.fullmatch(name.lower())]
        last = [word for value in told for word in value.split()[-1:]]  # "Bearer ..."
        return [urlsplit(self.base_url).password or "", *self.tokens, *told, *last]

    def deciding(self) -> dict[str, Any]:
        """Return the URL and its parameters, written in one way; no secret is among them."""
        parts = urlsplit(self.shown)
        host = parts.netloc.lower().removesuffix(f":{_PORTS.get(parts.scheme)}")
        query = deciding_query(self.query)
        return {"base_url": f"{parts.scheme}://{host}{parts.path}", **({"query": query} if query else {})}
