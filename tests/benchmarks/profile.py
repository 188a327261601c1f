"""Where the time of hits and of fills goes: `python -m tests.benchmarks.profile [N]`.

Each line is the minimum of ten runs, in microseconds per text of 500 characters, D=384. Steps of a fill
are measured as it runs; those of hits one by one, with the same texts.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel
from kura_cache_adapters._core import engine
from kura_cache_adapters._core.fill import Fill
from kura_cache_adapters._segments.merge import Merger
from kura_cache_adapters._segments.rows import checksums_of
from kura_cache_adapters._segments.search import Search
from kura_cache_adapters.checks import key_matrix
from kura_cache_adapters.stores.arrow import ArrowFormat
from tests.benchmarks.contestants import room_in
from tests.benchmarks.timing import Work, timed

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 10


def hits(work: Work, directory: Path) -> dict[str, float]:
    """Measure the steps of finding everything as an array."""
    with room_in(directory) as room:
        cached = _cached(work, room)
        for _ in range(2):  # fill it, then open it
            cached.embed_array_sync(work.texts)
        keys = cached._calls.keys()(work.texts, "document")
        matrix = key_matrix(keys)
        calls: Any = cached._calls
        space = calls._engines.now()._space._space()
        matches = [(segment, *Search(matrix)._matches(segment)) for segment in space._listing.open.values()]
        found = np.empty_like(work.matrix)

        def gather() -> None:
            for segment, at, _ in matches:
                segment.vectors_at(at, found[: len(at)])

        def verify() -> None:
            for _, at, which in matches:
                checksums_of(matrix[which], found[: len(at)])

        steps: dict[str, Callable[[], Any]] = {
            "(floor: SHA-256 of the texts alone)": partial(work.hash, work.texts),
            "(floor: gather from one matrix)": lambda: work.matrix[work.at],
            "keys": lambda: cached._calls.keys()(work.texts, "document"),
            "look-up": lambda: space.get_many(keys),
            "... of that, gather from the segments": gather,
            "... of that, verify the checksums": verify,
            "all of it": lambda: cached.embed_array_sync(work.texts),
        }
        return {name: min(timed(step) for _ in range(RUNS)) for name, step in steps.items()}


FILL = {
    "keys and look-up": (engine.Engine, "found"),
    "check and store": (Fill, "_kept"),
    "... of that, write segments, merged ones too": (ArrowFormat, "write"),
    "... of that, merge": (Merger, "written"),
    "put the parts together": (engine, "merge"),
}


def fills(work: Work, directory: Path) -> dict[str, float]:
    """Measure the steps of filling, without fsync; what they leave is changes of threads."""
    runs = [_fill(work, directory) for _ in range(RUNS)]
    return min(runs, key=lambda seconds: seconds["all of it"])


def _fill(work: Work, directory: Path) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    with ExitStack() as stack:
        cached = _cached(work, stack.enter_context(room_in(directory)), seconds)
        for name, (owner, attribute) in FILL.items():
            clocked = _clocked(getattr(owner, attribute), seconds, name)
            stack.enter_context(patch.object(owner, attribute, clocked))
        seconds["all of it"] = timed(partial(cached.embed_array_sync, work.texts))
    counted = ["the model", "keys and look-up", "check and store", "put the parts together"]
    seconds["change threads, and the rest"] = seconds["all of it"] - sum(seconds[name] for name in counted)
    return seconds


def _clocked(function: Callable[..., Any], seconds: dict[str, float], name: str) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - start

    return call


def _cached(work: Work, room: Path, seconds: dict[str, float] | None = None) -> CachedEmbeddingModel:
    embed = _clocked(
        partial(work.arrays, _role=""), defaultdict(float) if seconds is None else seconds, "the model"
    )
    model = CallableEmbeddingModel(embed, model_name="instant")
    return CachedEmbeddingModel(model, str(room), options=CacheOptions(durable=False))


def main(count: int) -> None:
    """Print both profiles."""
    work = Work(count, 384)
    with tempfile.TemporaryDirectory() as directory:
        for title, profile in (("hits as arrays", hits), ("a fill without fsync", fills)):
            print(f"{title}, N={count:,}, microseconds per text")
            for name, seconds in profile(work, Path(directory)).items():
                print(f"  {name:45} {seconds / count * 1e6:6.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
