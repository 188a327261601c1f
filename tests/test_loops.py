"""The application's loop: an async model that is awaited runs there, in the task that awaits it."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import gc
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel
from kura_cache_adapters.embedding.framework import FrameworkEmbeddingModel
from kura_cache_adapters.embedding.streaming import StreamingEmbeddingModel
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from pathlib import Path

    from kura_cache_adapters.identity import Role

FAKE = FakeEmbeddingModel("ours")
newer: Any = asyncio  # with what came in Python 3.11
newer_builtins: Any = builtins
needs_timeout = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout came with Python 3.11")


class Watching(FakeEmbeddingModel):
    """A model that remembers in which task and loop it ran, and does something there first."""

    def __init__(self, before: Callable[[], Any] | None = None) -> None:
        super().__init__("ours")
        self.before, self.tasks, self.loops = before, [], []  # type: ignore[var-annotated]

    async def embed(self, texts: list[str], *, role: str = "document") -> list[list[float]]:
        self.tasks.append(asyncio.current_task())
        self.loops.append(asyncio.get_running_loop())
        if self.before is not None:
            await self.before()
        return await super().embed(texts, role=role)


class Streaming(StreamingEmbeddingModel):
    """A user's model that hands over text by text, in one block of a context manager."""

    model_name = "ours"

    def __init__(self) -> None:
        self.tasks: list[Any] = []
        self.closed_in: list[Any] = []
        self.asked = 0

    def slug(self) -> str:
        return self.model_name

    async def embed_batches(
        self,
        texts: list[str],
        *,
        role: Role,  # noqa: ARG002 - it makes no difference
    ) -> AsyncGenerator[tuple[range, list[list[float]]], None]:
        try:
            for at, text in enumerate(texts):
                self.tasks.append(asyncio.current_task())
                self.asked += 1
                await asyncio.sleep(0.001)
                yield range(at, at + 1), FAKE.lists([text])
        finally:
            self.closed_in.append(asyncio.current_task())


class Embedder:
    """A LangChain-like embedder with async methods, which notes its loops."""

    def __init__(self) -> None:
        self.loops: list[Any] = []

    def embed_documents(self, texts: list[str]) -> Any:
        raise NotImplementedError

    embed_query = embed_documents

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        self.loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return FAKE.lists(texts)

    async def aembed_query(self, text: str) -> list[float]:
        return (await self.aembed_documents([text]))[0]


