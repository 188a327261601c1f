"""Large caches: opening one, growth with its size, and what memory a look-up takes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel, open_store
from kura_cache_adapters._identity.keys import text_keys
from kura_cache_adapters.identity import ModelIdentity
from tests.benchmarks.contestants import room_in
from tests.benchmarks.timing import Work, in_turns, timed

if TYPE_CHECKING:
    from tests.benchmarks.timing import Contestants

BATCH = 50_000


def opening(count: int, dimension: int, directory: Path) -> dict[str, Any]:
    """Fill a store, then measure opening it in a fresh process: milliseconds and resident bytes."""
    space = open_store(directory).space(ModelIdentity.of("large"))
    head = ModelIdentity.of("large").head("document")
    for texts, vectors in _batches(count, dimension):
        space.put_many(text_keys(head, texts), vectors, durable=False)
    return {"count": count, "dimension": dimension, **_elsewhere("open_large", str(directory))}


def _batches(count: int, dimension: int) -> Any:
    chance = np.random.default_rng(0)
    for start in range(0, count, BATCH):
        texts = [f"{number}" for number in range(start, min(count, start + BATCH))]
        yield texts, chance.standard_normal((len(texts), dimension), np.float32)


def _elsewhere(function: str, *values: str | int) -> dict[str, Any]:
    """Call a function of this module in a fresh process, and return what it prints."""
    code = f"from tests.benchmarks.large import {function} as f; f(*{values!r})"
    process = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(process.stdout)


def open_large(path: str) -> None:
    """Open the store and find one text; print milliseconds, and growth of the resident set."""
    key = text_keys(ModelIdentity.of("large").head("document"), ["11"])
    _warm(key)
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


def _warm(key: list[bytes]) -> None:
    """Use an empty store first: what is measured is the opening, not the imports that it causes."""
    with tempfile.TemporaryDirectory() as empty:
        warm = open_store(empty).space(ModelIdentity.of("warm"))
        warm.put_many(key, np.ones((1, 1), np.float32), durable=False)
        open_store(empty).space(ModelIdentity.of("warm")).get_many(key)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def growth(counts: tuple[int, int], dimension: int, directory: Path, *, rounds: int) -> dict[str, Any]:
    """Compare the time per text of all hits in a small cache and a large one, and the floor's."""
    contestants: Contestants = {}
    with ExitStack() as stack:
        for count in counts:
            work = Work(count, dimension)
            cached = _cached(stack.enter_context(room_in(directory)), work)
            contestants[f"ours {count}"] = partial(timed, partial(cached.embed_array_sync, work.texts))
            contestants[f"floor {count}"] = partial(timed, work.floor_arrays)
            contestants[f"ours {count}"]()
        seconds = in_turns(contestants, rounds=rounds)
    micro = {name: min(each) / int(name.split()[1]) * 1e6 for name, each in seconds.items()}
    return {"dimension": dimension, "counts": [*counts], **_grown(micro, *counts)}


def _grown(micro: dict[str, float], small: int, large: int) -> dict[str, Any]:
    return {
        "minimum us": micro,
        "growth": micro[f"ours {large}"] / micro[f"ours {small}"],
        "growth of the floor": micro[f"floor {large}"] / micro[f"floor {small}"],
    }


def _cached(directory: Path, work: Work) -> CachedEmbeddingModel:
    instant = CallableEmbeddingModel(lambda texts: work.arrays(texts, ""), model_name="instant")
    cached = CachedEmbeddingModel(instant, str(directory), options=CacheOptions(durable=False))
    for at in range(0, work.count, BATCH):
        cached.add(work.texts[at : at + BATCH], work.matrix[work.at[at : at + BATCH]])
    return cached


def peak(count: int, dimension: int, directory: Path) -> dict[str, Any]:
    """Return the peak memory of one `embed_array_sync` from disk, relative to the array it returns."""
    cached = _unasked(str(directory))
    for texts, vectors in _batches(count, dimension):
        cached.add(texts, vectors)
    return {"count": count, "dimension": dimension, **_elsewhere("print_peak", str(directory), count)}


def _unasked(path: str) -> CachedEmbeddingModel:
    model = CallableEmbeddingModel(lambda _: 1 / 0, model_name="large")
    return CachedEmbeddingModel(model, path, options=CacheOptions(durable=False))


def print_peak(path: str, count: int) -> None:
    """Find everything in the store; print the growth of the peak, pages of mapped files included."""
    texts = [f"{number}" for number in range(count)]
    cached = _unasked(path)
    cached.embed_array_sync(texts[:1])
    # Not ru_maxrss: a child inherits its parent's. This one can be set back to what is resident now.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _high_water()
    array = cached.embed_array_sync(texts)
    grown = _high_water() - before
    print(
        json.dumps({"peak MB": grown / 1e6, "array MB": array.nbytes / 1e6, "relative": grown / array.nbytes})
    )


def _high_water() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
