"""An answer that comes in parts: it is put together once, and belongs to its caller."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel, MemoryStore
from kura_cache_adapters.embedding.streaming import StreamingEmbeddingModel
from kura_cache_adapters.stores.memory import MemorySpace
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = [f"text {number}" for number in range(40)]
FAKE = FakeEmbeddingModel()


def cached(model: Any, chunk_size: int = 4, store: Any = None) -> CachedEmbeddingModel:
    return CachedEmbeddingModel(model, store or MemoryStore(), options=CacheOptions(chunk_size=chunk_size))


def by_batch(answer: Callable[[int], Any]) -> CallableEmbeddingModel:
    """Return a model that answers its batches with what a function makes of their numbers."""
    batches = iter(range(1000))
    return CallableEmbeddingModel(lambda _: answer(next(batches)), model_name="by batch")


class Nowhere(MemorySpace):
    """A space that keeps nothing."""

    def put_many(self, keys: Any, vectors: Any, *, durable: bool = True) -> None:
        """Keep nothing."""


class NowhereStore(MemoryStore):
    """A store of such spaces."""

    def space(self, identity: Any) -> Any:  # noqa: ARG002 - a store's signature
        return Nowhere(self)


@pytest.mark.parametrize("lists", [False, True])
def test_an_array_of_many_parts_is_not_in_memory_twice(*, lists: bool) -> None:
    def answer(number: int) -> Any:
        part = np.full((64, 512), number / 8, np.float32)
        return part.tolist() if lists else part

    model = cached(by_batch(answer), 64, NowhereStore())
    texts = [f"text {number}" for number in range(64 * 100)]
    tracemalloc.start()
    vectors = model.embed_array_sync(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(vectors[:, 0] * 8, np.arange(len(texts)) // 64)
    assert vectors.flags.owndata
    assert peak < 1.5 * vectors.nbytes


KINDS: dict[str, Callable[[int], Any]] = {
    "a wider part": lambda number: [[0.1 if number == 5 else 0.5, float(number)]] * 4,
    "a wide part first": lambda number: [[0.1 if number == 0 else 0.5, float(number)]] * 4,
    "all wide": lambda number: [[0.1, float(number)]] * 4,
    "a part with a hole": lambda number: [[0.5, float(number)]] * 3 + [None if number == 5 else [0.5, 7.0]],
}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_several_kinds_are_one_answer(kind: str) -> None:
    expected = [row for number in range(10) for row in KINDS[kind](number)]
    assert cached(by_batch(KINDS[kind])).embed_sync(TEXTS) == expected


def test_parts_beside_hits_and_repeated_texts_are_in_their_order() -> None:
    model = cached(FakeEmbeddingModel())
    model.embed_sync(TEXTS[5:9])
    asked = [*TEXTS[::-1], *TEXTS[:3], *TEXTS[20:]]
    assert model.embed_array_sync(asked).tolist() == FAKE.lists(asked)


class Backwards(StreamingEmbeddingModel):
    """A model that answers its last texts first."""

    model_name = "fake"

    def slug(self) -> str:
        return "backwards"

    async def embed_batches(self, texts: list[str], *, role: Any) -> Any:
        for start in reversed(range(0, len(texts), 4)):
            yield range(start, start + 4), FAKE.array(texts[start : start + 4], role)


def test_parts_that_come_in_another_order_are_put_in_the_callers() -> None:
    assert cached(Backwards()).embed_array_sync(TEXTS).tolist() == FAKE.lists(TEXTS)


async def test_who_waited_for_a_part_has_a_copy_of_it() -> None:
    async def slowly(texts: list[str]) -> Any:
        await asyncio.sleep(0.002)
        return FAKE.array(texts)

    model = cached(CallableEmbeddingModel(slowly, model_name="slow"))
    for _ in range(5):
        first, *others = [
            asyncio.ensure_future(model.embed_array(texts)) for texts in (TEXTS, TEXTS[8:], TEXTS)
        ]
        (await first)[:] = 0
        for other, texts in zip(others, (TEXTS[8:], TEXTS), strict=True):
            assert (await other).tolist() == FAKE.lists(texts)
        assert model.embed_sync(TEXTS) == FAKE.lists(TEXTS)