@pytest.fixture
def server() -> Iterator[str]:
    """Answer each GET of /TEXT with the text, over HTTP on loopback."""

    class Echo(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.path[1:].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as serving:
        serving.daemon_threads = True
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


async def test_a_session_of_the_applications_loop_serves_its_model(server: str, tmp_path: Path) -> None:
    aiohttp = pytest.importorskip("aiohttp", reason="comes with LlamaIndex")
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:

        async def embed(texts: list[str]) -> list[list[float]]:
            async def get(text: str) -> str:
                async with session.get(f"{server}/{text}") as response:
                    return str(await response.text())

            return FAKE.lists([await get(text) for text in texts])

        class Model(FakeEmbeddingModel):
            async def embed(self, texts: list[str], *, role: str = "document") -> list[list[float]]:
                return await embed(texts) if role == "document" else []

        for number, model in enumerate((Model(), CallableEmbeddingModel(embed, model_name="session"))):
            cached = CachedEmbeddingModel(model, tmp_path / str(number), options=CacheOptions(chunk_size=2))
            assert await cached.embed(["a", "b", "c"]) == FAKE.lists(["a", "b", "c"])
            assert await cached.embed(["c", "d"]) == FAKE.lists(["c", "d"])
            assert cached.stats.misses == 4


async def test_an_httpx_client_of_the_applications_loop_goes_on_beside_threads(
    server: str, tmp_path: Path
) -> None:
    httpx = pytest.importorskip("httpx", reason="comes with LangChain")
    async with httpx.AsyncClient(base_url=server) as client:

        async def embed(texts: list[str]) -> list[list[float]]:
            answers = await asyncio.gather(*[client.get(f"/{text}") for text in texts])
            return FAKE.lists([answer.text for answer in answers])

        cached = CachedEmbeddingModel(CallableEmbeddingModel(embed, model_name="httpx"), tmp_path)
        for number in range(3):
            assert await cached.embed([f"a{number}", "b"]) == FAKE.lists([f"a{number}", "b"])
            assert await asyncio.to_thread(cached.embed_sync, ["b"]) == FAKE.lists(["b"])


@pytest.mark.parametrize("cache", [True, False])
async def test_a_model_runs_in_the_task_that_awaits_it(tmp_path: Path, cache: bool) -> None:  # noqa: FBT001
    model = Watching()
    cached = CachedEmbeddingModel(model, tmp_path if cache else None, options=CacheOptions(chunk_size=1))
    assert await cached.embed(["a", "b"]) == FAKE.lists(["a", "b"])
    assert {*model.tasks} == {asyncio.current_task()}


async def test_what_streams_is_iterated_and_closed_in_that_task(tmp_path: Path) -> None:
    model = Streaming()
    assert await CachedEmbeddingModel(model, tmp_path).embed(["a", "b", "c"]) == FAKE.lists("abc")
    assert {*model.tasks, *model.closed_in} == {asyncio.current_task()}


async def test_every_kind_of_async_source_runs_on_the_loop_that_awaits(tmp_path: Path) -> None:
    loops: list[Any] = []

    async def embed(texts: list[str]) -> Any:
        loops.append(asyncio.get_running_loop())
        return FAKE.lists(texts)

    class Callee:
        async def __call__(self, texts: list[str]) -> Any:
            return await embed(texts)

    embedder = Embedder()
    foreign = FrameworkEmbeddingModel(embedder, "ours", use_async=True)

    def promise(texts: list[str]) -> Any:
        return embed(texts)

    functions: list[Any] = [embed, Callee(), promise]
    sources = [*(CallableEmbeddingModel(function, model_name="ours") for function in functions), foreign]
    for number, source in enumerate(sources):
        inner = CachedEmbeddingModel(source, tmp_path / f"{number}")
        outer = CachedEmbeddingModel(inner, tmp_path / f"outer {number}")
        assert await outer.embed(["a"]) == FAKE.lists(["a"])
        assert await inner.embed(["b"]) == FAKE.lists(["b"])
    assert len(loops) == 6
    assert len(embedder.loops) == 2
    assert {*loops, *embedder.loops} == {asyncio.get_running_loop()}


async def test_what_says_so_runs_on_the_background_loop_whoever_awaits(tmp_path: Path) -> None:
    model, inner = Watching(), Watching()
    model.runs_on = "background"  # type: ignore[attr-defined]
    inside = CachedEmbeddingModel(inner, tmp_path / "inside")
    model.before = lambda: inside.embed(["a"])
    cached = CachedEmbeddingModel(model, tmp_path / "outside")
    assert await cached.embed(["a"]) == cached.embed_sync(["a"]) == FAKE.lists(["a"])
    assert {*inner.loops} == {*model.loops} != {asyncio.get_running_loop()}


def test_sync_callers_use_one_loop(tmp_path: Path) -> None:
    model = Watching()
    cached = CachedEmbeddingModel(model, tmp_path)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(cached.embed_sync, [[f"{number}"] for number in range(8)]))
    assert len({*model.loops}) == 1


@pytest.mark.parametrize("apply", [False, True], ids=["asyncio", "nest_asyncio"])
def test_three_loops_one_after_another_use_one_model(tmp_path: Path, apply: bool) -> None:  # noqa: FBT001
    if apply:
        nested(tmp_path)
        return
    model = Watching()
    cached = CachedEmbeddingModel(model, tmp_path)
    for text in "abc":
        assert asyncio.run(cached.embed(["x", text])) == FAKE.lists(["x", text])
    assert len({*model.loops}) == 3
    assert sorted(model.texts) == ["a", "b", "c", "x"]


