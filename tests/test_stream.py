"""Streams of texts: lazily in and out, in order, one batch ahead, and nothing lost when they are left."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import (
    CachedEmbeddingModel,
    CacheOptions,
    CallableEmbeddingModel,
    RefusedTextsError,
)
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

TEXTS = [f"text {at}" for at in range(95)] + ["text 1", "text 2"]


def cached(where: Any = None, **options: Any) -> tuple[CachedEmbeddingModel, FakeEmbeddingModel]:
    model = FakeEmbeddingModel(dimension=5)
    return CachedEmbeddingModel(model, where, options=CacheOptions(**options)), model


def drawn(texts: list[str], taken: list[str]) -> Iterator[str]:
    for text in texts:
        taken.append(text)
        yield text


@pytest.mark.parametrize("where", [None, "cache"])
@pytest.mark.parametrize("batch", [1, 10, 97, 1000])
def test_batches_come_in_order_with_their_vectors(where: str | None, batch: int, tmp_path: Path) -> None:
    model, fake = cached(where and str(tmp_path / where))
    batches = [*model.stream_sync(drawn(TEXTS, []), batch=batch)]
    assert [text for texts, _ in batches for text in texts] == TEXTS
    assert [len(texts) for texts, _ in batches[:-1]] == [batch] * (len(batches) - 1)
    assert np.array_equal(np.concatenate([matrix for _, matrix in batches]), fake.array(TEXTS))
    if where:
        assert len(fake.texts) == 95


@pytest.mark.parametrize("kind", ["list", "async generator"])
async def test_so_they_do_awaited(kind: str, tmp_path: Path) -> None:
    model, fake = cached(str(tmp_path))

    async def awaited() -> AsyncIterator[str]:
        for text in TEXTS:
            await asyncio.sleep(0)
            yield text

    texts: Any = TEXTS if kind == "list" else awaited()
    batches = [batch async for batch in model.stream(texts, batch=10)]
    assert [text for some, _ in batches for text in some] == TEXTS
    assert np.array_equal(np.concatenate([matrix for _, matrix in batches]), fake.array(TEXTS))


def test_no_more_is_read_than_three_batches_ahead() -> None:
    taken: list[str] = []
    model, _ = cached()
    for at, _ in enumerate(model.stream_sync(drawn(TEXTS, taken), batch=10)):
        assert len(taken) <= 10 * (at + 3)


def test_lines_of_a_file_lose_their_ends(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a\nb \nc")
    model, _ = cached()
    with (tmp_path / "lines.txt").open() as lines:
        assert [texts for texts, _ in model.stream_sync(lines, batch=2)] == [["a", "b "], ["c"]]


def test_the_model_computes_while_the_caller_has_the_last_batch(tmp_path: Path) -> None:
    def slow(texts: list[str]) -> Any:
        time.sleep(0.05)
        return np.ones((len(texts), 2), np.float32)

    model = CachedEmbeddingModel(CallableEmbeddingModel(slow, model_name="slow"), str(tmp_path))
    begun = time.perf_counter()
    for _ in model.stream_sync([f"{at}" for at in range(10)], batch=1):
        time.sleep(0.05)
    assert time.perf_counter() - begun < 0.85  # one after the other they take a second


def test_who_leaves_keeps_what_was_paid_for_and_leaves_no_thread_at_work(tmp_path: Path) -> None:
    model, fake = cached(str(tmp_path))
    stream = model.stream_sync(TEXTS, batch=10)
    next(stream)
    stream.close()
    paid = [*fake.texts]
    assert len(paid) <= 30
    time.sleep(0.05)
    assert fake.texts == paid
    assert not {*model.missing(TEXTS)} & {TEXTS.index(text) for text in paid}
    assert len([*model.stream_sync(TEXTS, batch=10)]) == 10
    assert len(fake.texts) == 95


async def test_so_does_who_is_cancelled(tmp_path: Path) -> None:
    model, fake = cached(str(tmp_path))

    async def half() -> None:
        async for _ in model.stream(TEXTS, batch=10):
            await asyncio.sleep(3600)

    task = asyncio.create_task(half())
    while not fake.texts:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len([batch async for batch in model.stream(TEXTS, batch=10)]) == 10
    assert len(fake.texts) == 95
    assert [each for each in asyncio.all_tasks() if each is not asyncio.current_task()] == []


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"role": "no such role"}])
def test_what_cannot_be_asked_is_refused_at_once(wrong: dict[str, Any]) -> None:
    taken: list[str] = []
    model = CachedEmbeddingModel(FakeEmbeddingModel(roles=("query",)))
    with pytest.raises(ValueError, match=r"batch|role"):
        model.stream_sync(drawn(TEXTS, taken), **wrong)
    assert taken == []


def test_an_element_that_is_no_text_is_named_by_its_place_among_all() -> None:
    model, fake = cached()
    texts: list[Any] = [*TEXTS[:15], None]
    with pytest.raises(TypeError, match=r"texts\[15\]"):
        list(model.stream_sync(texts, batch=10))
    assert {*fake.texts} <= {*TEXTS[:10]}


def test_refused_texts_are_named_by_their_places_among_all() -> None:
    name = "picky"

    def picky(texts: list[str]) -> Any:
        if "text 13" in texts:
            raise RefusedTextsError(name, [texts.index("text 13")], "no")
        return np.ones((len(texts), 2), np.float32)

    model = CachedEmbeddingModel(CallableEmbeddingModel(picky, model_name=name))
    with pytest.raises(RefusedTextsError) as caught:
        list(model.stream_sync(TEXTS, batch=10))
    assert [*caught.value.positions] == [13]


def test_one_bar_is_shown_for_all_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def slow(texts: list[str]) -> Any:
        time.sleep(0.15)
        return np.ones((len(texts), 2), np.float32)

    model = CachedEmbeddingModel(
        CallableEmbeddingModel(slow, model_name="slow"), str(tmp_path), options=CacheOptions(progress=True)
    )
    list(model.stream_sync([f"{at}" for at in range(8)], batch=2))
    shown = capsys.readouterr().err
    assert "8/8" in shown
    assert "2/2" not in shown
