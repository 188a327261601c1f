"""Stores: where vectors live. `open_store` opens one by path or URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kura_cache_adapters._runtime.lazy import lazy
from kura_cache_adapters.stores.registry import STORES, as_store, open_store

if TYPE_CHECKING:
    from kura_cache_adapters.stores.arrow import ArrowStore
    from kura_cache_adapters.stores.checkpoint import CheckpointStore
    from kura_cache_adapters.stores.hf_dataset import HFDatasetStore
    from kura_cache_adapters.stores.jsonl import JSONLStore
    from kura_cache_adapters.stores.memory import MemoryStore
    from kura_cache_adapters.stores.mirror import MirroredStore
    from kura_cache_adapters.stores.parquet import ParquetStore
    from kura_cache_adapters.stores.tiered import TieredStore

__all__ = [
    "ArrowStore",
    "CheckpointStore",
    "HFDatasetStore",
    "JSONLStore",
    "MemoryStore",
    "MirroredStore",
    "ParquetStore",
    "TieredStore",
    "as_store",
    "open_store",
]

if not TYPE_CHECKING:  # a misspelt name is an error to a type checker
    _others = {"checkpoint": "CheckpointStore", "mirror": "MirroredStore", "tiered": "TieredStore"}
    _HOMES = {**dict(STORES.values()), **_others}
    __getattr__ = lazy(__name__, _HOMES)
