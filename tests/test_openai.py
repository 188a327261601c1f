"""OpenAIEmbeddingModel over real HTTP, against a server that can be told to misbehave."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

openai = pytest.importorskip("openai", reason="needs the extra `openai`")

from kura_cache_adapters import CachedEmbeddingModel, MemoryStore, OpenAIEmbeddingModel, VectorCountError  # noqa: E402
from kura_cache_adapters._runtime import loop  # noqa: E402
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
    openai_server.faults = ["late", "401"]
    model = OpenAIEmbeddingModel(model_batch_size=4, n_concurrent_jobs=2)
    cached = CachedEmbeddingModel(model, tmp_path)
    with pytest.raises(openai.AuthenticationError, match="told to answer 401"):
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
@pytest.mark.parametrize("shared", [False, True])
def test_it_works_after_a_fork_on_both_sides(
    openai_server: OpenAIServer, tmp_path: Path, *, shared: bool
) -> None:
    client = openai.AsyncOpenAI(max_retries=0) if shared else None
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(client=client), tmp_path)

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
    assert len(written) == 5  # a segment, whose it is, who answered, its use, and how many claims there were
    assert not any(b"MARKED" in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    "options", [{"model_batch_size": 0}, {"model_batch_size": 2049}, {"n_concurrent_jobs": 0}]
)
def test_numbers_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        OpenAIEmbeddingModel(**options)  # type: ignore[arg-type]


def test_without_a_key_the_first_request_raises_the_sdks_own_error(
    openai_server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path).embed_sync(TEXTS)
    monkeypatch.delenv("OPENAI_API_KEY")
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)
    assert cached.embed_sync(TEXTS) == openai_server.lists(TEXTS)
    with pytest.raises(openai.OpenAIError, match="OPENAI_API_KEY"):
        cached.embed_sync(["more"])
    gc.collect()


def test_a_run_of_hits_needs_neither_a_key_nor_the_sdk(openai_server: OpenAIServer, tmp_path: Path) -> None:
    CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path).embed_sync(TEXTS)
    code = f"""
import sys
from kura_cache_adapters import CachedEmbeddingModel, OpenAIEmbeddingModel
cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), {str(tmp_path)!r})
assert len(cached.embed_sync({TEXTS!r})) == 20
assert not sys.modules.keys() & {{"openai", "httpx", "httpx2"}}
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert openai_server.texts == TEXTS


@pytest.mark.parametrize("kind", ["OpenAI", "AzureOpenAI"])
@pytest.mark.usefixtures("openai_server")
def test_a_sync_client_is_refused_with_the_cure(kind: str) -> None:
    options = {"azure_endpoint": "http://a", "api_version": "1", "api_key": "k"} if kind != "OpenAI" else {}
    with (
        getattr(openai, kind)(**options) as client,
        pytest.raises(TypeError, match=rf"pass openai\.Async{kind}\("),
    ):
        OpenAIEmbeddingModel(client=client)
    with pytest.raises(TypeError, match="not str"):
        OpenAIEmbeddingModel(client="sk-key")  # type: ignore[arg-type]


def test_an_azure_client_asks_its_deployment_with_its_version(openai_server: OpenAIServer) -> None:
    client = openai.AsyncAzureOpenAI(
        azure_endpoint=openai_server.url.removesuffix("/v1"), api_version="2024-10-21", api_key="k" * 9
    )
    model = OpenAIEmbeddingModel(client=client)
    assert CachedEmbeddingModel(model).embed_sync(TEXTS) == openai_server.lists(TEXTS)
    path = "/openai/deployments/text-embedding-3-small/embeddings?api-version=2024-10-21"
    assert openai_server.paths == [path]
    assert openai_server.headers[0]["api-key"] == "k" * 9
    assert model.identity()["query"] == {"api-version": "2024-10-21"}


