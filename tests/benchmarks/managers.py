"""Measure what an entry costs in checkpoint managers, Kura's and ours: `python -m tests.benchmarks.managers`.

Kura's managers keep one checkpoint per entry; ours open a vector store of their format.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kura.checkpoint import CheckpointManager
from kura.checkpoints import JSONLCheckpointManager, MultiCheckpointManager
from kura.checkpoints.hf_dataset import HFDatasetCheckpointManager
from kura.checkpoints.parquet import ParquetCheckpointManager

from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters import kura as ours
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable

ENTRIES, DIMENSION = 1_000, 384
MANAGERS: dict[str, Callable[[str], Any]] = {
    "Kura's CheckpointManager": CheckpointManager,
    "Kura's JSONLCheckpointManager": JSONLCheckpointManager,
    "Kura's ParquetCheckpointManager": ParquetCheckpointManager,
    "Kura's HFDatasetCheckpointManager": HFDatasetCheckpointManager,
    "Kura's MultiCheckpointManager, JSONL and HF": lambda path: MultiCheckpointManager(
        [JSONLCheckpointManager(f"{path}/a"), HFDatasetCheckpointManager(f"{path}/b")]
    ),
    "our JSONLCheckpointManager": ours.JSONLCheckpointManager,
    "our ParquetCheckpointManager": ours.ParquetCheckpointManager,
    "our HFDatasetCheckpointManager": ours.HFDatasetCheckpointManager,
    "a directory (Arrow)": str,
}


def measured(make: Callable[[str], Any], path: str) -> tuple[float, ...]:
    """Return microseconds an entry to save, to miss and to find, and bytes an entry on disk."""
    texts = [f"text {number}" for number in range(ENTRIES)]
    fake = FakeEmbeddingModel(dimension=DIMENSION)
    vectors = fake.array(texts)
    start = time.perf_counter()
    CachedEmbeddingModel(fake, make(path)).add(texts, vectors)
    saved = time.perf_counter()
    CachedEmbeddingModel(fake, make(path)).missing([f"other {text}" for text in texts])
    missed = time.perf_counter()
    found = CachedEmbeddingModel(fake, make(path)).embed_array_sync(texts)
    end = time.perf_counter()
    assert found.tobytes() == vectors.tobytes()
    assert fake.calls == []
    on_disk = sum(file.stat().st_blocks * 512 for file in Path(path).rglob("*") if file.is_file())
    seconds = saved - start, missed - saved, end - missed
    return (*(1e6 * each / ENTRIES for each in seconds), on_disk / ENTRIES)


def main() -> None:
    """Print a row for each manager."""
    logging.disable(logging.CRITICAL)
    print("| cache_manager | save, us | miss, us | hit, us | bytes on disk |\n|---|---|---|---|---|")
    for name, make in MANAGERS.items():
        with tempfile.TemporaryDirectory() as path, contextlib.redirect_stderr(io.StringIO()):
            save, miss, hit, size = measured(make, path)
        print(f"| {name} | {save:,.0f} | {miss:,.1f} | {hit:,.1f} | {size:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
