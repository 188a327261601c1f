"""Opens a store by path or URL: one table of our own stores, entry points for those of others."""

from __future__ import annotations

import os
from importlib import import_module
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Literal

from kura_cache_adapters._runtime.entry_points import names_in, registered
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._segments.marks import formats_in
from kura_cache_adapters.protocols import (
    EmbeddingStore,
    KeepsBytes,
    KeepsDicts,
    OpensStore,
    SupportsCheckpoints,
)
from kura_cache_adapters.stores.addresses import refuse_mistyped, scheme_of
from kura_cache_adapters.stores.neighbours import neighbour_in
from kura_cache_adapters.stores.url_options import read_options, refusal, take_options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeGuard

    from kura_cache_adapters.stores.tiered import TieredStore

_logger = logger_of("store")

STORES = {
    "arrow": ("arrow", "ArrowStore"),
    "parquet": ("parquet", "ParquetStore"),
    "jsonl": ("jsonl", "JSONLStore"),
    "hf": ("hf_dataset", "HFDatasetStore"),
    "memory": ("memory", "MemoryStore"),
    "postgres": ("postgres", "PostgresStore"),
    "postgresql": ("postgres", "PostgresStore"),
    "redis": ("redis", "RedisStore"),
    "rediss": ("redis", "RedisStore"),
}
"""By URL scheme, a module of this package and the class in it. A new store is its file and a line here."""

MIRRORS = ("s3", "gs", "az", "file")
"""Schemes of object stores: each mirrors the directory that stands before it in a list."""

GROUP = "kura_cache_adapters.stores"
"""Entry points of other distributions: a scheme, and the class behind it."""

_BY_POSITION = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}


def open_store(
    path_or_url: str | os.PathLike[str], *, write: Literal["behind", "through"] = "through"
) -> EmbeddingStore:
    """Open a store by a plain path or by scheme, as in `parquet://./cache?compression=zstd`.

    A plain path opens the format of the segments that are there, and an ArrowStore where there are none.
    Where there are several formats it is the first of arrow, parquet, jsonl and hf, and a warning.

    Args:
        path_or_url: a plain path, or `scheme://path?option=value&...`. Schemes: arrow, parquet, jsonl,
            hf, memory (`memory://`, without a path), and those that other distributions register.
            Options: the keyword-only parameters of the store's class. A path is taken as it is, but
            for a `~` or `~user` at its start; names and values of options may be percent-encoded.
            A store on a server is opened within a `Remote`, whose options may be there, too; both get
            one that both have.
        write: how such a store is written to, where its URL does not say.

    Raises:
        ValueError: there is no such scheme or option, or a value is none of its type; a plain path is
            a file, a directory of another tool, or a mistyped URL; RegistrationError, one, where the store
            of another distribution is broken.

    """
    text, scheme = os.fspath(path_or_url), scheme_of(path_or_url)
    if not scheme:
        refuse_path(path_or_url)
        path = os.path.expanduser(text)  # noqa: PTH111 - Path would drop what is in a name
        return _open(_scheme_at(path), path)
    if scheme in MIRRORS:
        message = (
            f'{scheme}:// mirrors a directory, and is no cache by itself: write ["./cache", "{scheme}://..."]'
        )
        raise ValueError(message)
    store_class = class_of(scheme)
    if not _is_remote(store_class):
        return _at_url(scheme, text)
    guard = _ours("remote", "Remote")
    address, options = take_options(scheme, guard, text, inner=store_class)
    guarded: EmbeddingStore = guard(_at_url(scheme, address), **{"write": write, **options})
    return guarded


def as_store(cache: object) -> EmbeddingStore | None:
    """Turn what a user calls a cache into a store; None when it is switched off.

    A store stays itself; a path or URL is opened; a manager that has a native store opens it; any
    other checkpoint manager keeps one checkpoint per entry; a key-value store of LangChain or LlamaIndex
    keeps one value per entry; a list of these is a `TieredStore`, from fast to slow, in which an object store
    mirrors the directory before it. Raises TypeError for anything else.
    """
    if isinstance(cache, (list, tuple)):
        return _listed(cache)
    if cache is None or (isinstance(cache, SupportsCheckpoints) and not cache.is_enabled()):
        return None
    if isinstance(cache, (str, os.PathLike)):
        return open_store(cache)
    if isinstance(cache, OpensStore):
        return cache.open_store()
    return cache if isinstance(cache, EmbeddingStore) else _over(cache)


def _over(cache: object) -> EmbeddingStore:
    if isinstance(cache, SupportsCheckpoints):
        wrapped: EmbeddingStore = _ours("checkpoint", "CheckpointStore")(cache)
        return wrapped
    if isinstance(cache, (KeepsBytes, KeepsDicts)):
        bridged: EmbeddingStore = _ours("bridges", "KeyValueStore")(cache)
        return bridged
    message = f"{type(cache).__name__} is no cache: pass a directory, a checkpoint manager, a store, or None"
    raise TypeError(message)


