"""Measure the cache against what the hardware allows: `python -m tests.benchmarks`.

The floor of a look-up is hashing the texts (SHA-256) plus gathering their rows from a matrix in
memory. Floor and stores are measured in turns, in random order; the ratio is that of the minima.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel, open_store
from kura_cache_adapters.identity import ModelIdentity, text_keys

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
STORES = ["arrow", "parquet", "hf", "jsonl", "memory"]


def corpus(count: int) -> list[str]:
    """Return distinct texts of about 500 characters, in random order."""
    texts = [f"{number:08d} {'lorem ipsum dolor sit amet ' * 18}" for number in range(count)]
    random.Random(0).shuffle(texts)
    return texts


def in_turns(contestants: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return the seconds of each contestant, a value per round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    chance = random.Random(1)
    for _ in range(ROUNDS):
        for name in chance.sample(sorted(contestants), len(contestants)):
            start = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def look_ups(count: int, dimension: int, directory: Path) -> list[dict[str, Any]]:
    """Measure filling each store, finding everything in it, and finding one text."""
    texts = corpus(count)
    matrix = np.random.default_rng(0).standard_normal((count, dimension), np.float32)
    at = np.random.default_rng(1).permutation(count)
    instant = CallableEmbeddingModel(
        lambda some: matrix[[int(text[:8]) for text in some]],
        model_name="instant",
    )
    rows: list[dict[str, Any]] = []
    contestants: dict[str, Callable[[], object]] = {
        "floor": lambda: ([sha256(text.encode()).digest() for text in texts], matrix[at]),
    }
    for name in STORES:
        url = "memory://" if name == "memory" else f"{name}://{directory / name}"
        cached = CachedEmbeddingModel(instant, url, options=CacheOptions(durable=False))
        start = time.perf_counter()
        cached.embed_array_sync(texts)
        filling = time.perf_counter() - start
        one = []
        for text in texts[:2000]:
            start = time.perf_counter()
            cached.embed_sync([text])
            one.append(time.perf_counter() - start)
        rows.append({"store": name, "fill": filling / count, "one text": median(one)})
        contestants[name] = partial(cached.embed_array_sync, texts)
        contestants[name]()
    seconds = in_turns(contestants)
    floor = min(seconds.pop("floor"))
    for row in rows:
        best = min(seconds[row["store"]])
        row.update({"all hits": best / count, "median": median(seconds[row["store"]]) / count})
        row["ratio"] = best / floor
    return [{"store": "(floor)", "all hits": floor / count, "ratio": 1.0}, *rows]


def opening(count: int, dimension: int, directory: Path) -> dict[str, Any]:
    """Fill a store, then measure opening it in a fresh process: milliseconds and resident bytes."""
    space = open_store(directory / "large").space(ModelIdentity.of("large"))
    chance = np.random.default_rng(0)
    head = ModelIdentity.of("large").head("document")
    for start in range(0, count, 50_000):
        texts = [f"{number}" for number in range(start, min(count, start + 50_000))]
        vectors = chance.standard_normal((len(texts), dimension), np.float32)
        space.put_many(text_keys(head, texts), vectors, durable=False)
    code = f"from tests.benchmarks.__main__ import open_large; open_large({str(directory / 'large')!r})"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    opened: dict[str, Any] = json.loads(result.stdout)
    return {"rows": count, "dimension": dimension, **opened}


def open_large(path: str) -> None:
    """Open the store and find one text; print milliseconds, and growth of the resident set."""
    head = ModelIdentity.of("large").head("document")
    key = text_keys(head, ["4711"])
    # An empty store first: what is measured is the opening, not the imports that it causes.
    with tempfile.TemporaryDirectory() as empty:
        warm = open_store(empty).space(ModelIdentity.of("warm"))
        warm.put_many(key, np.ones((1, 1), np.float32), durable=False)
        open_store(empty).space(ModelIdentity.of("warm")).get_many(key)
    before, start = _resident(), time.perf_counter()
    space = open_store(path).space(ModelIdentity.of("large"))
    stats = space.stats()
    opened, after = time.perf_counter() - start, _resident()
    start = time.perf_counter()
    assert len(space.get_many(key).positions) == 1
    found = time.perf_counter() - start
    print(
        json.dumps(
            {
                "parts": stats.parts,
                "open ms": opened * 1e3,
                "resident MB": (after - before) / 1e6,
                "first look-up ms": found * 1e3,
            },
        ),
    )


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    """Run everything and print it as a table, and as JSON where told to."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--texts", type=int, default=100_000)
    arguments.add_argument("--dimension", type=int, default=384)
    arguments.add_argument(
        "--large", type=int, default=1_000_000, help="entries of the opened store; 0: none"
    )
    arguments.add_argument("--json", type=Path, help="a file to write the results to")
    arguments.add_argument("--directory", type=Path, help="where to put the caches")
    options = arguments.parse_args()
    directory = Path(tempfile.mkdtemp(dir=options.directory))
    try:
        rows = look_ups(options.texts, options.dimension, directory)
        print(f"{options.texts:,} texts of 500 characters, D={options.dimension}; microseconds per text")
        print("| store | fill | all hits, minimum | median | ratio to the floor | one text, median |")
        print("|---|---|---|---|---|---|")
        for row in rows:
            micro = [row.get(name, float("nan")) * 1e6 for name in ("fill", "all hits", "median", "one text")]
            print(
                f"| {row['store']} | {micro[0]:.1f} | {micro[1]:.2f} | {micro[2]:.2f} "
                f"| {row['ratio']:.2f} | {micro[3]:.1f} |".replace("nan", "")
            )
        large = opening(options.large, options.dimension, directory) if options.large else {}
        if large:
            print("\n" + ", ".join(f"{name}: {value:,.5g}" for name, value in large.items()))
    finally:
        shutil.rmtree(directory)
    if options.json:
        machine = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "numpy": np.__version__,
        }
        options.json.write_text(
            json.dumps({"machine": machine, "look-ups": rows, "opening": large}, indent=2)
        )


if __name__ == "__main__":
    main()
