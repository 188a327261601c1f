"""A model that misbehaves: what it had returned is kept, what it raises comes out, nothing bad is stored."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from kura_cache_adapters import (
    CachedEmbeddingModel,
    CacheOptions,
    CallableEmbeddingModel,
    MemoryStore,
    OpenAIEmbeddingModel,
    VectorCountError,
)
from kura_cache_adapters.embedding.streaming import StreamingEmbeddingModel
from kura_cache_adapters.protocols import BaseEmbeddingModel
from kura_cache_adapters.testing import FakeEmbeddingModel, OpenAIServer
from tests.frameworks import FACES, Spy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from kura_cache_adapters.identity import Role

    Ask = Callable[[list[str]], Any]

BATCH = 4
TEXTS = [f"text {number}" for number in range(3 * BATCH)]
OPTIONS = CacheOptions(chunk_size=BATCH, durable=False)


class Plain(BaseEmbeddingModel):
    """An async model as Kura's are."""

    def __init__(self, spy: Spy) -> None:
        self.spy, self.model_name = spy, "misbehaving"

    def slug(self) -> str:
        return self.model_name

    async def embed(self, texts: list[str]) -> list[list[float]]:
        return self.spy.answer("document", texts)


class Synchronous(Plain):
    """A model that has a sync method, too."""

    def embed_sync(self, texts: list[str]) -> list[list[float]]:
        return self.spy.answer("document", texts)


class Streaming(StreamingEmbeddingModel):
    """A model that answers in batches."""

    def __init__(self, spy: Spy) -> None:
        self.spy, self.model_name = spy, "misbehaving"

    def slug(self) -> str:
        return self.model_name

    async def embed_batches(
        self, texts: list[str], *, role: Role
    ) -> AsyncGenerator[tuple[range, list[list[float]]], None]:
        for start in range(0, len(texts), BATCH):
            some = texts[start : start + BATCH]
            yield range(start, start + len(some)), self.spy.answer(role, some)


def function(spy: Spy) -> CallableEmbeddingModel:
    return CallableEmbeddingModel(lambda texts: spy.answer("document", texts), model_name="misbehaving")


def source_of(face: str) -> Callable[[Spy], Any]:
    def make(spy: Spy) -> Any:
        of = FACES[face]()
        return of.source(of.embedder(spy, BATCH), "misbehaving")

    return make


def sync_way(make: Callable[[Spy], Any]) -> Callable[[Spy, Path], Ask]:
    return lambda spy, path: CachedEmbeddingModel(make(spy), path, options=OPTIONS).embed_sync


def async_way(make: Callable[[Spy], Any]) -> Callable[[Spy, Path], Ask]:
    def open_it(spy: Spy, path: Path) -> Ask:
        cached = CachedEmbeddingModel(make(spy), path, options=OPTIONS)
        return lambda texts: asyncio.run(cached.embed(texts))

    return open_it


def adapter_way(face: str) -> Callable[[Spy, Path], Ask]:
    def open_it(spy: Spy, path: Path) -> Ask:
        of = FACES[face]()
        adapter = of.wrap(of.embedder(spy, BATCH), path, options=OPTIONS, model_name="misbehaving")
        return lambda texts: of.documents(adapter, texts)

    return open_it


SOURCES: dict[str, Callable[[Spy], Any]] = {
    "plain": Plain,
    "sync": Synchronous,
    "function": function,
    "streaming": Streaming,
    **{f"{face} source": source_of(face) for face in FACES},
}
WAYS = {
    **{f"{name}, asked sync": sync_way(make) for name, make in SOURCES.items()},
    **{f"{name}, asked async": async_way(make) for name, make in SOURCES.items()},
    **{f"{face} adapter": adapter_way(face) for face in FACES},
}