def _listed(caches: Sequence[object]) -> EmbeddingStore | None:
    tiers: list[object] = []
    for cache in caches:
        mirrored = scheme_of(cache) in MIRRORS
        tiers.append(_mirrored(tiers.pop() if tiers else None, str(cache)) if mirrored else cache)
    alone = len(tiers) == 1 and len(caches) > 1
    return as_store(tiers[0]) if alone else _tiered(tiers)


def _mirrored(cache: object, url: str) -> EmbeddingStore | None:
    """Mirror the cache before a URL; one that is switched off has no mirror."""
    if cache is not None and (local := as_store(cache)) is None:
        return None
    mirrored: EmbeddingStore = _ours("mirror", "mirrored_at")(None if cache is None else local, url)
    return mirrored


def _tiered(caches: Sequence[object]) -> EmbeddingStore | None:
    """Make tiers of caches: those on servers are written behind where one on this machine lasts."""
    some = [cache if _is_on_server(cache) else as_store(cache) for cache in caches]
    write: Literal["behind", "through"] = "behind" if any(map(_lasts, some)) else "through"
    opened = [open_store(each, write=write) if isinstance(each, str) else each for each in some]
    stores = [store for store in opened if store is not None]
    if caches and not stores:
        return None
    tiered: TieredStore = _ours("tiered", "TieredStore")(*stores)
    tiered.lent = tuple(store for store in stores if any(store is each for each in caches))
    return tiered


def _is_on_server(cache: object) -> TypeGuard[str]:
    scheme = scheme_of(cache)
    return bool(scheme) and _is_remote(class_of(scheme))


def _lasts(store: object) -> bool:
    """Tell whether a store is on this machine and outlives this process; a URL is none yet."""
    if isinstance(store, str) or store is None or _is_remote(store) or getattr(store, "volatile", False):
        return False
    inner = getattr(store, "stores", None)
    return inner is None or any(map(_lasts, inner))


def refuse_path(path: str | os.PathLike[str]) -> None:
    """Raise ValueError for a path that was meant to be a URL."""
    refuse_mistyped(path, lambda scheme: scheme in {*STORES, *MIRRORS} or scheme in names_in(GROUP))


def _open(scheme: str, path: str, query: str | None = None) -> EmbeddingStore:
    store_class = class_of(scheme)
    options = read_options(scheme, store_class, query)
    where = [each for each in signature(store_class).parameters.values() if each.kind in _BY_POSITION]
    if path and not where:
        message = f"{scheme}:// takes no path"
        raise ValueError(message)
    if where and where[0].default is Parameter.empty and not path:
        message = f"{scheme}:// needs a path behind it"
        raise ValueError(message)
    return _checked(scheme, store_class(*[path] * bool(path), **options))


def _at_url(scheme: str, url: str) -> EmbeddingStore:
    if getattr(class_of(scheme), "takes_url", False):
        return _opened(scheme, url)
    path, question, query = url.partition("://")[2].partition("?")
    return _open(scheme, os.path.expanduser(path), query if question else None)  # noqa: PTH111


def _is_remote(store_or_class: object) -> bool:
    return bool(getattr(store_or_class, "remote", False))


def _opened(scheme: str, url: str) -> EmbeddingStore:
    """Open a store by a whole URL, which keeps the options that are not the store's."""
    store_class = class_of(scheme)
    address, options = take_options(scheme, store_class, url)
    try:
        return _checked(scheme, store_class(address, **options))
    except ValueError as error:
        raise ValueError(refusal(scheme, store_class, str(error))) from error


def _checked(scheme: str, store: object) -> EmbeddingStore:
    if isinstance(store, EmbeddingStore):
        return store
    message = f"{scheme}:// makes a {type(store).__name__}, which is no EmbeddingStore: it needs its methods"
    raise ValueError(message)


def class_of(scheme: str) -> Callable[..., Any]:
    """Return the class of a store's scheme; raise ValueError where there is none."""
    if scheme in STORES:
        return _ours(*STORES[scheme])
    found: Callable[..., Any] | None = registered(GROUP, scheme, fits=callable, what="a store's class")
    if found is None:
        message = f"no store for {scheme}://; there are {', '.join(sorted({*STORES, *names_in(GROUP)}))}"
        raise ValueError(message)
    return found


def _ours(module: str, name: str) -> Callable[..., Any]:
    ours: Callable[..., Any] = getattr(import_module(f"{__package__}.{module}"), name)
    return ours


def _scheme_at(path: str) -> str:
    """Tell which format a plain path has; raise ValueError where it is something else than a cache."""
    if os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112 - no Path is needed
        message = f'{path} is a file, and a cache is a directory: pass another path, as in cache="./cache"'
        raise ValueError(message)
    found = formats_in(path)
    there = [scheme for scheme in STORES if scheme in found]
    if len(there) > 1:
        message = "%s holds %s: opened as %s. Say which you mean, as in %s://%s, or delete what is old"
        _logger.warning(message, path, ", ".join(there), there[0], there[1], path)
    if not there and (neighbour := neighbour_in(path)) is not None:
        message = (
            f"{path} looks like {neighbour}: give the cache a directory of its own, as in "
            f'cache="./vectors". To put it there all the same, say so: cache="arrow://{path}"'
        )
        raise ValueError(message)
    return there[0] if there else "arrow"
