"""Stores: where vectors live. `open_store` opens one by path or URL."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._segments.marks import formats_in
from kura_cache_adapters.protocols import EmbeddingStore, OpensStore, SupportsCheckpoints

if TYPE_CHECKING:
    from kura_cache_adapters.stores.arrow import ArrowStore
    from kura_cache_adapters.stores.checkpoint import CheckpointStore
    from kura_cache_adapters.stores.hf_dataset import HFDatasetStore
    from kura_cache_adapters.stores.jsonl import JSONLStore
    from kura_cache_adapters.stores.memory import MemoryStore
    from kura_cache_adapters.stores.parquet import ParquetStore
    from kura_cache_adapters.stores.tiered import TieredStore

__all__ = [
    "ArrowStore",
    "CheckpointStore",
    "HFDatasetStore",
    "JSONLStore",
    "MemoryStore",
    "ParquetStore",
    "TieredStore",
    "as_store",
    "open_store",
]

logger = logging.getLogger("kura_cache_adapters.store")

# URL scheme: the module and class behind it. A new backend is its file and one line here.
_SCHEMES = {
    "arrow": ("arrow", "ArrowStore"),
    "parquet": ("parquet", "ParquetStore"),
    "jsonl": ("jsonl", "JSONLStore"),
    "hf": ("hf_dataset", "HFDatasetStore"),
    "memory": ("memory", "MemoryStore"),
}
_CLASSES = {
    **{class_name: module for module, class_name in _SCHEMES.values()},
    "CheckpointStore": "checkpoint",
    "TieredStore": "tiered",
}


def open_store(path_or_url: str | os.PathLike[str]) -> EmbeddingStore:
    """Open a store by a plain path or by scheme, as in `parquet://./cache`.

    A plain path opens the format of the segments that are there, and an ArrowStore where there are none.
    Where there are several formats it is the first of arrow, parquet, jsonl and hf, and a warning.
    Schemes: arrow, parquet, jsonl, hf, and memory (`memory://`). Raises ValueError for another.
    """
    scheme, separator, path = os.fspath(path_or_url).partition("://")
    if not separator:
        scheme, path = _scheme_of(scheme), scheme
    if scheme not in _SCHEMES:
        message = f"no store for {scheme}://; there are {', '.join(sorted(_SCHEMES))}"
        raise ValueError(message)
    if bool(path) == (scheme == "memory"):
        message = f"{scheme}:// {'takes no path' if path else 'needs a path behind it'}"
        raise ValueError(message)
    store: EmbeddingStore = __getattr__(_SCHEMES[scheme][1])(*[path] * bool(path))
    return store


def _scheme_of(path: str) -> str:
    found = formats_in(path)
    there = [scheme for scheme in _SCHEMES if scheme in found] or ["arrow"]
    if len(there) > 1:
        message = "%s holds %s: opened as %s. Say which you mean, as in %s://%s, or delete what is old"
        logger.warning(message, path, ", ".join(there), there[0], there[1], path)
    return there[0]


def as_store(cache: object) -> EmbeddingStore | None:
    """Turn what a user calls a cache into a store; None when it is switched off.

    A store stays itself; a path or URL is opened; a manager that has a native store opens it; any
    other checkpoint manager keeps one checkpoint per entry. Raises TypeError for anything else.
    """
    if cache is None or (isinstance(cache, SupportsCheckpoints) and not cache.is_enabled()):
        return None
    if isinstance(cache, (str, os.PathLike)):
        return open_store(cache)
    if isinstance(cache, OpensStore):
        return cache.open_store()
    if isinstance(cache, EmbeddingStore):
        return cache
    if isinstance(cache, SupportsCheckpoints):
        wrapped: EmbeddingStore = __getattr__("CheckpointStore")(cache)
        return wrapped
    message = f"{type(cache).__name__} is no cache: pass a directory, a checkpoint manager, a store, or None"
    raise TypeError(message)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - module attributes, imported when first used
    if name not in _CLASSES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_CLASSES[name]}"), name)
