"""Puts a guard around a store on a server that is opened by its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from kura_cache_adapters.stores.url_options import read_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kura_cache_adapters.protocols import EmbeddingStore

_OPTIONS = {"read_timeout", "connect_timeout", "write"}


def is_remote(store: object) -> bool:
    """Tell whether a store, or the class of one, is on a server."""
    return bool(getattr(store, "remote", False))


def split_options(scheme: str, query: str) -> tuple[dict[str, object], str]:
    """Return the guard's options of a URL's query, and the query without them.

    Raises ValueError for a value that is none of its type.
    """
    from kura_cache_adapters.stores.remote import Remote  # noqa: PLC0415 - where there is a server alone

    told = query.split("&") if query else []
    own = [each for each in told if unquote_plus(each.partition("=")[0]) in _OPTIONS]
    rest = "&".join(each for each in told if each not in own)
    return read_options(scheme, Remote, "&".join(own) or None), rest


def guarded(store: EmbeddingStore, options: Mapping[str, Any]) -> EmbeddingStore:
    """Return a store within a guard."""
    from kura_cache_adapters.stores.remote import Remote  # noqa: PLC0415 - where there is a server alone

    return Remote(store, **options)
