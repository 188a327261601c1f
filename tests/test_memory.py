"""What a process holds: the limit of a store in memory, and the rows of a merge once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")

MEASURE = """
import sys
from pathlib import Path
import numpy as np
from kura_cache_adapters import CachedEmbeddingModel, CallableEmbeddingModel, MemoryStore, TieredStore
from kura_cache_adapters._segments import gathering, merge
from kura_cache_adapters.stores import ArrowStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from kura_cache_adapters.testing.stores import IDENTITY

def measured(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))
"""
FILL = """
dimension, limit, count = map(int, sys.argv[1:])
model = CallableEmbeddingModel(lambda _: 1 / 0, model_name="none")
cached = CachedEmbeddingModel(model, MemoryStore(max_bytes=limit))
cached.add(["first"], np.ones((1, dimension), np.float32))
before = measured("RssAnon"), measured("VmHWM")
for first in range(0, count, 2000):
    texts = [f"{number:09d}" for number in range(first, first + 2000)]
    cached.add(texts, np.ones((2000, dimension), np.float32))
    cached.embed_array_sync(texts)
print(measured("RssAnon") - before[0], measured("VmHWM") - before[1])
"""
CROWD = """
limit, count, *dimensions = map(int, sys.argv[1:])
store = MemoryStore(max_bytes=limit)
most = before = measured("RssAnon")
for name, dimension in enumerate(dimensions):
    model = CallableEmbeddingModel(lambda _: 1 / 0, model_name=str(name))
    cached = CachedEmbeddingModel(model, store)
    for first in range(0, count, 1000):
        texts = [f"{number:09d}" for number in range(first, first + 1000)]
        cached.add(texts, np.ones((1000, dimension), np.float32))
        most = max(most, measured("RssAnon"))
print(most - before)
"""
REMEMBER = """
limit, count = map(int, sys.argv[1:])
store, tiers = MemoryStore(max_bytes=limit), []
most = before = measured("RssAnon")
for name in range(3):
    model = FakeEmbeddingModel(str(name), roles=("query",))
    cached = CachedEmbeddingModel(model, TieredStore(store) if name else store)
    for role in ("document", "query"):
        for first in range(0, count, 1000):
            cached.missing([f"{number:0200d}" for number in range(first, first + 1000)], role=role)
            most = max(most, measured("RssAnon"))
print(most - before)
"""
MERGE = """
space = ArrowStore(sys.argv[1]).space(IDENTITY)
chance = np.random.default_rng(0)
merge.segments_due = lambda *_, **__: []
for _ in range(4):
    keys = chance.integers(0, 256, (2000, 32), np.uint8)
    space.put_many([key.tobytes() for key in keys], np.ones((2000, 768), np.float32))
space.get_many([bytes(32)])  # opens them
parts = [space._listing.open[name] for name in space._listing.names]
before = measured("RssAnon")
rows, _ = gathering.intact_rows(parts)
held, size = measured("RssAnon") - before, rows.vectors.nbytes
del rows
print(held, measured("RssAnon") - before, size)
"""


def numbers(script: str, *arguments: object) -> list[int]:
    command = [sys.executable, "-c", MEASURE + script, *map(str, arguments)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [*map(int, told.split())]


@pytest.mark.parametrize(("dimension", "count"), [(8, 300_000), (384, 40_000)])
def test_short_texts_do_not_take_a_memory_store_far_beyond_its_limit(dimension: int, count: int) -> None:
    limit = 32 << 20
    grown, most = numbers(FILL, dimension, limit, count)
    assert grown < limit + (12 << 20)
    assert most < 1.25 * limit + (12 << 20)


def test_models_that_push_each_other_out_of_a_memory_store_stay_within_its_limit_together() -> None:
    limit = 64 << 20
    (most,) = numbers(CROWD, limit, 40_000, 768, 384, 512, 384)
    assert most < limit + (16 << 20)


def test_all_models_and_roles_over_a_memory_store_remember_keys_in_one_quarter_of_its_limit() -> None:
    limit = 64 << 20
    (most,) = numbers(REMEMBER, limit, 60_000)
    assert most < limit // 4 + (8 << 20)


def test_a_merge_gives_its_rows_back_to_the_system_at_once(tmp_path: Path) -> None:
    held, kept, size = numbers(MERGE, tmp_path)
    assert size <= held < 1.2 * size + (4 << 20)
    assert kept < 4 << 20
