"""Run the real Kura pipeline twice over one cache: the second time, nothing is embedded.

Run it with `pip install -e ".[kura]"`, then `python examples/kura_pipeline.py`. It needs no network
and no API key: without OPENAI_API_KEY it starts a local server that answers as OpenAI's would. The
first projection takes about a minute, in which UMAP is compiled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # UMAP repeats itself only on one thread

import numpy as np
import openai

from kura_cache_adapters.embedding import OpenAIEmbeddingModel
from kura_cache_adapters.kura import JSONLCheckpointManager, cached, import_dimensionality
from kura_cache_adapters.testing import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kura.types import Conversation
    from numpy.typing import NDArray

TOPICS = {
    "bread": ["bake sourdough bread", "knead dough by hand", "store a bread starter", "make a rye crust"],
    "python": [
        "sort a python list",
        "read a csv file in python",
        "write a python decorator",
        "mock a python test",
    ],
    "travel": [
        "plan a trip to Lisbon",
        "pack for a winter trip",
        "find a cheap night train",
        "travel with a cat",
    ],
    "taxes": ["file a tax return", "deduct a home office", "correct a tax form", "pay taxes on dividends"],
    "garden": ["prune an apple tree", "grow tomatoes on a balcony", "keep slugs off lettuce", "water a lawn"],
    "music": ["tune a guitar", "learn a piano scale", "write a song bridge", "choose violin strings"],
}
STAGES = ["summaries", "base clusters", "meta clusters", "projection"]


def conversations(count: int) -> list[Conversation]:
    """Make different conversations about a few topics, the same ones each time."""
    from kura.types import Conversation, Message

    chance = random.Random(0)  # noqa: S311 - examples, not secrets
    made = []
    for number in range(count):
        topic = chance.choice(list(TOPICS))
        request = f"How do I {chance.choice(TOPICS[topic])}, attempt {number}?"
        when = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(minutes=number)
        asked = Message(role="user", content=request, created_at=when)
        answered = Message(role="assistant", content=f"About {topic}: step by step.", created_at=when)
        made.append(
            Conversation(chat_id=f"chat-{number}", created_at=when, messages=[asked, answered], metadata={})
        )
    return made


def word_vectors(texts: list[str]) -> NDArray[np.float32]:
    """Embed texts by their words: texts that share words are near each other."""
    rows = np.zeros((len(texts), 64), np.float32)
    for at, text in enumerate(texts):
        for word in text.lower().split():
            rows[at] += np.random.default_rng(crc32(word.encode())).standard_normal(64, np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def keep_clients() -> None:
    """Keep every OpenAI client alive: Kura drops one a stage, and a dropped one can stall the next."""
    kept: list[Any] = []
    make = openai.AsyncOpenAI.__init__

    def make_and_keep(self: Any, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - a client's
        make(self, *arguments, **options)
        kept.append(self)

    openai.AsyncOpenAI.__init__ = make_and_keep  # type: ignore[method-assign]


async def run(name: str, count: int, cache: str, until: str) -> dict[str, Any]:
    """Run the pipeline once; print a line a stage; return what came out."""
    from kura.cluster import ClusterDescriptionModel, generate_base_clusters_from_conversation_summaries
    from kura.meta_cluster import MetaClusterModel, reduce_clusters_from_base_clusters
    from kura.summarisation import SummaryModel, summarise_conversations

    dimensionality: Any = import_dimensionality()
    checkpoints = JSONLCheckpointManager(f"{cache}/checkpoints-{name.strip()}-{os.getpid()}")
    with cached(OpenAIEmbeddingModel(), f"{cache}/embeddings") as model:
        done: dict[str, Any] = {}

        async def summaries() -> Any:  # noqa: ANN401 - Kura's types
            return await summarise_conversations(
                conversations(count), model=SummaryModel(), checkpoint_manager=checkpoints
            )

        async def base() -> Any:  # noqa: ANN401
            return await generate_base_clusters_from_conversation_summaries(
                done["summaries"],
                embedding_model=model,
                clustering_model=ClusterDescriptionModel(),
                checkpoint_manager=checkpoints,
            )

        async def meta() -> Any:  # noqa: ANN401
            return await reduce_clusters_from_base_clusters(
                done["base clusters"],
                model=MetaClusterModel(embedding_model=model, max_clusters=4),
                checkpoint_manager=checkpoints,
            )

        async def projection() -> Any:  # noqa: ANN401
            return await dimensionality.reduce_dimensionality_from_clusters(
                done["meta clusters"],
                model=dimensionality.HDBUMAP(embedding_model=model),
                checkpoint_manager=checkpoints,
            )

        work: list[Callable[[], Awaitable[Any]]] = [summaries, base, meta, projection]
        for stage, step in zip(STAGES[: STAGES.index(until) + 1], work, strict=False):
            before, start = model.stats, time.perf_counter()
            done[stage] = await step()
            seconds, now = time.perf_counter() - start, model.stats
            hits = now.hits - before.hits
            misses = now.misses - before.misses
            asked = hits + misses + now.duplicates - before.duplicates
            print(f"{name}  {stage:14}{asked:7}{hits:7}{misses:8}{seconds:9.2f}", flush=True)
    return {
        "clusters": sorted((each.name, sorted(each.chat_ids)) for each in done.get("meta clusters", [])),
        "coordinates": sorted((each.name, each.x_coord, each.y_coord) for each in done.get("projection", [])),
        "hits": model.stats.hits,
        "misses": model.stats.misses,
    }


def main() -> None:
    """Run the pipeline as often as asked, over one cache."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cache", help="a directory to keep; the default is a new temporary one")
    arguments.add_argument("--conversations", type=int, default=120)
    arguments.add_argument("--runs", type=int, default=2)
    arguments.add_argument("--until", choices=STAGES, default=STAGES[-1])
    arguments.add_argument("--json", type=Path, help="where to write what came out")
    asked = arguments.parse_args()
    keep_clients()
    with contextlib.ExitStack() as stack:
        if "OPENAI_API_KEY" not in os.environ:
            server = stack.enter_context(OpenAIServer(embed=word_vectors))
            os.environ |= {"OPENAI_API_KEY": "local", "OPENAI_BASE_URL": server.url}
        cache = asked.cache or stack.enter_context(tempfile.TemporaryDirectory())
        print("run     stage           texts   hits  misses  seconds")
        results = []
        for number in range(asked.runs):
            np.random.seed(0)  # noqa: NPY002 - the generator that Kura's clustering draws from
            name = f"{['first', 'second'][number] if number < 2 else number + 1!s:6}"  # noqa: PLR2004
            results.append(asyncio.run(run(name, asked.conversations, cache, asked.until)))
    if asked.json:
        asked.json.write_text(json.dumps(results))
    misses, hits = sum(each["misses"] for each in results), sum(each["hits"] for each in results)
    print(f"{misses} texts were embedded, {hits} more came from the cache")
    same = all(each["clusters"] == results[0]["clusters"] for each in results)
    print(f"the same clusters each time: {same}")


if __name__ == "__main__":
    main()