def in_place_of_one(vector: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda vectors: [vectors[0], vector, *vectors[2:]]


NO_ANSWERS: dict[str, Callable[[list[Any]], Any]] = {
    "one too few": lambda vectors: vectors[:-1],
    "one too many": lambda vectors: [*vectors, vectors[-1]],
    "none at all": lambda _: [],
    "None": lambda _: None,
    "a number": lambda _: 1.5,
}
# LlamaIndex iterates over an answer before it can be seen.
NO_ORDER: dict[str, Callable[[list[Any]], Any]] = {
    "a mapping": lambda vectors: dict(enumerate(vectors)),
    "a mapping from names": lambda vectors: {f"{at}": vectors for at, _ in enumerate(vectors)},
    "a set": lambda vectors: {*map(tuple, vectors)},
    "a string": lambda vectors: "x" * len(vectors),
    "a table": lambda vectors: pa.table([*zip(*vectors, strict=True)][: len(vectors)], [*"abcd"]),
}
ONE_BAD: dict[str, Callable[[list[Any]], Any]] = {
    "a hole": in_place_of_one(None),
    "NaN": in_place_of_one([float("nan")] * 8),
    "infinity": in_place_of_one([1.0] * 7 + [float("-inf")]),
    "empty": in_place_of_one([]),
    "strings": in_place_of_one(["0.5"] * 8),
    "a string": in_place_of_one("12345678"),
    "a dict": in_place_of_one({"embedding": [1.0] * 8}),
}
ALL_BAD: dict[str, Callable[[list[Any]], Any]] = {
    "ragged": in_place_of_one([1.0] * 3),
    "all empty": lambda vectors: [[] for _ in vectors],
    "all None": lambda vectors: [None for _ in vectors],
    "an array of objects": lambda vectors: np.array([None for _ in vectors]),
}


def changing_the_second_answer(change: Callable[[list[Any]], Any]) -> Spy:
    spy = Spy(FakeEmbeddingModel("misbehaving"))
    spy.change = lambda vectors: change(vectors) if len(spy.calls) == 2 else vectors
    return spy


def asked_again(way: str, path: Path) -> set[str]:
    """Ask a sound model for everything, behind the cache opened anew; return what was not found."""
    spy = Spy(FakeEmbeddingModel("misbehaving"))
    assert WAYS[way](spy, path)(TEXTS) == spy.fake.lists(TEXTS)
    return {*spy.texts}


def test_a_model_that_raises_is_heard_as_it_is_and_what_it_had_returned_is_kept_by_all(
    way: str, tmp_path: Path
) -> None:
    for number, error in enumerate([ValueError("once"), KeyboardInterrupt(), SystemExit(3)]):
        spy = Spy(FakeEmbeddingModel("misbehaving"))

        def fail(texts: list[str], error: BaseException = error) -> None:
            if TEXTS[5] in texts:
                raise error

        spy.before = fail
        with pytest.raises(type(error)) as caught:
            WAYS[way](spy, tmp_path / str(number))(TEXTS)
        assert caught.value is error
        assert asked_again(way, tmp_path / str(number)) == {*TEXTS[4:]}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    for face in FACES:
        if name.startswith(face):
            FACES[face]()  # skips where its framework is not installed
    return name


@pytest.mark.parametrize("fault", NO_ANSWERS)
def test_an_answer_of_the_wrong_length_is_refused_whole(way: str, fault: str, tmp_path: Path) -> None:
    refusals = (VectorCountError, TypeError) if way.startswith("llama") else VectorCountError
    with pytest.raises(refusals):
        WAYS[way](changing_the_second_answer(NO_ANSWERS[fault]), tmp_path)(TEXTS)
    assert asked_again(way, tmp_path) == {*TEXTS[4:]}


@pytest.mark.parametrize("way", [name for name in WAYS if not name.startswith("llama")], indirect=True)
@pytest.mark.parametrize("fault", NO_ORDER)
def test_an_answer_that_iterates_over_something_else_than_its_vectors_is_refused_whole(
    way: str, fault: str, tmp_path: Path
) -> None:
    with pytest.raises(VectorCountError, match=r"nothing of this answer was stored\. Make it answer with"):
        WAYS[way](changing_the_second_answer(NO_ORDER[fault]), tmp_path)(TEXTS)
    assert asked_again(way, tmp_path) == {*TEXTS[4:]}


@pytest.mark.parametrize("fault", [*ONE_BAD, *ALL_BAD])
def test_what_is_no_vector_is_handed_on_and_not_stored(way: str, fault: str, tmp_path: Path) -> None:
    change = (ONE_BAD | ALL_BAD)[fault]
    spy = changing_the_second_answer(change)
    expected = spy.fake.lists(TEXTS)
    expected[4:8] = change(expected[4:8])
    not_stored = {TEXTS[5]} if fault in ONE_BAD else {*TEXTS[4:8]}
    try:
        assert repr(WAYS[way](spy, tmp_path)(TEXTS)) == repr(expected)
    except ValueError:  # LlamaIndex itself refuses what is no list of floats
        assert way.startswith("llama")
        not_stored = {*TEXTS[4:]}
    assert asked_again(way, tmp_path) == not_stored


@pytest.mark.parametrize("concurrent", [False, True])
def test_a_cancellation_that_the_model_makes_up_ends_its_call_alone(
    tmp_path: Path,
    concurrent: bool,  # noqa: FBT001
) -> None:
    spy = Spy(FakeEmbeddingModel("misbehaving"))

    def cancel(_: list[str]) -> None:
        if len(spy.calls) == 2:
            raise asyncio.CancelledError

    spy.before = cancel
    cached = CachedEmbeddingModel((Synchronous if concurrent else Plain)(spy), tmp_path, options=OPTIONS)
    with pytest.raises((asyncio.CancelledError, CancelledError)):
        cached.embed_sync(TEXTS)
    assert cached.embed_sync(TEXTS) == spy.fake.lists(TEXTS)
    assert sorted(spy.texts) == sorted([*TEXTS, *TEXTS[4:8]])


async def test_a_hanging_coroutine_is_cancelled_and_the_texts_are_free(tmp_path: Path) -> None:
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, tmp_path, options=OPTIONS)
    model.fault = "stall"
    hanging = asyncio.ensure_future(cached.embed(["a", "b"]))
    waiting = asyncio.ensure_future(cached.embed(["b"]))
    while not model.calls:
        await asyncio.sleep(0.001)
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(hanging, 5)
    model.fault = None
    assert await asyncio.wait_for(waiting, 5) == model.lists(["b"])
    assert await asyncio.wait_for(cached.embed(["a"]), 5) == model.lists(["a"])


