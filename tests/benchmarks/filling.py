"""A long fill, write by write, and awaited hits: `python -m tests.benchmarks.filling 300000 1536`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from itertools import count as counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel
from kura_cache_adapters._identity.keys import text_keys
from kura_cache_adapters._segments.directory import SegmentStore
from kura_cache_adapters.identity import ModelIdentity
from tests.benchmarks.contestants import room_in
from tests.benchmarks.timing import Work
from tests.test_merging import WINDOW, Counting, Simulation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

CHUNK = 256
GATHERED = 50
ROUNDS, TIMES = 20, 100


def fill(count: int, dimension: int, directory: Path) -> dict[str, Any]:
    """Fill a store without fsync; return times of a write, bytes written, open files and memory."""
    simulated = Simulation(dimension, itemsize=4)
    for _ in range(count // CHUNK):
        simulated.put(CHUNK)
    _puts(min(count, 8 * CHUNK), dimension, directory)  # imports and pools are no memory of a fill
    before = private_bytes()
    measured = np.array(_puts(count, dimension, directory))
    seconds, (_, written, files, memory) = measured[:-1, 0], measured.T
    p50, p99 = (float(each) * 1e3 for each in np.percentile(seconds, [50, 99]))
    return {
        "count": count,
        "dimension": dimension,
        "p50 ms": p50,
        "p99 ms": p99,
        "p99 of p50": p99 / p50,
        "longest ms": float(seconds.max()) * 1e3,
        "us a text": float(seconds.mean()) / CHUNK * 1e6,
        "written in the worst window, simulated": _worst(np.array(simulated.written)) / CHUNK,
        "written in the worst window": _worst(np.array([0, *written[:-1]])) / (CHUNK * dimension * 4),
        "written on the whole": float(written[-1]) / (len(seconds) * CHUNK * dimension * 4),
        "most open files": int(files.max()),
        "grown private MB": (float(memory[-1]) - before) / 1e6,
        "most grown private MB": (float(memory.max()) - before) / 1e6,
    }


def _puts(count: int, dimension: int, directory: Path) -> list[tuple[float, int, int, int]]:
    """Put chunks; return of each put its seconds, and bytes written, open files and memory after it."""
    chance, counting = np.random.default_rng(0), Counting()
    identity = ModelIdentity.of("filling")
    measured = []
    with room_in(directory) as room:
        store = SegmentStore(room, counting)
        space = store.space(identity)
        for start in range(0, count - CHUNK + 1, CHUNK):
            keys = text_keys(identity.head("document"), [f"{at}" for at in range(start, start + CHUNK)])
            vectors = chance.standard_normal((CHUNK, dimension), np.float32)
            begun = time.perf_counter()
            space.put_many(keys, vectors, durable=False)
            seconds = time.perf_counter() - begun
            measured.append((seconds, counting.written, _open_files(), private_bytes()))
        store.close()  # merges go on beside the writes, to here
        measured.append((seconds, counting.written, _open_files(), private_bytes()))
    return measured


def _worst(totals: Any) -> float:
    """Return what the window that writes most writes, for each put in it."""
    puts = min(WINDOW // CHUNK, len(totals) - 1)
    return float((totals[puts:] - totals[:-puts]).max()) / puts


def _open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def private_bytes() -> int:
    """Return the bytes of memory that are this process's alone."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def awaited(count: int, dimension: int, directory: Path) -> dict[str, Any]:
    """Return the microseconds of a hit, at once, awaited, and awaited with others; and of a miss, stored."""
    work = Work(count, dimension)
    model = CallableEmbeddingModel(lambda texts: work.arrays(texts, ""), model_name="instant")
    with room_in(directory) as room:
        cached = CachedEmbeddingModel(model, str(room), options=CacheOptions(durable=False))
        cached.add(work.texts, work.matrix[work.at])
        some, numbers = work.texts[:GATHERED], counter()

        async def at_once() -> None:
            cached.embed_array_sync(some[:1])

        async def miss() -> None:
            await cached.embed_array([f"{0:08d} {next(numbers)}"])

        async def one() -> None:
            await cached.embed_array(some[:1])

        async def together() -> None:
            await asyncio.gather(*[cached.embed_array([text]) for text in some])

        micro = {
            "one us": asyncio.run(_least(at_once)) * 1e6,
            "one awaited us": asyncio.run(_least(one)) * 1e6,
            f"each of {GATHERED} gathered us": asyncio.run(_least(together)) / GATHERED * 1e6,
            "a miss awaited us": asyncio.run(_least(miss)) * 1e6,
        }
    return {"count": count, "dimension": dimension, **micro}


async def _least(call: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """Return the seconds of a call, in the best round."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(TIMES):
            await call()
        rounds.append(time.perf_counter() - start)
    return min(rounds) / TIMES


def main(count: str = "40960", dimension: str = "384", directory: str | None = None) -> None:
    """Print both measurements."""
    with tempfile.TemporaryDirectory(dir=directory) as room:
        filled = fill(int(count), int(dimension), Path(room))
        for values in (filled, awaited(10_000, 384, Path(room))):
            print("\n".join(f"{name:<40}{value:>12,.4g}" for name, value in values.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
