"""What docs/scale.md predicts, beside what is measured: `python -m tests.benchmarks.scale 10000000 16`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel, open_cache
from kura_cache_adapters._segments.merge import full_rows
from tests.benchmarks.contestants import room_in
from tests.benchmarks.filling import private_bytes

PUT, ASKED, ROUNDS = 20_000, 10_000, 30
ROW_BYTES, SEGMENT_BYTES = 48, 1_200  # beside the vectors: prefix, key and checksum; schema and footer
INDEX_BYTES = 4  # a row: 2 to 4 for the filter, 1 for the fence


def segments_of(count: int, dimension: int) -> float:
    """Predict the segments of so many float32 vectors: full ones, and what is on its way to be one."""
    return count / full_rows(dimension, 4) + 8


def bytes_of(count: int, dimension: int) -> float:
    """Predict their bytes on disk."""
    return count * (dimension * 4 + ROW_BYTES) + segments_of(count, dimension) * SEGMENT_BYTES


def microseconds_of(count: int, dimension: int) -> float:
    """Predict a look-up of ten thousand texts: hashing, rows that no processor's cache holds, segments."""
    return 0.6 + 0.5 + 0.015 * segments_of(count, dimension)


def scale(count: int, dimension: int, directory: Path) -> dict[str, tuple[float, float]]:
    """Fill a cache with so many texts; return what was predicted and what was measured, by its name."""
    model = CallableEmbeddingModel(lambda _: 1 / 0, model_name="scale")
    options = CacheOptions(durable=False)
    with room_in(directory) as room, CachedEmbeddingModel(model, room, options=options) as cached:
        for start in range(0, count, PUT):
            vectors = np.full((min(PUT, count - start), dimension), start, np.float32)
            cached.add(_texts(range(start, start + len(vectors))), vectors)
        cached.close()  # when what merges beside has ended
        before = private_bytes()
        many, one = _asked(cached, count, ASKED, ROUNDS), _asked(cached, count, 1, 50 * ROUNDS)
        stats = open_cache(room).stats()
        return {
            "bytes on disk": (bytes_of(count, dimension), stats.nbytes),
            "segments": (segments_of(count, dimension), stats.parts),
            "bytes of private memory that look-ups take": (INDEX_BYTES * count, private_bytes() - before),
            "us a text, of ten thousand": (microseconds_of(count, dimension), many),
            "us a text, alone": (10 + 0.2 * segments_of(count, dimension), one),
        }


def _asked(cached: CachedEmbeddingModel, count: int, asked: int, rounds: int) -> float:
    """Look random texts up; return the best of so many rounds, in microseconds a text."""
    chance, best = np.random.default_rng(0), float("inf")
    for _ in range(rounds):
        texts = _texts(chance.integers(0, count, asked).tolist())
        begun = time.perf_counter()
        cached.embed_array_sync(texts)
        best = min(best, time.perf_counter() - begun)
    return best / asked * 1e6


def _texts(numbers: range | list[int]) -> list[str]:
    return [f"text {number}" for number in numbers]


def main(count: int, dimension: int) -> None:
    """Print the table."""
    print(f"| {count:,} of {dimension} dimensions | predicted | measured |\n| --- | ---: | ---: |")
    for name, both in scale(count, dimension, Path(tempfile.gettempdir())).items():
        print(f"| {name} | " + " | ".join(f"{value:,.{0 if value > 1000 else 2}f}" for value in both) + " |")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
