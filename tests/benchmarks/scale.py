"""What docs/scale.md predicts, beside what is measured: `python -m tests.benchmarks.scale 10000000 16`."""

from __future__ import annotations

import ctypes
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from kura_cache_adapters import (
    CachedEmbeddingModel,
    CacheOptions,
    CallableEmbeddingModel,
    PostgresStore,
    RedisStore,
    open_cache,
)
from kura_cache_adapters._identity.keys import text_keys
from kura_cache_adapters._segments.merge import full_rows
from kura_cache_adapters.identity import ModelIdentity
from tests.benchmarks.contestants import room_in
from tests.benchmarks.filling import private_bytes
from tests.servers import postgres_says, postgres_server, postgres_url, redis_server

PUT, ASKED, ROUNDS = 20_000, 10_000, 30
_TABLES = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'kura%'"
ROW_BYTES, SEGMENT_BYTES = 48, 1_200  # beside the vectors: prefix, key and checksum; schema and footer
INDEX_BYTES, MAKING_BYTES = 4, 30e6  # a row: 2 to 4 for the filter, 1 for the fence; and to make one


def segments_of(count: int, dimension: int) -> float:
    """Predict the segments of so many float32 vectors: full ones, and what is on its way to be one."""
    return count / full_rows(dimension, 4) + 8


def bytes_of(count: int, dimension: int) -> float:
    """Predict their bytes on disk."""
    return count * (dimension * 4 + ROW_BYTES) + segments_of(count, dimension) * SEGMENT_BYTES


def microseconds_of(count: int, dimension: int) -> float:
    """Predict a look-up of ten thousand texts: hashing, rows that no processor's cache holds, segments."""
    return 0.9 + 0.01 * segments_of(count, dimension)


def redis_bytes_of(count: int, dimension: int) -> float:
    """Predict the memory of a Redis that keeps them: names, entries and its own books."""
    return count * (1.17 * dimension * 4 + 100)


def postgres_bytes_of(count: int, dimension: int) -> float:
    """Predict a table's bytes on disk: a vector of more than 2,000 bytes lies in pages of its own."""
    return count * dimension * 4 * (1.37 if dimension * 4 > 2_000 else 1.11)


def scale(count: int, dimension: int, directory: Path) -> dict[str, tuple[float, float]]:
    """Fill a cache with so many texts; return what was predicted and what was measured, by its name."""
    model = CallableEmbeddingModel(lambda _: 1 / 0, model_name="scale")
    options = CacheOptions(durable=False)
    with room_in(directory) as room, CachedEmbeddingModel(model, room / "cache", options=options) as cached:
        for start in range(0, count, PUT):
            vectors = np.full((min(PUT, count - start), dimension), start, np.float32)
            cached.add(_texts(range(start, start + len(vectors))), vectors)
        cached.close()  # when what merges beside has ended
        ctypes.CDLL(None).malloc_trim(0)  # what was let go does not hide what is taken
        before = private_bytes()
        many, one = _asked(cached, count, ASKED, ROUNDS), _asked(cached, count, 1, 50 * ROUNDS)
        with open_cache(room / "cache") as cache:
            stats, receipt = cache.stats(), cache.push(f"file://{room / 'mirror'}")
        objects, requests = segments_of(count, dimension), sum(receipt.requests.values())
        return {
            "bytes on disk": (bytes_of(count, dimension), stats.nbytes),
            "segments": (segments_of(count, dimension), stats.parts),
            "bytes of private memory that look-ups take": (
                INDEX_BYTES * count + MAKING_BYTES,
                private_bytes() - before,
            ),
            "objects in a mirror": (objects, receipt.pushed),
            "requests that put them there": (objects + 4, requests),
            "us a text, of ten thousand": (microseconds_of(count, dimension), many),
            "us a text, alone": (11 + 0.007 * segments_of(count, dimension), one),
        }


def on_servers(count: int, dimension: int) -> dict[str, tuple[float, float]]:
    """Return the bytes that servers take for so many, predicted and measured."""
    identity = ModelIdentity.of("scale")
    vectors = np.random.default_rng(0).standard_normal((count, dimension), np.float32)
    keys = text_keys(identity.head("document"), _texts(range(count)))
    with redis_server() as redis, postgres_server() as postgres:
        url = postgres_url(postgres.port)
        before = _used(redis.port)
        RedisStore(f"redis://127.0.0.1:{redis.port}/0", timeout=60).space(identity).put_many(keys, vectors)
        PostgresStore(url, timeout=600).space(identity).put_many(keys, vectors)
        taken = float(postgres_says(url, _TABLES)[0][0])
        return {
            f"bytes of memory in Redis, of {count:,} of {dimension}": (
                redis_bytes_of(count, dimension),
                _used(redis.port) - before,
            ),
            f"bytes on disk in PostgreSQL, of {count:,} of {dimension}": (
                postgres_bytes_of(count, dimension),
                taken,
            ),
        }


def _used(port: int) -> float:
    import redis

    with redis.Redis(port=port) as client:
        return float(client.info("memory")["used_memory"])


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
    found = scale(count, dimension, Path(tempfile.gettempdir()))
    for each in (384, 1536):
        found.update(on_servers(20_000, each))
    for name, both in found.items():
        print(f"| {name} | " + " | ".join(f"{value:,.{0 if value > 1000 else 2}f}" for value in both) + " |")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