def test_an_application_may_share_its_client(openai_server: OpenAIServer) -> None:
    client = openai.AsyncOpenAI(max_retries=0, default_headers={"x-team": "search"})
    model = OpenAIEmbeddingModel(client=client, model_batch_size=2)
    cached = CachedEmbeddingModel(model, MemoryStore())

    async def ask(text: str) -> Any:
        answer = await client.embeddings.create(
            input=[text], model="text-embedding-3-small", encoding_format="float"
        )
        return answer.data[0].embedding

    async def application(name: str) -> None:
        assert await ask(f"{name} before") == openai_server.lists([f"{name} before"])[0]
        texts = [f"{name} {text}" for text in TEXTS]
        theirs, ours = await asyncio.gather(
            asyncio.gather(*(ask(f"{name} {at}") for at in range(5))), cached.embed(texts)
        )
        assert theirs == openai_server.lists([f"{name} {at}" for at in range(5)])
        assert ours == openai_server.lists(texts)
        assert await ask(f"{name} after") == openai_server.lists([f"{name} after"])[0]

    async def both() -> None:
        await application("first")
        await client.close()

    asyncio.run(both())
    assert cached.embed_sync(["once closed"]) == openai_server.lists(["once closed"])
    assert len(openai_server.texts) == len(set(openai_server.texts)) == 28
    assert {headers["x-team"] for headers in openai_server.headers} == {"search"}


def test_two_loops_and_two_models_may_share_a_client(openai_server: OpenAIServer) -> None:
    client = openai.AsyncOpenAI(max_retries=0)
    models = [OpenAIEmbeddingModel(client=client), OpenAIEmbeddingModel(dimensions=3, client=client)]

    async def application(text: str) -> None:
        await client.embeddings.create(input=[text], model="text-embedding-3-small")
        await asyncio.gather(*(model.embed([text]) for model in models))
        await client._client.aclose()  # its connections belong to the loop that ends
        client._client = openai.DefaultAsyncHttpxClient()

    for text in ("first", "second"):
        asyncio.run(application(text))
    assert sorted(openai_server.texts) == ["first"] * 3 + ["second"] * 3
    loop.run(client.close())


def test_a_shared_client_keeps_its_transports_options_and_hooks(openai_server: OpenAIServer) -> None:
    httpx: Any = sys.modules[openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]]
    seen: list[str] = []

    class Transport(httpx.AsyncHTTPTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            seen.append(request.headers["x-signed"])
            return await super().handle_async_request(request)

    class Outer(httpx.AsyncBaseTransport):  # type: ignore[misc]
        def __init__(self) -> None:
            self.inner = Transport(retries=3, limits=httpx.Limits(max_connections=7))

        async def handle_async_request(self, request: Any) -> Any:
            request.headers["x-signed"] = "yes"
            return await self.inner.handle_async_request(request)

        async def aclose(self) -> None:
            await self.inner.aclose()

    async def hook(request: Any) -> None:
        seen.append(request.url.path)

    http = httpx.AsyncClient(
        transport=Outer(), timeout=17, params={"p": "1"}, event_hooks={"request": [hook]}
    )
    client = openai.AsyncOpenAI(http_client=http)
    model = OpenAIEmbeddingModel(client=client)
    assert CachedEmbeddingModel(model).embed_sync(TEXTS) == openai_server.lists(TEXTS)
    assert seen == ["/v1/embeddings", "yes"]
    assert openai_server.paths == ["/v1/embeddings?p=1"]
    connection = model._endpoint._connection
    assert connection is not None
    theirs, ours = http._transport.inner._pool, connection.http._transport.inner._pool
    assert (ours._retries, ours._max_connections, connection.http.timeout) == (3, 7, http.timeout)
    assert len(ours.connections) == 1
    assert not theirs.connections
    loop.run(client.close())


def test_a_shared_clients_proxy_is_gone_through(openai_server: OpenAIServer) -> None:
    http = openai.DefaultAsyncHttpxClient(proxy=openai_server.url.removesuffix("/v1"))
    client = openai.AsyncOpenAI(base_url="http://nowhere.test/v1", http_client=http, max_retries=0)
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(client=client))
    assert cached.embed_sync(TEXTS) == openai_server.lists(TEXTS)
    assert openai_server.paths == ["http://nowhere.test/v1/embeddings"]
    loop.run(client.close())