def nested(tmp_path: Path) -> None:
    """Nest loops in a process of its own: the patch is for good."""
    pytest.importorskip("nest_asyncio", reason="comes with LlamaIndex")
    run_code(
        "import asyncio, nest_asyncio, sys\n"
        "from kura_cache_adapters import CachedEmbeddingModel\n"
        "from kura_cache_adapters.testing import FakeEmbeddingModel\n"
        "nest_asyncio.apply()\n"
        "model = FakeEmbeddingModel()\n"
        f"cached = CachedEmbeddingModel(model, {str(tmp_path)!r})\n"
        "async def main():\n"
        "    flying = asyncio.ensure_future(cached.embed(['a']))\n"
        "    await asyncio.sleep(0)\n"
        "    for text in 'abc':\n"
        "        assert asyncio.run(cached.embed([text])) == model.lists([text])\n"
        "        assert cached.embed_sync([text]) == model.lists([text])\n"
        "    assert await flying == model.lists(['a'])\n"
        "for _ in range(3): asyncio.run(main())\n"
        "assert sorted(model.texts) == ['a', 'b', 'c']\n"
    )


def run_code(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_text_asked_from_two_loops_is_sent_once(tmp_path: Path) -> None:
    model = Watching(lambda: asyncio.sleep(0.05))
    cached = CachedEmbeddingModel(model, tmp_path)
    together = threading.Barrier(4)

    def application(number: int) -> Any:
        async def main() -> Any:
            return await cached.embed(["a", "b"])

        together.wait(10)
        return asyncio.run(main()) if number % 2 else cached.embed_sync(["a", "b"])

    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(application, range(4))] == [FAKE.lists(["a", "b"])] * 4
    assert model.texts == ["a", "b"]


async def test_a_semaphore_of_the_loop_is_waited_for_by_many(tmp_path: Path) -> None:
    places = asyncio.Semaphore(2)
    most = 0

    async def wait() -> None:
        nonlocal most
        async with places:
            most = max(most, 2 - places._value)
            await asyncio.sleep(0.001)

    cached = CachedEmbeddingModel(Watching(wait), tmp_path)
    answers = await asyncio.gather(*[cached.embed([f"{number}"]) for number in range(20)])
    assert [*answers] == [FAKE.lists([f"{number}"]) for number in range(20)]
    assert most == 2


@needs_timeout
async def test_timeouts_and_task_groups_may_be_used_inside_a_model(tmp_path: Path) -> None:
    async def grouped() -> None:
        async with newer.timeout(5), newer.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))

    async def too_late() -> None:
        async with newer.timeout(0.01):
            await asyncio.sleep(5)

    model = Watching(grouped)
    cached = CachedEmbeddingModel(model, tmp_path)
    assert await cached.embed(["a"]) == FAKE.lists(["a"])
    model.before = too_late
    with pytest.raises(TimeoutError):
        await cached.embed(["b"])
    model.before = grouped
    assert await cached.embed(["b"]) == FAKE.lists(["b"])


@needs_timeout
async def test_a_timeout_around_the_cache_has_ended_its_model_when_it_ends(tmp_path: Path) -> None:
    ended: list[Any] = []

    async def wait() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            ended.append(asyncio.current_task())

    model = Watching(wait)
    cached = CachedEmbeddingModel(model, tmp_path)
    with pytest.raises(TimeoutError):
        async with newer.timeout(0.05):
            await cached.embed(["a"])
    assert ended == [asyncio.current_task()]
    model.before = None
    assert await asyncio.wait_for(cached.embed(["a"]), 5) == FAKE.lists(["a"])


@needs_timeout
async def test_a_task_group_that_fails_takes_its_models_with_it(tmp_path: Path) -> None:
    cached = CachedEmbeddingModel(Watching(lambda: asyncio.sleep(5)), tmp_path)

    async def fail() -> None:
        await asyncio.sleep(0.05)
        raise ValueError

    async def together() -> None:
        async with newer.TaskGroup() as group:
            group.create_task(cached.embed(["a"]))
            group.create_task(fail())

    with pytest.raises(newer_builtins.ExceptionGroup) as caught:
        await together()
    assert [type(error) for error in caught.value.exceptions] == [ValueError]


async def test_context_variables_pass_both_ways(tmp_path: Path) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    async def look() -> None:
        seen.append(variable.get())
        variable.set("by the model")

    variable.set("by the caller")
    await CachedEmbeddingModel(Watching(look), tmp_path).embed(["a"])
    assert [*seen, variable.get()] == ["by the caller", "by the model"]


