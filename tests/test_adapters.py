"""LangChain and LlamaIndex alike: the laws of the adapters and of the sources."""

from __future__ import annotations

import asyncio
import contextvars
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import (
    CachedEmbeddingModel,
    IdentityError,
    MemoryStore,
    VectorCountError,
)
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.frameworks import FACES, LangChain, LlamaIndex, Spy, cached, pause
from tests.test_concurrency import in_child

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Face = LangChain | LlamaIndex

TEXTS = ["a", "b", "", "a", "ä\U0001f600", "line\nbreak", " a"]
Loops = ["asyncio", "uvloop"]


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    return FACES[request.param]()


@pytest.fixture
def spy() -> Spy:
    return Spy(FakeEmbeddingModel(roles=("query",)))


@pytest.fixture
def adapter(face: Face, spy: Spy, tmp_path: Path) -> Any:
    return face.wrap(face.embedder(spy), tmp_path)


def run(loop: str, work: Any) -> Any:
    if loop == "asyncio":
        return asyncio.run(work)
    uvloop = pytest.importorskip("uvloop", reason="uvloop has no build for this platform")
    fresh = uvloop.new_event_loop()
    try:
        return fresh.run_until_complete(work)
    finally:
        fresh.close()


def ask(face: Face, adapter: Any, texts: list[str], *, asynchronous: bool) -> list[list[float]]:
    return asyncio.run(face.adocuments(adapter, texts)) if asynchronous else face.documents(adapter, texts)


# Out: the cache as their embedder


def test_an_adapter_answers_with_the_models_vectors_as_lists_of_floats(
    face: Face, adapter: Any, spy: Spy
) -> None:
    for _ in range(2):
        vectors = face.documents(adapter, TEXTS)
        assert vectors == spy.fake.lists(TEXTS)
        assert {type(number) for vector in vectors for number in vector} == {float}
        assert {type(vector) for vector in vectors} == {list}
        assert face.query(adapter, "a") == spy.fake.lists(["a"], "query")[0]
    assert sorted(spy.texts) == sorted([*set(TEXTS), "a"])


async def test_async_and_sync_share_the_cache(face: Face, adapter: Any, spy: Spy) -> None:
    assert await face.adocuments(adapter, TEXTS) == spy.fake.lists(TEXTS)
    assert await face.aquery(adapter, "q") == spy.fake.lists(["q"], "query")[0]
    spy.calls.clear()
    assert face.documents(adapter, TEXTS) == spy.fake.lists(TEXTS)
    assert face.query(adapter, "q") == spy.fake.lists(["q"], "query")[0]
    assert spy.calls == []


def test_queries_and_documents_never_share_a_vector(face: Face, adapter: Any, spy: Spy) -> None:
    document = face.documents(adapter, ["x"])[0]
    query = face.query(adapter, "x")
    assert document != query
    assert (face.documents(adapter, ["x"])[0], face.query(adapter, "x")) == (document, query)
    assert [role for role, _ in spy.calls] == ["document", "query"]


async def test_no_text_costs_no_call(face: Face, adapter: Any, spy: Spy) -> None:
    assert face.documents(adapter, []) == []
    assert await face.adocuments(adapter, []) == []
    assert spy.calls == []


def test_results_are_the_callers_own(face: Face, adapter: Any, spy: Spy) -> None:
    for vector in (face.documents(adapter, ["a", "a"])[0], face.query(adapter, "q")):
        vector[0] = 99.0
    assert face.documents(adapter, ["a", "a"]) == spy.fake.lists(["a", "a"])
    assert face.query(adapter, "q") == spy.fake.lists(["q"], "query")[0]


@pytest.mark.parametrize("loop", Loops)
def test_sync_methods_work_inside_a_running_loop(face: Face, adapter: Any, spy: Spy, loop: str) -> None:
    async def cell() -> Any:
        return face.documents(adapter, TEXTS), face.query(adapter, "q")

    for _ in range(3):
        documents, query = run(loop, cell())
        assert documents == spy.fake.lists(TEXTS)
        assert query == spy.fake.lists(["q"], "query")[0]


