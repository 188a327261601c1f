"""Reads the facts that a record names from a live embedder and its client; one that is gone is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kura_cache_adapters._identity.origin import class_path
from kura_cache_adapters._identity.secrets import deciding_headers, deciding_query, deciding_url
from kura_cache_adapters.errors import IdentityError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kura_cache_adapters._identity.record import Provider


def fact(embedder: Any, path: str) -> Any:  # noqa: ANN401 - its value
    """Return a field, or what a client holds; raise IdentityError where a release no longer has it."""
    place = embedder
    for step in path.rstrip("?").split("."):
        if place is None:  # there is no client
            return None
        if not (step in place if isinstance(place, Mapping) else hasattr(place, step)):
            return None if path.endswith("?") else _gone(embedder, path)
        place = place[step] if isinstance(place, Mapping) else getattr(place, step)
    return place


def ruled(embedder: Any, rule: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - what the rule says
    """Ask a rule of a record; raise IdentityError where a release no longer has what it looks at."""
    try:
        return rule(embedder)
    except AttributeError as error:
        return _gone(embedder, str(error.name))


def _gone(embedder: object, path: str) -> None:
    why = f"has no {path} any more, by which it was known what decides its vectors"
    raise IdentityError(class_path(embedder), why)


def asked(embedder: Any, record: Provider) -> dict[str, Any]:  # noqa: ANN401
    """Tell whom an embedder asks, and what it adds to each request."""
    found = (fact(embedder, path) for path in record.addresses.split())
    address = next((deciding_url(str(address)) for address in found if address), "")
    headers: dict[str, Any] = {}
    for path in record.headers.split():
        headers |= deciding_headers(fact(embedder, path) or {})
    query: dict[str, Any] = {}
    for path in record.parameters.split():
        query |= deciding_query(fact(embedder, path) or {})
    silent = record.silent.split()
    told = {
        "address": "" if _is_regional(address, record) else address,
        "headers": headers,
        "query": {name: value for name, value in query.items() if name not in silent},
    }
    return {name: value for name, value in told.items() if value}


def _is_regional(address: str, record: Provider) -> bool:
    host = urlsplit(address).hostname or ""
    return host.endswith(tuple(record.regional.split()))