async def test_a_buffer_that_is_used_again_is_copied_before_another_call_is_answered(tmp_path: Path) -> None:
    buffer = np.zeros((1, 8), np.float32)

    class Reusing(FakeEmbeddingModel):
        async def embed(self, texts: list[str], *, role: str = "document") -> Any:
            await asyncio.sleep(0)
            buffer[:] = FAKE.array(texts, role)
            return buffer

    cached = CachedEmbeddingModel(Reusing(), tmp_path)
    answers = await asyncio.gather(*[cached.embed([f"{at}"]) for at in range(100)])
    assert [*answers] == [FAKE.lists([f"{at}"]) for at in range(100)]


async def test_a_stream_whose_caller_leaves_is_closed_and_what_it_gave_is_kept(tmp_path: Path) -> None:
    model = Streaming()
    cached = CachedEmbeddingModel(model, tmp_path)
    texts = [f"{number}" for number in range(2000)]
    leaving = asyncio.ensure_future(cached.embed(texts))
    while model.asked < 5:
        await asyncio.sleep(0.001)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert model.closed_in == [leaving]
    asked = model.asked
    await asyncio.sleep(0.05)
    assert model.asked == asked
    assert len(cached.missing(texts)) <= 2000 - asked + 1


async def test_a_model_that_asks_its_own_cache_is_told_so(tmp_path: Path) -> None:
    model = Watching()
    cached = CachedEmbeddingModel(model, tmp_path)
    model.before = lambda: cached.embed(["a"])
    with pytest.raises(RuntimeError, match="the cache around itself"):
        await asyncio.wait_for(cached.embed(["a"]), 5)


def waiter(cached: CachedEmbeddingModel, how: str) -> Any:
    return cached.embed_sync(["a"]) if how == "sync" else asyncio.run(cached.embed(["a"]))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a loop's death is not clean
@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("end", ["closed", "stopped", "raised", "cancelled"])
def test_a_loop_that_dies_leaves_nobody_waiting(tmp_path: Path, end: str, how: str) -> None:
    model = Watching(lambda: asyncio.sleep(30))
    cached = CachedEmbeddingModel(model, tmp_path)
    loop = asyncio.new_event_loop()
    flying = loop.create_task(cached.embed(["a"]))

    async def main() -> None:
        while not model.loops:
            await asyncio.sleep(0.001)
        if end == "raised":
            raise ValueError

    with suppress(ValueError):
        loop.run_until_complete(main())
    model.before = None
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(waiter, cached, how)
        time.sleep(0.05)
        if end == "cancelled":
            flying.cancel()
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(flying)
        if end in {"closed", "raised"}:
            loop.close()
        assert waiting.result(10) == FAKE.lists(["a"])
    if not loop.is_closed():
        flying.cancel()
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(flying)
        loop.close()
    flying._log_destroy_pending = False  # type: ignore[attr-defined]
    del flying
    gc.collect()
    assert cached.missing(["a"]) == []


def test_a_loop_that_pauses_gets_its_answer_when_it_goes_on(tmp_path: Path) -> None:
    model = Watching(lambda: asyncio.sleep(0.05))
    cached = CachedEmbeddingModel(model, tmp_path)
    loop = asyncio.new_event_loop()
    flying = loop.create_task(cached.embed(["a", "b"]))
    loop.run_until_complete(asyncio.sleep(0.03))
    assert cached.embed_sync(["a"]) == FAKE.lists(["a"])
    assert loop.run_until_complete(flying) == FAKE.lists(["a", "b"])
    loop.close()
    assert cached.missing(["a", "b"]) == []


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_loop_that_waits_for_its_own_flight_in_another_thread_is_let_go(
    tmp_path: Path, how: str
) -> None:
    model = Watching(lambda: asyncio.sleep(0.3))
    cached = CachedEmbeddingModel(model, tmp_path)
    flying = asyncio.ensure_future(cached.embed(["a"]))
    while not model.loops:
        await asyncio.sleep(0.001)
    with ThreadPoolExecutor(1) as threads:  # as LlamaIndex does inside a running loop
        assert threads.submit(waiter, cached, how).result(10) == FAKE.lists(["a"])
    assert cached.embed_sync(["a"]) == await flying == FAKE.lists(["a"])


