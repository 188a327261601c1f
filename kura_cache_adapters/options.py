"""CacheOptions: how a cache works, and which keywords are no part of a key."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kura_cache_adapters._identity.secrets import is_secret_name, secret_bytes
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters.protocols import EmbeddingStore, KeepsBytes, KeepsDicts, SupportsCheckpoints

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kura_cache_adapters._observe.events import Observer

_logger = logger_of("identity")

OneCache: TypeAlias = SupportsCheckpoints | EmbeddingStore | KeepsBytes | KeepsDicts | str | os.PathLike[str]
CacheLike: TypeAlias = OneCache | Sequence[OneCache] | None
"""What may be given as a cache: a checkpoint manager, a store, a directory or URL, a list, or None.

A key-value store of LangChain (`KeepsBytes`) or LlamaIndex (`KeepsDicts`) is one, too.
"""

DEFAULT = "./cache"
"""Where the adapters keep a cache when they are told nothing."""

_SCALARS = (bool, int, float, type(None))

# What people write who mean something else, and what they mean.
_CURES = {
    **dict.fromkeys(
        ("cache_dir", "cachedir", "cache_folder", "cache_path", "path", "directory", "store", "backend"),
        'the cache itself is cache=..., as in cache="./cache"',
    ),
    **dict.fromkeys(
        ("ttl", "max_size", "max_bytes"),
        'bounds are the store\'s, as in cache="arrow://./cache?ttl=30d&max_bytes=10e9"',
    ),
    "namespace": "each model has a space of its own already",
    "query_embedding_cache": "queries are cached already, apart from documents",
    "document_embedding_cache": "the cache itself is cache=...",
    "key_encoder": "keys are SHA-256 already; CacheOptions(key_secret=...) makes them HMAC",
    **dict.fromkeys(
        ("roles", "use_async"),
        "give it to the source: LangChainEmbeddingModel(embedder, ...) or LlamaIndexEmbeddingModel(...)",
    ),
    "symmetric": "give the source roles=(), as in LangChainEmbeddingModel(embedder, roles=())",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """How a cache works; none of it enters a key.

    Attributes:
        chunk_size: texts per call of the model, each chunk stored before the next is asked for (a model
            that streams chooses its own).
        durable: what is stored outlives a power cut; without, it outlives the process only, and storing
            is faster.
        progress: show a bar for each call that embeds: what was found, then what is embedded. What is done
            at once shows none.
        observers: called with each event (`LookedUp`, `Embedded`, `Stored`, `Failed`), in the thread in
            which it happens; one that fails is logged once and costs nothing else.
        key_secret: at least 16 bytes (a str counts as UTF-8) that make the keys HMAC-SHA-256, so that who
            can read the cache, but not the secret, cannot tell whether a text is in it. What was stored
            under another secret, or under none, is not found.
        wait_for_others: seconds that a call waits for texts which another process on the same directory is
            embedding, as long as none of them comes; then it asks the model itself. 0 does not wait, and
            lets nobody wait.
        on_miss: "embed" asks the model for what is missing; "raise" raises `CacheMissError` instead, before
            anything is loaded or spent.
        refresh: embed anew whatever is asked for, and store it in the place of what was there.
        read_only: look up, and write nothing where the cache is: what is embedded is not stored.
        enabled: False works as without a cache.

        The environment variable KURA_CACHE (embed, replay, refresh, read-only, off), read when a model is
        made, overrides the last four.

    Raises:
        TypeError: a `key_secret` that is neither str nor bytes; observers that are no list of callables.
        ValueError: a `chunk_size` below 1, a negative `wait_for_others`, a `key_secret` that is too short,
            another `on_miss`, or `refresh` where nothing may be embedded, or stored.

    """

    chunk_size: int = 256
    durable: bool = True
    progress: bool = False
    observers: Sequence[Observer] = ()
    key_secret: str | bytes | None = field(default=None, repr=False)
    wait_for_others: float = 60.0
    on_miss: Literal["embed", "raise"] = "embed"
    refresh: bool = False
    read_only: bool = False
    enabled: bool = True

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if not isinstance(self.observers, (list, tuple)) or not all(map(callable, self.observers)):
            message = "observers must be a list of callables, each of which takes an event"
            raise TypeError(message)
        object.__setattr__(self, "observers", tuple(self.observers))
        if self.chunk_size < 1:
            message = f"chunk_size must be at least 1, not {self.chunk_size}"
            raise ValueError(message)
        if not self.wait_for_others >= 0:
            message = f"wait_for_others must be a number of seconds, 0 or more, not {self.wait_for_others}"
            raise ValueError(message)
        _ = self.secret_bytes  # raises for what is no secret
        self._check_mode()

    def _check_mode(self) -> None:
        if self.on_miss not in {"embed", "raise"}:
            message = f"on_miss must be 'embed' or 'raise', not {self.on_miss!r}"
            raise ValueError(message)
        if self.refresh and (self.read_only or self.on_miss == "raise"):
            other = "read_only=True" if self.read_only else "on_miss='raise'"
            message = f"refresh=True embeds anew and stores, and {other} forbids that: pass one of them"
            raise ValueError(message)

    @property
    def secret_bytes(self) -> bytes:
        """The secret as bytes; empty without one."""
        return b"" if self.key_secret is None else secret_bytes(self.key_secret, "key_secret")


def check_keywords(keywords: Mapping[str, Any], *, cached: bool) -> None:
    """Raise TypeError for a keyword that was meant for something else than a key.

    Without a cache a keyword has no meaning at all, which is worth a warning.
    """
    of_options = {each.name for each in fields(CacheOptions)}
    for name, value in keywords.items():
        cure = _CURES.get(name)
        if name in of_options:
            cure = f"how a cache works is options=CacheOptions({name}=...)"
        elif cure is None and is_secret_name(name) and not isinstance(value, _SCALARS):
            cure = "a secret changes no vector; give it to the model"
        if cure is not None:
            message = f"{name}= is no parameter of a key, as further keywords are: {cure}"
            raise TypeError(message)
    if keywords and not cached:
        _logger.warning("Without a cache, %s= has no meaning: pass cache=...", "=, ".join(keywords))


def one_cache(cache_manager: CacheLike, cache: CacheLike) -> CacheLike:
    """Return the cache of two spellings; raise TypeError for two caches."""
    if cache is DEFAULT and cache_manager is not None:
        return cache_manager
    if cache_manager is not None and cache is not None:
        message = "cache= and cache_manager= are two names of one thing: pass one of them"
        raise TypeError(message)
    return cache_manager if cache is None else cache
