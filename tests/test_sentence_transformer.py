"""SentenceTransformerEmbeddingModel with the real all-MiniLM-L6-v2."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra `sentence-transformers`")

from kura_cache_adapters import CachedEmbeddingModel, SentenceTransformerEmbeddingModel
from kura_cache_adapters.embedding.sentence_transformer import lock_of

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["A cat sits on the mat.", "Interest rates rose again.", "short", "A kitten rests on a rug. " * 9]


@pytest.fixture(scope="module")
def model(minilm: Path) -> SentenceTransformerEmbeddingModel:
    return SentenceTransformerEmbeddingModel(path=minilm)


async def test_vectors_are_those_of_the_library(model: Any) -> None:
    ours = np.array(await model.embed(TEXTS), np.float32)
    assert np.abs(ours - model.model.encode(TEXTS)).max() < 1e-6
    assert ours.shape == (4, 384)


async def test_cached_vectors_are_bit_for_bit_those_of_the_model(model: Any, tmp_path: Path) -> None:
    cached = CachedEmbeddingModel(model, tmp_path)
    first = await cached.embed_array(TEXTS)
    again = await CachedEmbeddingModel(model, tmp_path).embed_array(TEXTS)
    assert first.dtype == again.dtype == np.float32
    assert first.tobytes() == again.tobytes()
    assert cached.stats.stored == 4


async def test_the_cache_gets_arrays_and_the_loop_is_free_meanwhile(model: Any) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.ensure_future(tick())
    batches = [vectors async for _, vectors in model.embed_batches(TEXTS * 20, role="document")]
    ticking.cancel()
    assert {(type(vectors), vectors.dtype.name) for vectors in batches} == {(np.ndarray, "float32")}
    assert ticks > 5


async def test_prompts_make_queries_and_documents_differ(minilm: Path, tmp_path: Path) -> None:
    prompts = {"query": "query: ", "document": "passage: "}
    model = SentenceTransformerEmbeddingModel(path=minilm, prompts=prompts)
    cached = CachedEmbeddingModel(model, tmp_path)
    for _ in range(2):
        document, query = await cached.embed(["cat"]), await cached.embed(["cat"], role="query")
        assert np.abs(np.array(document) - model.model.encode(["passage: cat"])).max() < 1e-6
        assert np.abs(np.array(query) - model.model.encode(["query: cat"])).max() < 1e-6
    assert model.roles == ("query",)
    assert cached.stats.misses == 2


def test_what_changes_the_vector_changes_the_key_and_nothing_else_does(model: Any, minilm: Path) -> None:
    def key(**options: Any) -> str:
        return CachedEmbeddingModel(SentenceTransformerEmbeddingModel(path=minilm, **options)).cache_key("x")

    plain = CachedEmbeddingModel(model).cache_key("x")
    assert model.roles == ()
    assert plain == key(model_batch_size=3) == key(model_name="found elsewhere") == key(revision="main")
    keys = {
        plain,
        key(normalize_embeddings=True),
        key(truncate_dim=128),
        key(prompts={"document": "passage: "}),
        key(config_kwargs={"num_hidden_layers": 3}),
        key(model_name="fine-tuned", identity={"by": "me"}),
    }
    assert len(keys) == 6


def test_a_prompt_for_queries_leaves_the_documents_keys_alone(model: Any, minilm: Path) -> None:
    asked = SentenceTransformerEmbeddingModel(path=minilm, prompts={"query": "query: "})
    plain, prompted = CachedEmbeddingModel(model), CachedEmbeddingModel(asked)
    assert plain.cache_key("x") == prompted.cache_key("x")
    assert plain.cache_key("x", role="query") != prompted.cache_key("x", role="query")


def test_a_loaded_model_is_wrapped_as_it_is(model: Any, tmp_path: Path) -> None:
    handed = CachedEmbeddingModel(model.model, tmp_path)
    assert handed.embed_sync(TEXTS) == CachedEmbeddingModel(model, tmp_path).embed_sync(TEXTS)
    assert handed.cache_key("x") == CachedEmbeddingModel(model).cache_key("x")


def test_threads_may_share_a_model(model: Any, tmp_path: Path) -> None:
    cached = CachedEmbeddingModel(model, tmp_path)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda at: cached.embed_sync([f"text {at}", "shared"]), range(8)))
    assert all(answer[1] == answers[0][1] for answer in answers)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_no_model_that_computes_and_its_child_embeds(minilm: Path, tmp_path: Path) -> None:
    model = SentenceTransformerEmbeddingModel(path=minilm, model_batch_size=1000)
    cached = CachedEmbeddingModel(model, tmp_path)
    expected = cached.embed_array_sync(TEXTS)
    lock = lock_of(model.model)
    long = [f"{number}: " + "a cat sat on a mat, and rates rose again. " * 30 for number in range(60)]

    def embed_in_child() -> None:
        assert np.array_equal(cached.embed_array_sync(TEXTS), expected)
        assert cached.stats.misses == len(TEXTS)  # the parent's
        assert cached.embed_array_sync(["a text that nobody has embedded"]).shape == (1, 384)

    with ThreadPoolExecutor(1) as threads:
        embedding = threads.submit(cached.embed_array_sync, long)
        while lock.acquire(blocking=False):
            lock.release()
        before = time.monotonic()
        child: Any = multiprocessing.get_context("fork").Process(target=embed_in_child)
        child.start()
        assert time.monotonic() - before < 1
        assert not lock.acquire(blocking=False)  # the parent's model still computes
        child.join(60)
        child.kill()
        assert child.exitcode == 0
        assert embedding.result().shape == (60, 384)