async def test_a_shared_client_may_be_one_of_aiohttp(openai_server: OpenAIServer) -> None:
    try:
        http = openai.DefaultAioHttpClient()
    except RuntimeError:
        pytest.skip("needs openai[aiohttp]")
    async with openai.AsyncOpenAI(http_client=http, max_retries=0, timeout=5) as client:
        await client.embeddings.create(input=["before"], model="text-embedding-3-small")
        cached = CachedEmbeddingModel(OpenAIEmbeddingModel(client=client))
        assert cached.embed_sync(TEXTS) == openai_server.lists(TEXTS)  # while the application's loop waits
        await client.embeddings.create(input=["after"], model="text-embedding-3-small")
    assert openai_server.texts == ["before", *TEXTS, "after"]


def test_a_key_that_an_application_renews_is_the_one_that_is_sent(openai_server: OpenAIServer) -> None:
    client = openai.AsyncOpenAI()
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(client=client))
    for key in ("first", "second"):
        client.api_key = key
        cached.embed_sync([key])
    assert [headers["authorization"] for headers in openai_server.headers] == [
        "Bearer first",
        "Bearer second",
    ]
    loop.run(client.close())


def of_client(**options: Any) -> OpenAIEmbeddingModel:
    return OpenAIEmbeddingModel(client=openai.AsyncOpenAI(**options))


def key_of(model: OpenAIEmbeddingModel, role: Any = "document") -> str:
    return CachedEmbeddingModel(model).cache_key("x", role=role)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("default_query", [{"api-version": "1"}, {"api-version": "2"}, None]),
        ("default_query", [{"token": "MARKED1"}, {"token": "MARKED2"}]),
        ("default_headers", [{"x-model-version": "MARKED1"}, {"x-model-version": "MARKED2"}, None]),
        ("base_url", ["http://127.0.0.1:9/v1", "http://127.0.0.1:9/v2", "http://127.0.0.1:8/v1"]),
    ],
)
@pytest.mark.usefixtures("openai_server")
def test_what_a_client_adds_to_its_requests_is_in_the_key(option: str, values: list[Any]) -> None:
    models = [of_client(**{option: value}) for value in values]
    assert len({key_of(model) for model in models}) == len(values)
    assert [key_of(model) for model in models] == [key_of(of_client(**{option: value})) for value in values]
    assert "MARKED" not in str([model.identity() for model in models])


@pytest.mark.usefixtures("openai_server")
def test_what_the_http_client_adds_is_in_the_key() -> None:
    http = openai.DefaultAsyncHttpxClient
    options: list[dict[str, Any]] = [
        {},
        {"params": {"v": "1"}},
        {"params": {"v": "2"}},
        {"headers": {"x-v": "1"}},
    ]
    assert len({key_of(of_client(http_client=http(**some))) for some in options}) == 4


@pytest.mark.usefixtures("openai_server")
def test_who_asks_and_how_is_in_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = key_of(OpenAIEmbeddingModel())
    transport: list[dict[str, Any]] = [
        {"organization": "o", "project": "p", "timeout": 3, "max_retries": 9, "api_key": "other"},
        {"default_headers": {"Authorization": "Bearer x", "X-Request-Id": "7", "user-agent": "me"}},
        {"default_query": {}, "default_headers": {}},
        {"http_client": openai.DefaultAsyncHttpxClient(timeout=5)},
    ]
    for options in transport:
        assert key_of(of_client(**options)) == plain
    for same in (
        OpenAIEmbeddingModel(extra_body={}, extra_headers={}, roles={}, encoding_format="float"),
        OpenAIEmbeddingModel(extra_body={"user": "me", "encoding_format": "float"}),
        OpenAIEmbeddingModel(extra_headers={"x-request-id": "3"}),
        OpenAIEmbeddingModel(roles={"query": {}, "document": {"prefix": "", "extra_body": {}}}),
    ):
        assert key_of(same) == plain == key_of(same, "query")
    url = os.environ["OPENAI_BASE_URL"]
    monkeypatch.setenv("OPENAI_BASE_URL", url.replace("http", "HTTP") + "/")
    assert key_of(OpenAIEmbeddingModel()) == key_of(of_client()) == plain
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-model-version: 2\nAuthorization: Bearer y")
    assert key_of(OpenAIEmbeddingModel()) != plain
    assert key_of(OpenAIEmbeddingModel()) == key_of(of_client(default_headers={"x-model-version": "2"}))


