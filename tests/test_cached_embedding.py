"""What a caller of CachedEmbeddingModel may rely on, with a model whose vectors tell the text."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import (
    BaseEmbeddingModel,
    CachedEmbeddingModel,
    CacheOptions,
    CacheStats,
    CallableEmbeddingModel,
    DimensionMismatchError,
    JSONLCheckpointManager,
    KuraCacheError,
    MemoryStore,
    VectorCountError,
)
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model() -> FakeEmbeddingModel:
    return FakeEmbeddingModel()


@pytest.fixture
def cached(model: FakeEmbeddingModel, tmp_path: Path) -> CachedEmbeddingModel:
    return CachedEmbeddingModel(model, tmp_path / "cache")


async def test_a_text_is_embedded_once(cached: Any, model: Any, tmp_path: Path) -> None:
    texts = ["b", "a", "b", "c"]
    expected = model.lists(texts)
    assert await cached.embed(texts) == expected
    assert model.calls == [["b", "a", "c"]]
    assert await cached.embed(texts) == expected
    assert await CachedEmbeddingModel(model, tmp_path / "cache").embed(texts) == expected
    assert len(model.calls) == 1
    assert cached.stats == CacheStats(hits=4, misses=3, duplicates=1, stored=3)


async def test_only_what_is_missing_reaches_the_model_in_any_order(cached: Any, model: Any) -> None:
    chance = random.Random(1)
    seen: set[str] = set()
    for _ in range(40):
        texts = [f"text {chance.randrange(120)}" for _ in range(chance.randrange(30))]
        model.calls.clear()
        assert await cached.embed(texts) == model.lists(texts)
        assert model.texts == list(dict.fromkeys(text for text in texts if text not in seen))
        seen.update(texts)


async def test_all_methods_agree(cached: Any, model: Any) -> None:
    texts = ["a", "b"]
    for answer in (
        await cached.embed(texts),
        cached.embed_sync(texts),
        (await cached.embed_array(texts)).tolist(),
        cached.embed_array_sync(texts).tolist(),
        await cached.embed(texts, role="query"),
        cached.embed_sync(texts, role="query"),
        (await cached.embed_array(texts, role="query")).tolist(),
        cached.embed_array_sync(texts, role="query").tolist(),
    ):
        assert answer == model.lists(texts)
        assert isinstance(answer[0][0], float)
    assert len(model.calls) == 1
    assert cached.embed_array_sync(texts).dtype == np.float32


async def test_queries_are_not_documents_where_the_model_tells_them_apart(tmp_path: Path) -> None:
    model = FakeEmbeddingModel(roles=("query",))
    cached = CachedEmbeddingModel(model, tmp_path)
    for _ in range(2):
        assert await cached.embed(["x"]) == model.lists(["x"])
        assert await cached.embed(["x"], role="query") == model.lists(["x"], "query")
    assert len(model.calls) == 2


async def test_no_text_is_no_call(cached: Any, model: Any) -> None:
    for bare in (cached, CachedEmbeddingModel(model)):
        assert await bare.embed([]) == []
        assert bare.embed_sync([]) == []
        assert bare.embed_array_sync([]).shape == (0, 0)
    assert model.calls == []


@pytest.mark.parametrize("texts", ["one string", ["a", None], ["a", b"bytes"], [1], [["nested"]]])
async def test_what_is_no_list_of_strings_is_refused_before_anything_is_spent(
    cached: Any,
    model: Any,
    texts: Any,
) -> None:
    for bare in (cached, CachedEmbeddingModel(model)):
        with pytest.raises(TypeError, match="string"):
            await bare.embed(texts)
        with pytest.raises(TypeError, match="string"):
            bare.embed_sync(texts)
    assert model.calls == []


async def test_without_a_cache_it_is_the_bare_model(model: Any, tmp_path: Path) -> None:
    for off in (None, JSONLCheckpointManager(tmp_path / "off", enabled=False)):
        bare = CachedEmbeddingModel(model, off)
        assert await bare.embed(["a", "a"]) == model.lists(["a", "a"])
        assert bare.embed_array_sync(["a"]).tolist() == model.lists(["a"])
        assert bare.slug() == model.slug()
        assert bare.stats == CacheStats(misses=3)
    assert not (tmp_path / "off").exists()
    assert model.calls[0] == ["a", "a"]
    model.fault = "short"
    assert len(await CachedEmbeddingModel(model).embed(["a", "b"])) == 1


def test_the_slug_says_that_a_cache_is_on(cached: Any) -> None:
    assert cached.slug() == "cached:fake:fake"


def test_a_cached_model_is_an_embedding_model(cached: Any, model: Any) -> None:
    assert cached.embedding_model is model
    assert cached.model_name == "fake"
    assert isinstance(cached, BaseEmbeddingModel)


@pytest.mark.parametrize("name", [None, "", 3])
def test_a_model_without_a_name_is_refused(model: Any, name: Any) -> None:
    class BadModel(BaseEmbeddingModel):
        async def embed(self, texts: list[str]) -> list[list[float]]:  # noqa: ARG002
            return []

        def slug(self) -> str:
            return "bad"

    bad = BadModel()
    if name is not None:
        bad.model_name = name  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="BadModel has no model_name"):
        CachedEmbeddingModel(bad)


def test_what_is_no_cache_is_refused(model: Any) -> None:
    with pytest.raises(TypeError, match="dict is no cache"):
        CachedEmbeddingModel(model, {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no store for s4://"):
        CachedEmbeddingModel(model, "s4://bucket")
    with pytest.raises(ValueError, match="chunk_size"):
        CacheOptions(chunk_size=0)


async def test_the_log_says_what_was_found(cached: Any, caplog: Any) -> None:
    await cached.embed([f"{at}" for at in range(8)])
    with caplog.at_level(logging.INFO, "kura_cache_adapters"):
        await cached.embed([f"{at}" for at in range(10)])
    assert "Found 8 cached embeddings, 2 need embedding" in caplog.messages
    assert {record.name for record in caplog.records} == {"kura_cache_adapters.cache"}


async def test_misses_are_embedded_and_stored_chunk_by_chunk(model: Any, tmp_path: Path) -> None:
    cached = CachedEmbeddingModel(model, tmp_path, options=CacheOptions(chunk_size=10))
    stored_before: list[int] = []
    model.fault = lambda _: stored_before.append(cached.stats.stored)
    await cached.embed([f"{at}" for at in range(35)])
    assert [len(call) for call in model.calls] == [10, 10, 10, 5]
    assert stored_before == [0, 10, 20, 30]


async def test_a_failing_model_loses_nothing_that_it_had_returned(model: Any, tmp_path: Path) -> None:
    class BoomError(Exception):
        pass

    error = BoomError("of the model's own")

    def fail(texts: list[str]) -> None:
        if "1000" in texts:
            raise error

    texts = [f"{at}" for at in range(1001)]
    model.fault = fail
    with pytest.raises(BoomError) as caught:
        await CachedEmbeddingModel(model, tmp_path).embed(texts)
    assert caught.value is error
    model.fault = None
    model.calls.clear()
    assert await CachedEmbeddingModel(model, tmp_path).embed(texts) == model.lists(texts)
    assert model.texts == texts[768:]


@pytest.mark.parametrize(("fault", "count"), [("short", 2), ("long", 4)])
async def test_a_wrong_count_is_an_error_and_nothing_is_stored(
    cached: Any,
    model: Any,
    fault: Any,
    count: int,
) -> None:
    model.fault = fault
    with pytest.raises(VectorCountError, match=rf"fake.*3 vectors.*{count}"):
        await cached.embed(["a", "b", "c"])
    assert isinstance(VectorCountError("m", 1, 2), KuraCacheError)
    assert cached.stats.stored == 0
    model.fault = None
    assert await cached.embed(["a", "b", "c"]) == model.lists(["a", "b", "c"])


class Answering(FakeEmbeddingModel):
    """A model that answers with what it is told."""

    answer: Any = None

    async def embed(self, texts: list[str], *, role: str = "document") -> list[list[float]]:
        await super().embed(texts, role=role)
        answer: list[list[float]] = self.answer(texts) if callable(self.answer) else self.answer
        return answer


@pytest.mark.parametrize(
    "answer",
    [
        [[1.0, 2.0], [3.0]],
        [None, None],
        [["1.0", "2.0"], ["3.0", "4.0"]],
        [[], []],
        [1.0, 2.0],
        [[1 << 60 | 1, 1], [1 << 60 | 1, 1]],
        [[0.5, 1 << 60 | 1], [0.5, 1 << 60 | 1]],
        [[0.5, 10**400], [0.5, 10**400]],
        [[[1.0]], [[2.0]]],
    ],
    ids=[
        "ragged",
        "holes",
        "strings",
        "empty",
        "flat",
        "not exact",
        "rounded beside floats",
        "beyond floats",
        "deep",
    ],
)
async def test_what_makes_no_matrix_is_handed_over_with_a_warning_and_not_stored(
    tmp_path: Path,
    caplog: Any,
    answer: Any,
) -> None:
    model = Answering()
    model.answer = answer
    cached = CachedEmbeddingModel(model, tmp_path)
    assert await cached.embed(["a", "b"]) == answer
    assert caplog.text.count("not stored") == 1
    assert cached.stats.stored == 0
    assert await cached.embed(["a", "b"]) == answer
    with pytest.raises(DimensionMismatchError, match="matrix"):
        await cached.embed_array(["a", "b"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
async def test_what_is_not_finite_is_handed_over_with_a_warning_and_not_stored(
    tmp_path: Path,
    caplog: Any,
    bad: float,
) -> None:
    model = Answering()
    model.answer = lambda texts: [[1.0, bad if text == "bad" else 2.0] for text in texts]
    cached = CachedEmbeddingModel(model, tmp_path)
    for _ in range(2):
        assert repr(await cached.embed(["good", "bad"])) == repr([[1.0, 2.0], [1.0, bad]])
    assert "NaN or infinity for 1 texts" in caplog.text
    assert model.calls == [["good", "bad"], ["bad"]]
    assert cached.stats.stored == 1


async def test_a_result_never_mixes_two_dimensions(tmp_path: Path, caplog: Any) -> None:
    small, large = FakeEmbeddingModel(dimension=4), FakeEmbeddingModel(dimension=6)
    await CachedEmbeddingModel(small, tmp_path).embed(["a", "b"])
    changed = CachedEmbeddingModel(large, tmp_path)
    assert await changed.embed(["a", "c", "b"]) == large.lists(["a", "c", "b"])
    assert "another dimension than its 4-dimensional cache" in caplog.text
    assert (await changed.embed_array(["c", "a", "a"])).tolist() == large.lists(["c", "a", "a"])
    assert changed.stats.save_failures == 2
    assert await CachedEmbeddingModel(small, tmp_path).embed(["a"]) == small.lists(["a"])


async def test_texts_that_are_embedded_again_come_in_chunks_too(tmp_path: Path) -> None:
    small, large = FakeEmbeddingModel(dimension=4), FakeEmbeddingModel(dimension=6)
    await CachedEmbeddingModel(small, tmp_path).embed(texts := [f"{at}" for at in range(10)])
    changed = CachedEmbeddingModel(large, tmp_path, options=CacheOptions(chunk_size=3))
    assert await changed.embed(["new", *texts]) == large.lists(["new", *texts])
    assert max(map(len, large.calls)) == 3


def test_asking_what_is_missing_counts_nothing(cached: Any, tmp_path: Path) -> None:
    cached.embed_sync(["a"])
    [file] = tmp_path.rglob("*.arrow")
    content = bytearray(file.read_bytes())
    content[content.index(cached.embedding_model.array(["a"]).tobytes())] ^= 1
    file.write_bytes(content)
    again = CachedEmbeddingModel(cached.embedding_model, tmp_path / "cache")
    assert again.missing(["a", "b"]) == [0, 1]
    assert again.stats == CacheStats()


@pytest.mark.parametrize(
    "convert",
    [
        tuple,
        np.array,
        lambda rows: np.array(rows, np.float64),
        lambda rows: [np.array(row, np.float32) for row in rows],
        lambda rows: [tuple(row) for row in rows],
        lambda rows: (row for row in rows),
        np.asfortranarray,
    ],
)
async def test_any_shape_of_a_right_answer_is_welcome(tmp_path: Path, convert: Any) -> None:
    model = Answering()
    model.answer = lambda texts: convert(model.lists(texts))
    cached = CachedEmbeddingModel(model, tmp_path)
    for _ in range(2):
        answer = await cached.embed(["a", "b", "a"])
        assert answer == model.lists(["a", "b", "a"])
        assert {type(number) for row in answer for number in row} == {float}
    assert len(model.calls) == 1


async def test_float64_vectors_stay_exact(tmp_path: Path) -> None:
    model = FakeEmbeddingModel(dtype=np.float64)
    for _ in range(2):
        cached = CachedEmbeddingModel(model, tmp_path)
        assert await cached.embed(["a", "b"]) == model.lists(["a", "b"])
        assert cached.embed_array_sync(["a"]).dtype == np.float64
    assert len(model.calls) == 1


async def test_a_model_may_reuse_its_buffer(tmp_path: Path) -> None:
    buffer = np.empty((1, 8), np.float32)
    model = Answering()

    def fill(texts: list[str]) -> Any:
        buffer[:] = model.array(texts)
        return buffer

    model.answer = fill
    cached = CachedEmbeddingModel(model, tmp_path, options=CacheOptions(chunk_size=1))
    assert await cached.embed(["a", "b", "c"]) == model.lists(["a", "b", "c"])


async def test_results_belong_to_the_caller(cached: Any, model: Any) -> None:
    for _ in range(2):
        lists = await cached.embed(["a", "a"])
        assert lists == model.lists(["a", "a"])
        lists[0][:] = []
        assert lists[1] == model.lists(["a"])[0]
        array = await cached.embed_array(["a", "a"])
        array[0] = 0
        assert array[1].tolist() == model.lists(["a"])[0]
    assert await cached.embed(["a"]) == model.lists(["a"])


async def test_options_and_tuning_leave_the_key_alone(model: Any, tmp_path: Path) -> None:
    await CachedEmbeddingModel(model, tmp_path).embed(["a"])
    options = CacheOptions(chunk_size=1, durable=False, progress=True)
    await CachedEmbeddingModel(model, tmp_path, options=options).embed(["a"])
    assert len(model.calls) == 1
    await CachedEmbeddingModel(model, tmp_path, device="cpu").embed(["a"])
    assert len(model.calls) == 2


async def test_awkward_texts_come_back(cached: Any, model: Any) -> None:
    texts = [
        "",
        " ",
        "\0",
        "a\0",
        "é",
        "e\u0301",
        "\ud800",
        "\udfff\ud800",
        "x" * 10_000_000,
        "x" * 9_999_999,
    ]
    assert await cached.embed(texts) == model.lists(texts)
    assert await cached.embed(texts) == model.lists(texts)
    assert len(model.calls) == 1


def test_closing_closes_what_the_model_opened_and_nothing_else(model: Any, tmp_path: Path) -> None:
    store = MemoryStore()
    with CachedEmbeddingModel(model, store) as cached:
        cached.embed_sync(["a"])
    assert CachedEmbeddingModel(model, store).embed_sync(["a"]) == model.lists(["a"])
    with CachedEmbeddingModel(model, tmp_path) as cached:
        cached.embed_sync(["b"])
    assert cached.embed_sync(["b"]) == model.lists(["b"])
    assert len(model.calls) == 2


async def test_thirty_calls_of_a_cached_model_around_a_cached_model_end(tmp_path: Path) -> None:
    blocking = CallableEmbeddingModel(lambda texts: [[1.0]] * len(texts), model_name="blocking")
    outer = CachedEmbeddingModel(CachedEmbeddingModel(blocking, tmp_path / "in"), tmp_path / "out")
    answers = await asyncio.wait_for(asyncio.gather(*[outer.embed([f"{at}"]) for at in range(30)]), 60)
    assert [*answers] == [[[1.0]]] * 30


async def test_calls_at_once_of_a_model_that_reuses_its_buffer_are_not_mixed(tmp_path: Path) -> None:
    buffer = np.zeros((1, 8), np.float32)
    model = FakeEmbeddingModel()

    async def embed(texts: list[str]) -> Any:
        await asyncio.sleep(0)
        buffer[:] = model.array(texts)
        return buffer

    cached = CachedEmbeddingModel(CallableEmbeddingModel(embed, model_name="buffer"), tmp_path)
    for _ in range(2):
        answers = await asyncio.gather(*[cached.embed([f"{at}"]) for at in range(100)])
        assert [*answers] == [model.lists([f"{at}"]) for at in range(100)]


def test_a_cached_model_around_a_cached_model_works(model: Any, tmp_path: Path) -> None:
    outer = CachedEmbeddingModel(CachedEmbeddingModel(model, tmp_path / "in"), tmp_path / "out")
    for _ in range(2):
        assert outer.embed_sync(["a", "b"]) == model.lists(["a", "b"])
    assert len(model.calls) == 1


def test_a_repr_names_model_and_cache_only(cached: Any, tmp_path: Path) -> None:
    where = f"ArrowStore({str(tmp_path / 'cache')!r})"
    assert repr(cached) == f"CachedEmbeddingModel(FakeEmbeddingModel('fake'), {where})"