async def test_a_sync_call_beside_a_task_in_flight_on_the_same_loop_ends(tmp_path: Path) -> None:
    model = Watching(lambda: asyncio.sleep(0.3))
    cached = CachedEmbeddingModel(model, tmp_path)
    flying = asyncio.ensure_future(cached.embed(["a"]))
    while not model.loops:
        await asyncio.sleep(0.001)
    assert cached.embed_sync(["a"]) == await flying == FAKE.lists(["a"])


async def test_a_waiter_of_another_loop_takes_over_on_its_own(tmp_path: Path) -> None:
    model = Watching(lambda: asyncio.sleep(30))
    cached = CachedEmbeddingModel(model, tmp_path)
    first = asyncio.ensure_future(cached.embed(["a"]))
    while not model.loops:
        await asyncio.sleep(0.001)
    model.before = None
    second = asyncio.ensure_future(asyncio.to_thread(waiter, cached, "async"))
    await asyncio.sleep(0.05)
    first.cancel()
    assert await asyncio.wait_for(second, 10) == FAKE.lists(["a"])
    assert len({*model.loops}) == 2


def test_uvloop_is_a_home_too(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop has no build for this platform")
    model = Watching(lambda: asyncio.sleep(0.001))
    cached = CachedEmbeddingModel(model, tmp_path)
    loop = uvloop.new_event_loop()
    assert loop.run_until_complete(cached.embed(["a"])) == FAKE.lists(["a"])
    assert model.loops == [loop]
    loop.close()


def test_ctrl_c_in_a_model_ends_its_loop_and_frees_its_texts(tmp_path: Path) -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    model = Watching(interrupted)
    cached = CachedEmbeddingModel(model, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(cached.embed(["a"]))
    model.before = None
    assert asyncio.run(cached.embed(["a"])) == FAKE.lists(["a"])


def test_under_trio_the_error_is_clear_and_nothing_is_asked(tmp_path: Path) -> None:
    trio = pytest.importorskip("trio", reason="needs trio")
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, tmp_path)
    with pytest.raises(RuntimeError, match=r"trio\.to_thread\.run_sync"):
        trio.run(cached.embed, ["a"])
    assert not model.calls

    async def in_thread() -> Any:
        return await trio.to_thread.run_sync(cached.embed_sync, ["a"])

    assert trio.run(in_thread) == model.lists(["a"])


def test_anyio_on_asyncio_works_and_its_cancel_scopes_end_the_model(tmp_path: Path) -> None:
    anyio = pytest.importorskip("anyio", reason="comes with the SDKs")
    model = Watching(lambda: anyio.sleep(0.001))
    cached = CachedEmbeddingModel(model, tmp_path)

    async def main() -> None:
        assert await cached.embed(["a"]) == FAKE.lists(["a"])
        model.before = lambda: anyio.sleep(30)
        with anyio.move_on_after(0.05) as scope:
            await cached.embed(["b"])
        assert scope.cancelled_caught

    anyio.run(main)


HANGING = """
import asyncio, sys
from kura_cache_adapters import CachedEmbeddingModel, CacheOptions
from kura_cache_adapters.testing import FakeEmbeddingModel
class Hanging(FakeEmbeddingModel):
    async def embed(self, texts):
        if "b" in texts:
            print(flush=True)
            await asyncio.sleep(60)
        return await super().embed(texts)
options = CacheOptions(chunk_size=1)
asyncio.run(CachedEmbeddingModel(Hanging("ours"), sys.argv[1], options=options).embed(["a", "b"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_ctrl_c_ends_a_program_at_once_and_what_was_answered_is_kept(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", HANGING, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    program.stdout.readline()
    program.send_signal(signal.SIGINT)
    before = time.monotonic()
    _, errors = program.communicate(timeout=20)
    assert time.monotonic() - before < 2
    assert errors.strip().endswith(b"KeyboardInterrupt")
    assert CachedEmbeddingModel(FAKE, tmp_path).missing(["a", "b"]) == [1]