def test_the_environment_is_that_of_the_making(
    openai_server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-model-version: 2\nx-key: MARKED")
    model = OpenAIEmbeddingModel()
    cached = CachedEmbeddingModel(model)
    assert b"MARKED" not in pickle.dumps(model)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.delenv("OPENAI_CUSTOM_HEADERS")
    assert cached.embed_sync(TEXTS) == openai_server.lists(TEXTS)
    assert openai_server.headers[0]["x-model-version"] == "2"
    assert openai_server.headers[0]["authorization"] == "Bearer sk-test-MARKED"


def test_without_an_environment_the_address_is_the_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert OpenAIEmbeddingModel().identity() == {"base_url": "https://api.openai.com/v1"}
    assert of_client(api_key="k").identity() == {"base_url": "https://api.openai.com/v1"}


def test_a_role_is_asked_with_what_is_its_own(openai_server: OpenAIServer, tmp_path: Path) -> None:
    model = OpenAIEmbeddingModel(
        extra_body={"truncate": "END", "input_type": "none"},
        extra_headers={"x-team": "search"},
        roles={
            "document": {"extra_body": {"input_type": "passage"}},
            "query": {
                "prefix": "query: ",
                "extra_body": {"input_type": "query"},
                "extra_headers": {"x-q": "1"},
            },
        },
    )
    cached = CachedEmbeddingModel(model, tmp_path)
    for _ in range(2):
        assert cached.embed_sync(["a"]) == openai_server.lists(["a"])
        assert cached.embed_sync(["a"], role="query") == openai_server.lists(["query: a"])
    sent = [
        (request["input"], request["input_type"], request["truncate"]) for request in openai_server.requests
    ]
    assert sent == [(["a"], "passage", "END"), (["query: a"], "query", "END")]
    assert [headers.get("x-q") for headers in openai_server.headers] == [None, "1"]
    assert {headers["x-team"] for headers in openai_server.headers} == {"search"}
    uncached = CachedEmbeddingModel(model)
    assert uncached.embed_sync(["a"], role="query") == openai_server.lists(["query: a"])


@pytest.mark.usefixtures("openai_server")
def test_what_is_sent_with_the_texts_is_in_their_key() -> None:
    models = [
        OpenAIEmbeddingModel(),
        OpenAIEmbeddingModel(extra_body={"input_type": "passage"}),
        OpenAIEmbeddingModel(extra_body={"input_type": "query"}),
        OpenAIEmbeddingModel(extra_body={"input_type": None}),
        OpenAIEmbeddingModel(extra_body={"nested": {"token": "MARKED1"}}),
        OpenAIEmbeddingModel(extra_body={"nested": {"token": "MARKED2"}}),
        OpenAIEmbeddingModel(extra_headers={"x-route": "MARKED1"}),
        OpenAIEmbeddingModel(roles={"document": {"prefix": "passage: "}}),
        OpenAIEmbeddingModel(roles={"document": {"extra_headers": {"x-route": "MARKED2"}}}),
        OpenAIEmbeddingModel(identity={"v": 1}),
    ]
    assert len({key_of(model) for model in models}) == len(models)
    assert "MARKED" not in str([model.identity() for model in models])


@pytest.mark.usefixtures("openai_server")
def test_what_only_queries_use_stands_apart() -> None:
    plain = OpenAIEmbeddingModel()
    asked: list[dict[str, Any]] = [
        {"prefix": "query: "},
        {"prefix": "search: "},
        {"extra_body": {"input_type": "query"}},
    ]
    models = [OpenAIEmbeddingModel(roles={"query": options}) for options in asked]
    assert plain.roles == ()
    assert {model.roles for model in models} == {("query",)}
    for model, options in zip(models, asked, strict=True):
        assert model.identity() == {**plain.identity(), "roles": {"query": options}}
    assert len({key_of(model, "query") for model in [plain, *models]}) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roles": {"": {}}}, "not empty"),
        ({"roles": {"query": {"prompt": "q"}}}, "prefix, extra_body and extra_headers"),
        ({"roles": {"query": {"prefix": 3}}}, "must be a str"),
        ({"roles": {"query": "query: "}}, "must be a mapping"),
    ],
)
def test_a_role_that_says_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        OpenAIEmbeddingModel(**options)


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
