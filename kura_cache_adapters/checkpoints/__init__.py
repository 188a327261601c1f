"""Kura's checkpoint contract, for any pydantic model, in three formats."""

from __future__ import annotations

from kura_cache_adapters.checkpoints.hf_dataset import HFDatasetCheckpointManager
from kura_cache_adapters.checkpoints.jsonl import JSONLCheckpointManager
from kura_cache_adapters.checkpoints.multi import MultiCheckpointManager
from kura_cache_adapters.checkpoints.parquet import ParquetCheckpointManager

__all__ = [
    "HFDatasetCheckpointManager",
    "JSONLCheckpointManager",
    "MultiCheckpointManager",
    "ParquetCheckpointManager",
]
