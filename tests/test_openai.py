"""OpenAIEmbeddingModel over real HTTP, against a server that can be told to misbehave."""

from __future__ import annotations

import asyncio
import gc
import pickle
from typing import TYPE_CHECKING, Any

import pytest

openai = pytest.importorskip("openai", reason="needs the extra `openai`")

from kura_cache_adapters import CachedEmbeddingModel, OpenAIEmbeddingModel, VectorCountError  # noqa: E402
from tests.test_concurrency import in_child  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters.testing.openai_server import OpenAIServer

TEXTS = [f"text number {at}" for at in range(20)]


async def test_vectors_are_those_of_the_api(openai_server: OpenAIServer) -> None:
    assert await OpenAIEmbeddingModel().embed(TEXTS) == openai_server.lists(TEXTS)
    assert await OpenAIEmbeddingModel().embed([]) == []
    assert openai_server.requests[0]["encoding_format"] == "base64"
    assert "dimensions" not in openai_server.requests[0]


async def test_a_server_without_base64_will_do(openai_server: OpenAIServer) -> None:
    openai_server.faults = ["lists"]
    assert await OpenAIEmbeddingModel().embed(TEXTS) == openai_server.lists(TEXTS)


async def test_batches_run_concurrently_within_their_limit(openai_server: OpenAIServer) -> None:
    model = OpenAIEmbeddingModel(model_batch_size=2, n_concurrent_jobs=3)
    assert await model.embed(TEXTS) == openai_server.lists(TEXTS)
    assert [len(request["input"]) for request in openai_server.requests] == [2] * 10
    assert openai_server.most_at_once == 3
    assert (model.usage.requests, model.usage.texts, model.usage.tokens) == (10, 20, 60)


async def test_answers_are_put_in_order(openai_server: OpenAIServer) -> None:
    openai_server.faults = ["late", "reversed", "reversed"]
    model = OpenAIEmbeddingModel(model_batch_size=5)
    assert await model.embed(TEXTS) == openai_server.lists(TEXTS)


@pytest.mark.parametrize("fault", ["short", "same index"])
async def test_a_text_without_its_own_answer_is_an_error(
    openai_server: OpenAIServer,
    tmp_path: Path,
    fault: Any,
) -> None:
    openai_server.faults = [fault]
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)
    with pytest.raises(VectorCountError, match=r"asked for 20 vectors and answered with (19|20)"):
        await cached.embed(TEXTS)
    assert cached.stats.stored == 0


async def test_the_sdk_retries(openai_server: OpenAIServer) -> None:
    openai_server.faults = ["429", "500"]
    assert await OpenAIEmbeddingModel().embed(TEXTS) == openai_server.lists(TEXTS)
    assert len(openai_server.requests) == 3


async def test_finished_batches_survive_a_failing_one(openai_server: OpenAIServer, tmp_path: Path) -> None:
    openai_server.faults = ["late", "400"]
    model = OpenAIEmbeddingModel(model_batch_size=4, n_concurrent_jobs=2)
    cached = CachedEmbeddingModel(model, tmp_path)
    with pytest.raises(openai.BadRequestError, match="told to answer 400"):
        await cached.embed(TEXTS)
    assert cached.stats.stored == 4
    openai_server.requests.clear()
    assert await cached.embed(TEXTS) == openai_server.lists(TEXTS)
    assert len(openai_server.texts) == 16


async def test_each_answer_is_stored_as_it_arrives(openai_server: OpenAIServer, tmp_path: Path) -> None:
    openai_server.faults = ["late"]
    model = OpenAIEmbeddingModel(model_batch_size=10, n_concurrent_jobs=2)
    cached = CachedEmbeddingModel(model, tmp_path)
    embedding = asyncio.ensure_future(cached.embed(TEXTS))
    while cached.stats.stored == 0:
        await asyncio.sleep(0.005)
    assert not embedding.done()
    assert cached.stats.stored == 10
    await embedding