async def test_beside_a_hanging_thread_others_go_on_and_its_answer_is_kept(tmp_path: Path) -> None:
    spy, go_on = Spy(FakeEmbeddingModel("misbehaving")), threading.Event()
    spy.before = lambda texts: "slow" in texts and go_on.wait(20)
    cached = CachedEmbeddingModel(Synchronous(spy), tmp_path)
    hanging = asyncio.ensure_future(cached.embed(["slow"]))
    while not spy.calls:
        await asyncio.sleep(0.001)
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(hanging, 1)
    assert await asyncio.wait_for(cached.embed(["quick"]), 5) == spy.fake.lists(["quick"])
    again = asyncio.ensure_future(cached.embed(["slow"]))
    go_on.set()
    assert await asyncio.wait_for(again, 5) == spy.fake.lists(["slow"])
    assert spy.texts == ["slow", "quick"]


@pytest.mark.parametrize("fault", ["401", "500", "short", "same index", "NaN"])
def test_an_api_that_misbehaves(openai_server: OpenAIServer, tmp_path: Path, fault: Any) -> None:
    from openai import APIStatusError

    def ask() -> Any:
        model = OpenAIEmbeddingModel(model_batch_size=BATCH, n_concurrent_jobs=1)
        return CachedEmbeddingModel(model, tmp_path, options=OPTIONS).embed_sync(TEXTS)

    def second_is_nan(texts: list[str]) -> Any:
        vectors = FakeEmbeddingModel("text-embedding-3-small").array(texts)
        vectors[:] = np.nan if len(openai_server.requests) == 2 else vectors
        return vectors

    right = OpenAIServer.lists(TEXTS)
    if fault == "NaN":
        openai_server.embed = second_is_nan
        assert np.isnan(np.array(ask())[4:8]).all()
    else:
        openai_server.faults = ["lists", *[fault] * (3 if fault == "500" else 1)]  # the SDK asks again twice
        with pytest.raises(APIStatusError if fault.isdigit() else VectorCountError):
            ask()
    openai_server.embed, before = None, len(openai_server.texts)
    assert ask() == right
    assert openai_server.texts[before:] == (TEXTS[4:8] if fault == "NaN" else TEXTS[4:])


class Reluctant(MemoryStore):
    """A store that stores the first batch when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.storing, self.go_on = threading.Event(), threading.Event()

    def space(self, identity: Any) -> Any:
        space = super().space(identity)
        put_many = space.put_many

        def put(*values: Any, **options: Any) -> None:
            self.storing.set()
            assert self.go_on.wait(20)
            put_many(*values, **options)

        space.put_many = put  # type: ignore[method-assign]
        return space


async def test_what_an_api_has_answered_is_kept_though_the_caller_leaves_while_it_is_stored(
    openai_server: OpenAIServer,
) -> None:
    store = Reluctant()
    model = OpenAIEmbeddingModel(model_batch_size=BATCH, n_concurrent_jobs=3)
    cached = CachedEmbeddingModel(model, store, options=OPTIONS)
    leaving = asyncio.ensure_future(cached.embed(TEXTS))
    while not store.storing.is_set() or model.usage.requests < 3:
        await asyncio.sleep(0.001)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(leaving, 5)
    store.go_on.set()
    assert await cached.embed(TEXTS) == OpenAIServer.lists(TEXTS)
    assert len(openai_server.requests) == 3
