"""Real processes on one cache: what one has written, another finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, open_store
from kura_cache_adapters.testing import FakeEmbeddingModel

SCHEMES = ["arrow", "parquet", "jsonl", "hf"]
ROOT = Path(__file__).parent.parent


def worker(
    command: str,
    url: str,
    numbers: str,
    batch: int,
    dtype: str = "float32",
    dimension: int = 8,
) -> subprocess.Popen[str]:
    """Start a worker; its output is to be read to the end."""
    command_line = [command, url, dtype, str(dimension), numbers, str(batch)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.worker", *command_line],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> int:
    """Wait for a worker that must succeed; return the number of texts that it acknowledged."""
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return int(output.split()[-1])


@pytest.fixture(params=SCHEMES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "hf":
        pytest.importorskip("datasets", reason="needs the extra `datasets`")
    return f"{request.param}://{tmp_path}/cache"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_one_process_wrote_another_reads_bit_for_bit(url: str, dtype: str) -> None:
    """Each of D in {1, 384, 1536}: this process writes, another reads without calling its model."""
    for dimension in (1, 384, 1536):
        model = FakeEmbeddingModel(dimension=dimension, dtype=getattr(np, dtype))
        CachedEmbeddingModel(model, f"{url}-{dimension}").embed_sync([f"text {at}" for at in range(300)])
    for dimension in (1, 384, 1536):
        reader = worker("read", f"{url}-{dimension}", "0-300", 100, dtype, dimension)
        assert finish(reader) == 300


def test_two_processes_fill_a_directory_while_a_third_reads_it(url: str) -> None:
    writers = [worker("fill", url, "0-1500", 10), worker("fill", url, "1000-2500", 10)]
    model = FakeEmbeddingModel()
    reader = CachedEmbeddingModel(model, url)
    chance = np.random.default_rng(0)
    space = open_store(url).space(reader.identity())
    found = 0
    while any(process.poll() is None for process in writers):
        texts = [f"text {number}" for number in chance.integers(0, 2500, 50)]
        keys = [bytes.fromhex(reader.cache_key(text)) for text in texts]
        hits = space.get_many(keys)
        assert hits.invalid == 0
        found += len(hits.positions)
        expected = model.array([texts[at] for at in hits.positions])
        assert np.array_equal(hits.vectors.reshape(-1, 8), expected)
    assert found
    for process in writers:
        finish(process)
    assert finish(worker("read", url, "0-2500", 2500)) == 2500
    assert space.stats().parts < 60