def test_one_model_serves_many_loops_and_sends_nothing_twice(openai_server: OpenAIServer) -> None:
    model = OpenAIEmbeddingModel(model_batch_size=2)
    for _ in range(3):
        assert asyncio.run(model.embed(TEXTS)) == openai_server.lists(TEXTS)
    assert len(openai_server.requests) == 30


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_it_works_after_a_fork_on_both_sides(openai_server: OpenAIServer, tmp_path: Path) -> None:
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)

    def check(text: str) -> None:
        assert cached.embed_sync([text]) == openai_server.lists([text])

    check("before")
    in_child(lambda: check("child"))
    check("after")
    assert openai_server.texts == ["before", "child", "after"]


def test_it_pickles_without_its_key_unless_the_client_was_given(openai_server: OpenAIServer) -> None:
    content = pickle.dumps(OpenAIEmbeddingModel(dimensions=3))
    assert b"MARKED" not in content
    model = pickle.loads(content)
    assert asyncio.run(model.embed(["a"])) == openai_server.lists(["a"], dimensions=3)
    with pytest.raises(TypeError, match="client=None"):
        pickle.dumps(OpenAIEmbeddingModel(client=openai.AsyncOpenAI()))


def test_requests_keep_the_limits_of_the_api(openai_server: OpenAIServer) -> None:
    texts = ["x" * 100_000, "y" * 150_000, "z" * 60_000, "é" * 200_000, "short"] + ["w"] * 2048
    assert len(asyncio.run(OpenAIEmbeddingModel(model_batch_size=2048).embed(texts))) == len(texts)
    for request in openai_server.requests:
        size = sum(len(text.encode()) for text in request["input"])
        assert len(request["input"]) <= 2048
        assert size <= 300_000 or len(request["input"]) == 1


@pytest.mark.usefixtures("openai_server")
def test_what_changes_the_vector_changes_the_key_and_nothing_else_does(tmp_path: Path) -> None:
    def key(model: OpenAIEmbeddingModel) -> str:
        return CachedEmbeddingModel(model, tmp_path).cache_key("x")

    plain = key(OpenAIEmbeddingModel())
    assert plain == key(OpenAIEmbeddingModel(model_batch_size=7, n_concurrent_jobs=1))
    for same in (
        {"api_key": "sk-other", "timeout": 3, "max_retries": 9},
        {"base_url": str(openai.AsyncOpenAI().base_url).replace("://", "://user:password@")},
    ):
        assert plain == key(OpenAIEmbeddingModel(client=openai.AsyncOpenAI(**same)))
    assert plain != key(OpenAIEmbeddingModel(dimensions=256))
    assert plain != key(OpenAIEmbeddingModel("text-embedding-3-large"))
    other = openai.AsyncOpenAI(base_url="http://127.0.0.1:9/v1")
    assert plain != key(OpenAIEmbeddingModel(client=other))


async def test_no_secret_is_written_or_logged(
    openai_server: OpenAIServer, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level("DEBUG", "kura_cache_adapters")
    client = openai.AsyncOpenAI(base_url=openai_server.url.replace("://", "://user:MARKED@"))
    for model in (OpenAIEmbeddingModel(), OpenAIEmbeddingModel(client=client)):
        cached = CachedEmbeddingModel(model, tmp_path)
        assert "MARKED" not in repr(cached) + str(cached.identity()) + cached.slug()
    await CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path).embed(TEXTS)
    assert "MARKED" not in caplog.text
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 2
    assert not any(b"MARKED" in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    "options", [{"model_batch_size": 0}, {"model_batch_size": 2049}, {"n_concurrent_jobs": 0}]
)
def test_numbers_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        OpenAIEmbeddingModel(**options)  # type: ignore[arg-type]


def test_without_a_key_the_sdks_own_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(openai.OpenAIError, match="OPENAI_API_KEY"):
        OpenAIEmbeddingModel()
    gc.collect()


async def test_what_was_answered_before_a_cancellation_is_stored(
    openai_server: OpenAIServer, tmp_path: Path
) -> None:
    openai_server.faults = ["late"] * 4
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(model_batch_size=4, n_concurrent_jobs=5), tmp_path)
    work = asyncio.ensure_future(cached.embed(TEXTS))
    while cached.stats.stored < 4:
        await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    openai_server.faults = []
    assert await cached.embed(TEXTS) == openai_server.lists(TEXTS)
    once = [text for text in TEXTS if openai_server.texts.count(text) == 1]
    assert len(once) >= 4