@pytest.mark.parametrize("loop", Loops)
def test_async_methods_never_block_the_loop(face: Face, adapter: Any, spy: Spy, loop: str) -> None:
    async def watched() -> float:
        spy.before = lambda _: time.sleep(0.2)
        work = asyncio.ensure_future(face.adocuments(adapter, ["slow"]))
        longest, before = 0.0, time.perf_counter()
        while not work.done():
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
        assert await work == spy.fake.lists(["slow"])
        return longest

    assert run(loop, watched()) < 0.15


def test_async_methods_serve_one_loop_after_another(face: Face, adapter: Any, spy: Spy) -> None:
    for number in range(4):
        texts = [f"{number}", "same"]
        assert asyncio.run(face.adocuments(adapter, texts)) == spy.fake.lists(texts)
    assert spy.texts.count("same") == 1


def test_eight_threads_embed_each_text_once(face: Face, adapter: Any, spy: Spy) -> None:
    spy.before = pause
    texts = [f"text {number}" for number in range(12)]

    def work(number: int) -> bool:
        mine = texts[number % 4 :] + texts[: number % 4]
        return face.documents(adapter, mine) == spy.fake.lists(mine)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(24)))
    assert sorted(spy.texts) == sorted(texts)


def test_a_fork_inherits_a_working_adapter(face: Face, adapter: Any, spy: Spy) -> None:
    face.documents(adapter, ["before"])

    def child() -> None:
        assert face.documents(adapter, ["before", "after"]) == spy.fake.lists(["before", "after"])
        assert spy.texts == ["before", "after"]

    in_child(child)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_context_variables_reach_the_source(
    face: Face, adapter: Any, spy: Spy, *, asynchronous: bool
) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
    seen: list[str] = []
    spy.before = lambda _: seen.append(tenant.get())
    tenant.set("somebody")
    ask(face, adapter, ["a"], asynchronous=asynchronous)
    assert seen == ["somebody"]


class QuotaError(Exception):
    """An exception that only its provider knows, with a required argument of its own."""

    def __init__(self, *, status: int) -> None:
        super().__init__(status)
        self.status = status


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_sources_exceptions_arrive_unchanged(
    face: Face, adapter: Any, spy: Spy, *, asynchronous: bool
) -> None:
    error = QuotaError(status=429)

    def fail(_: list[str]) -> None:
        raise error

    spy.before = fail
    with pytest.raises(QuotaError) as caught:
        ask(face, adapter, ["a"], asynchronous=asynchronous)
    assert caught.value is error
    spy.before = lambda _: None
    assert face.documents(adapter, ["a"]) == spy.fake.lists(["a"])


@pytest.mark.parametrize("not_texts", ["one string", [1], [None], None])
def test_what_is_no_list_of_strings_is_refused_before_anything_is_spent(
    face: Face, adapter: Any, spy: Spy, not_texts: Any
) -> None:
    with pytest.raises(TypeError):
        cached(adapter).embed_sync(not_texts)
    if isinstance(face, LangChain):
        with pytest.raises(TypeError):
            face.documents(adapter, not_texts)
    assert spy.calls == []


def test_only_a_cached_model_makes_an_adapter(face: Face, spy: Spy) -> None:
    with pytest.raises(TypeError, match="from_embedding"):
        face.adapter(model=face.embedder(spy))
    with pytest.raises(TypeError, match="cannot embed with a dict"):
        face.wrap({})


def test_an_adapter_takes_a_source_a_store_or_a_manager(face: Face, tmp_path: Path) -> None:
    from kura_cache_adapters import JSONLCheckpointManager

    for cache in (tmp_path / "directory", MemoryStore(), JSONLCheckpointManager(tmp_path / "m")):
        fake = FakeEmbeddingModel()
        adapter = face.wrap(fake, cache)
        for _ in range(2):
            assert face.documents(adapter, ["a", "b"]) == fake.lists(["a", "b"])
        assert fake.texts == ["a", "b"]


def test_without_a_cache_an_adapter_passes_everything_on(face: Face, spy: Spy) -> None:
    adapter = face.wrap(face.embedder(spy), None)
    for _ in range(2):
        assert face.documents(adapter, ["a"]) == spy.fake.lists(["a"])
    assert spy.texts == ["a", "a"]


