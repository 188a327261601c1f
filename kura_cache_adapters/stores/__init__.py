"""Stores: where vectors live. `open_store` opens one by path or URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kura_cache_adapters._runtime.lazy import lazy
from kura_cache_adapters.stores.registry import STORES, as_store, open_store

if TYPE_CHECKING:
    from kura_cache_adapters.stores.arrow import ArrowStore
    from kura_cache_adapters.stores.bridges import KeyValueStore
    from kura_cache_adapters.stores.checkpoint import CheckpointStore
    from kura_cache_adapters.stores.hf_dataset import HFDatasetStore
    from kura_cache_adapters.stores.jsonl import JSONLStore
    from kura_cache_adapters.stores.memory import MemoryStore
    from kura_cache_adapters.stores.mirror import MirroredStore
    from kura_cache_adapters.stores.parquet import ParquetStore
    from kura_cache_adapters.stores.postgres import PostgresStore
    from kura_cache_adapters.stores.redis import RedisStore
    from kura_cache_adapters.stores.remote import Remote
    from kura_cache_adapters.stores.tiered import TieredStore

__all__ = [
    "ArrowStore",
    "CheckpointStore",
    "HFDatasetStore",
    "JSONLStore",
    "KeyValueStore",
    "MemoryStore",
    "MirroredStore",
    "ParquetStore",
    "PostgresStore",
    "RedisStore",
    "Remote",
    "TieredStore",
    "as_store",
    "open_store",
]

if not TYPE_CHECKING:  # a misspelt name is an error to a type checker
    _HOMES = {
        **dict(STORES.values()),
        "bridges": "KeyValueStore",
        "checkpoint": "CheckpointStore",
        "mirror": "MirroredStore",
        "remote": "Remote",
        "tiered": "TieredStore",
    }
    __getattr__ = lazy(__name__, _HOMES)