# In: their embedders as sources


def test_a_source_calls_in_batches_of_the_embedders_own_size(face: Face, adapter: Any, spy: Spy) -> None:
    face.documents(adapter, [f"{number}" for number in range(10)])
    assert [len(texts) for _, texts in spy.calls] == [4, 4, 2]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_finished_batches_survive_the_failure_of_a_later_one(
    face: Face, adapter: Any, spy: Spy, *, asynchronous: bool
) -> None:
    texts = [f"{number}" for number in range(10)]

    def refuse(batch: list[str]) -> None:
        if "9" in batch:
            raise QuotaError(status=400)

    spy.before = refuse
    with pytest.raises(QuotaError):
        ask(face, adapter, texts, asynchronous=asynchronous)
    spy.before = lambda _: None
    spy.calls.clear()
    assert face.documents(adapter, texts) == spy.fake.lists(texts)
    assert spy.texts == ["8", "9"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda vectors: vectors[:-1], VectorCountError),
        (lambda vectors: [*vectors, vectors[0]], VectorCountError),
        (lambda _: [], VectorCountError),
    ],
    ids=["too few", "too many", "none"],
)
def test_a_wrong_count_is_an_error_and_nothing_is_kept(
    face: Face, adapter: Any, spy: Spy, change: Callable[[list[Any]], Any], error: type[Exception]
) -> None:
    spy.change = change
    with pytest.raises(error):
        face.documents(adapter, ["a", "b"])
    spy.change = lambda vectors: vectors
    assert face.documents(adapter, ["a", "b"]) == spy.fake.lists(["a", "b"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_vectors_of_numpy_numbers_become_plain_floats(
    face: Face, adapter: Any, spy: Spy, dtype: type[Any]
) -> None:
    spy.change = lambda vectors: [[dtype(number) for number in vector] for vector in vectors]
    expected = np.array(spy.fake.lists(["a"])).astype(dtype).astype(float).tolist()
    for _ in range(2):
        vectors = face.documents(adapter, ["a"])
        assert vectors == expected
        assert {type(number) for number in vectors[0]} == {float}


def test_a_source_keeps_roles_and_serves_a_cache_of_any_kind(face: Face, spy: Spy, tmp_path: Path) -> None:
    source = face.source(face.embedder(spy))
    assert (source.model_name, source.roles) == ("fake", ("query",))
    model = CachedEmbeddingModel(source, tmp_path)
    for _ in range(2):
        assert model.embed_sync(TEXTS) == spy.fake.lists(TEXTS)
        assert model.embed_sync(TEXTS, role="query") == spy.fake.lists(TEXTS, "query")
    assert len(spy.texts) == 2 * len(set(TEXTS))


async def test_a_source_alone_is_an_embedding_model(face: Face, spy: Spy) -> None:
    source = face.source(face.embedder(spy))
    assert await source.embed(TEXTS) == spy.fake.lists(TEXTS)
    assert await source.embed(["q"], role="query") == spy.fake.lists(["q"], "query")
    assert await source.embed([]) == []
    assert "Recorded" in source.slug()


def test_no_roles_say_that_a_query_is_a_document(face: Face, spy: Spy, tmp_path: Path) -> None:
    source = face.source(face.embedder(spy), roles=())
    adapter = face.wrap(source, tmp_path)
    assert face.query(adapter, "a") == face.documents(adapter, ["a"])[0]
    assert spy.calls == [("document", ["a"])]


def test_a_batch_size_of_ones_own_is_taken(face: Face, spy: Spy, tmp_path: Path) -> None:
    adapter = face.wrap(face.source(face.embedder(spy), batch_size=3), tmp_path)
    face.documents(adapter, ["a", "b", "c", "d"])
    assert max(len(texts) for _, texts in spy.calls) == 3
    with pytest.raises(ValueError, match="batch_size"):
        face.source(face.embedder(spy), batch_size=0)


def test_what_is_no_embedder_is_no_source(face: Face) -> None:
    with pytest.raises(TypeError, match="is no"):
        face.source("text-embedding-3-small")


def test_an_explicit_identity_replaces_what_is_read(face: Face, spy: Spy, tmp_path: Path) -> None:
    first = face.wrap(face.embedder(spy), tmp_path, model_name="mine", identity={"revision": 1})
    same = face.wrap(face.embedder(spy), tmp_path, model_name="mine", identity={"revision": 1})
    other = face.wrap(face.embedder(spy), tmp_path, model_name="mine", identity={"revision": 2})
    face.documents(first, ["a"])
    assert cached(same).missing(["a"]) == []
    assert cached(other).missing(["a"]) == [0]


def test_further_keywords_add_to_the_key_and_replace_nothing(face: Face, spy: Spy, tmp_path: Path) -> None:
    keys = [
        cached(face.wrap(face.embedder(spy), tmp_path, **keywords)).cache_key("a")
        for keywords in (
            {},
            {"identity": {"prompt": "a"}},
            {"identity": {"prompt": "b"}},
            {"identity": {"prompt": "a"}, "preprocessing": "lowercase"},
            {"identity": {"prompt": "b"}, "preprocessing": "lowercase"},
            {"preprocessing": "lowercase"},
            {"batch_size": 50},
            {"temperature": 0.5},
        )
    ]
    assert len(set(keys)) == len(keys)
    added = CachedEmbeddingModel(face.source(face.embedder(spy)), tmp_path, preprocessing="lowercase")
    assert added.cache_key("a") == keys[5]


@pytest.mark.parametrize("spelling", ["cache", "cache_manager"])
def test_a_cache_has_two_spellings_everywhere(face: Face, spy: Spy, tmp_path: Path, spelling: str) -> None:
    adapter = face.wrap(face.embedder(spy), **{spelling: tmp_path})
    spelled: dict[str, Any] = {spelling: tmp_path}
    model = CachedEmbeddingModel(face.source(face.embedder(spy)), **spelled)
    assert face.documents(adapter, TEXTS) == model.embed_sync(TEXTS)
    assert sorted(spy.texts) == sorted(set(TEXTS))
    with pytest.raises(TypeError, match="two names of one thing"):
        face.wrap(face.embedder(spy), cache=MemoryStore(), cache_manager=MemoryStore())


def test_the_core_wraps_embedders_itself(face: Face, spy: Spy, tmp_path: Path) -> None:
    model = CachedEmbeddingModel(face.embedder(spy), tmp_path, model_name="fake")
    adapter = face.wrap(face.embedder(spy), tmp_path)
    assert model.embed_sync(TEXTS) == face.documents(adapter, TEXTS) == spy.fake.lists(TEXTS)
    assert model.embed_sync(["q"], role="query")[0] == face.query(adapter, "q")
    assert len(spy.texts) == len({*TEXTS}) + 1


def test_a_class_of_ones_own_is_refused_unless_it_is_named(face: Face, spy: Spy) -> None:
    with pytest.raises(IdentityError, match=r'your own code.*model_name="Recorded.*-v1", or identity='):
        CachedEmbeddingModel(face.embedder(spy))
    assert CachedEmbeddingModel(face.embedder(spy), model_name="mine-v1").model_name == "mine-v1"
    assert CachedEmbeddingModel(face.embedder(spy), identity={"v": 1}).identity().source == '{"v":1}'


@pytest.mark.parametrize("outer", FACES)
def test_adapters_are_seen_through(face: Face, spy: Spy, tmp_path: Path, outer: str) -> None:
    inner = face.wrap(face.embedder(spy), tmp_path / "inner")
    keyed = face.adapter(
        model=CachedEmbeddingModel(cached(inner).embedding_model, tmp_path / "inner", release=2)
    )
    around = FACES[outer]()
    for wrapped in (inner, keyed):
        again = around.wrap(wrapped, tmp_path / "outer")
        assert cached(again).cache_key("a") == cached(wrapped).cache_key("a")
        assert around.documents(again, ["a"]) == spy.fake.lists(["a"])
        assert around.query(again, "a") == spy.fake.lists(["a"], "query")[0]
        assert cached(wrapped).stats.misses == 0


def test_a_wrapper_that_does_more_than_cache_is_not_seen_through(
    face: Face, spy: Spy, tmp_path: Path
) -> None:
    inner = face.wrap(face.embedder(spy), tmp_path)

    method = "embed_documents" if isinstance(face, LangChain) else "_get_text_embeddings"
    plain = getattr(type(inner), method)

    def prefixed(self: Any, texts: list[str]) -> Any:
        return plain(self, [f"prefix: {text}" for text in texts])

    Prefixed: Any = type("Prefixed", (type(inner),), {method: prefixed})  # noqa: N806 - a class
    with pytest.raises(IdentityError, match="your own code"):
        face.wrap(Prefixed(model=cached(inner)), tmp_path)
    outer = face.wrap(Prefixed(model=cached(inner)), tmp_path, model_name="prefixed-v1")
    assert face.documents(outer, ["a"]) == spy.fake.lists(["prefix: a"])
    assert face.documents(inner, ["a"]) == spy.fake.lists(["a"])


async def test_adapters_in_adapters_do_not_run_out_of_threads(face: Face, spy: Spy, tmp_path: Path) -> None:
    inner = face.wrap(face.embedder(spy), tmp_path / "inner")
    outer_spy = Spy(FakeEmbeddingModel("outer", roles=("query",)))

    def ask_inner(texts: list[str]) -> None:
        pause(texts)
        for text in texts:
            face.query(inner, text)

    outer_spy.before = ask_inner
    outer = face.wrap(face.embedder(outer_spy), tmp_path / "outer")
    await asyncio.gather(*[face.aquery(outer, f"{number}") for number in range(200)])
    assert sorted(spy.texts) == sorted(outer_spy.texts) == sorted(f"{number}" for number in range(200))


def test_one_directory_serves_kura_and_both_frameworks(tmp_path: Path) -> None:
    langchain, llama_index = LangChain(), LlamaIndex()
    fake = FakeEmbeddingModel(roles=("query",))
    model = CachedEmbeddingModel(fake, tmp_path)
    asyncio.run(model.embed(TEXTS))
    asyncio.run(model.embed(["q"], role="query"))
    asked = len(fake.texts)
    for face in (langchain, llama_index):
        for served in (model, CachedEmbeddingModel(fake, tmp_path)):
            adapter = face.adapter(model=served)
            assert face.documents(adapter, TEXTS) == fake.lists(TEXTS)
            assert face.query(adapter, "q") == fake.lists(["q"], "query")[0]
    assert len(fake.texts) == asked


@pytest.mark.parametrize("at_once", [False, True])
def test_one_cache_through_four_doors_asks_once(tmp_path: Path, at_once: bool) -> None:  # noqa: FBT001
    kura = pytest.importorskip("kura_cache_adapters.kura", exc_type=ImportError)
    langchain, llama_index = LangChain(), LlamaIndex()
    fake = FakeEmbeddingModel(roles=("query",))
    shared = CachedEmbeddingModel(fake, tmp_path)
    doors = [
        shared if at_once else CachedEmbeddingModel(fake, tmp_path),
        shared if at_once else kura.cached(fake, tmp_path),
        langchain.adapter(model=shared),
        llama_index.adapter(model=shared),
    ]

    def ask(number: int) -> Any:
        door = doors[number % 4]
        if number % 4 < 2:
            return asyncio.run(door.embed(TEXTS)), asyncio.run(door.embed(["q"], role="query"))[0]
        face = langchain if number % 4 == 2 else llama_index
        return face.documents(door, TEXTS), face.query(door, "q")

    with ThreadPoolExecutor(8 if at_once else 1) as threads:
        answers = [*threads.map(ask, range(8))]
    assert answers == [(fake.lists(TEXTS), fake.lists(["q"], "query")[0])] * 8
    assert sorted(fake.texts) == sorted({*TEXTS, "q"})


def test_an_embedder_of_either_framework_fits_behind_the_other(spy: Spy, tmp_path: Path) -> None:
    langchain, llama_index = LangChain(), LlamaIndex()
    for inner, outer in ((langchain, llama_index), (llama_index, langchain)):
        adapter = outer.wrap(inner.embedder(spy), tmp_path)
        assert outer.documents(adapter, TEXTS) == spy.fake.lists(TEXTS)
        assert outer.query(adapter, "q") == spy.fake.lists(["q"], "query")[0]
