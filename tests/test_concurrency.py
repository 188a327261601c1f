"""Tasks, threads, loops, forks and pickles: a text in flight is not embedded again."""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import pickle
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import kura_cache_adapters
from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel
from kura_cache_adapters._runtime.fork import ForkLock, ModelLock
from kura_cache_adapters.embedding.sentence_transformer import lock_of
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = [[f"text {number % 40}" for number in range(at, at + 20)] for at in range(0, 50, 5)]


class Slow(FakeEmbeddingModel):
    """A model that takes a moment, so that calls overlap."""

    async def embed(self, texts: list[str], *, role: str = "document") -> list[list[float]]:
        answer = await super().embed(texts, role=role)
        await asyncio.sleep(0.02)
        return answer


@pytest.fixture
def model() -> FakeEmbeddingModel:
    return Slow()


@pytest.fixture
def cached(model: FakeEmbeddingModel, tmp_path: Path) -> CachedEmbeddingModel:
    return CachedEmbeddingModel(model, tmp_path, options=CacheOptions(chunk_size=3))


def check(model: FakeEmbeddingModel, answers: list[list[list[float]]]) -> None:
    assert answers == [model.lists(texts) for texts in TEXTS]
    assert sorted(model.texts) == sorted({text for texts in TEXTS for text in texts})


async def test_ten_tasks_embed_each_text_once(cached: Any, model: Any) -> None:
    check(model, await asyncio.gather(*map(cached.embed, TEXTS)))
    assert cached.stats.hits + cached.stats.misses + cached.stats.duplicates == 200


def test_ten_threads_embed_each_text_once(cached: Any, model: Any) -> None:
    with ThreadPoolExecutor(10) as threads:
        check(model, list(threads.map(cached.embed_sync, TEXTS)))


async def test_tasks_and_threads_mixed_embed_each_text_once(cached: Any, model: Any) -> None:
    half = [asyncio.to_thread(cached.embed_sync, texts) for texts in TEXTS[:5]]
    check(model, await asyncio.gather(*half, *map(cached.embed, TEXTS[5:])))


async def test_a_query_and_a_document_in_flight_are_not_mixed(tmp_path: Path) -> None:
    model = FakeEmbeddingModel(roles=("query",))
    cached = CachedEmbeddingModel(model, tmp_path)
    document, query = await asyncio.gather(cached.embed(["x"]), cached.embed(["x"], role="query"))
    assert document == model.lists(["x"])
    assert query == model.lists(["x"], "query")


async def test_when_the_first_fails_a_waiter_takes_over(cached: Any, model: Any) -> None:
    fault = RuntimeError("once")

    def fail_once(_: list[str]) -> None:
        model.fault = None
        raise fault

    model.fault = "stall"
    first, *others = [asyncio.ensure_future(cached.embed(["a", "b"])) for _ in range(4)]
    await asyncio.sleep(0.05)
    assert len(model.calls) == 1
    model.fault = fail_once
    answers = await asyncio.gather(first, *others, return_exceptions=True)
    assert [answer for answer in answers if answer != model.lists(["a", "b"])] == [fault]
    assert len(model.calls) == 2


async def test_when_the_first_is_cancelled_a_waiter_takes_over(cached: Any, model: Any) -> None:
    model.fault = "stall"
    first = asyncio.ensure_future(cached.embed(["a", "b"]))
    await asyncio.sleep(0.05)
    second = asyncio.ensure_future(cached.embed(["b", "c"]))
    await asyncio.sleep(0.05)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    model.fault = None
    assert await asyncio.wait_for(second, 10) == model.lists(["b", "c"])


async def test_a_cancelled_waiter_leaves_the_flight_alone(cached: Any, model: Any) -> None:
    model.fault = "stall"
    first = asyncio.ensure_future(cached.embed(["a"]))
    await asyncio.sleep(0.05)
    second = asyncio.ensure_future(cached.embed(["a"]))
    await asyncio.sleep(0.05)
    second.cancel()
    model.fault = None
    assert await asyncio.wait_for(first, 10) == model.lists(["a"])
    assert len(model.calls) == 1


async def test_each_caller_gets_its_own_failure(cached: Any, model: Any) -> None:
    def fail(texts: list[str]) -> None:
        raise ValueError(texts[0])

    model.fault = fail
    answers = await asyncio.gather(cached.embed(["a"]), cached.embed(["b"]), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["a", "b"]
    model.fault = None
    assert await cached.embed(["a", "b"]) == model.lists(["a", "b"])


async def test_two_calls_that_wait_for_each_other_both_end(cached: Any, model: Any) -> None:
    forth, back = [f"{at}" for at in range(30)], [f"{at}" for at in reversed(range(30))]
    answers = await asyncio.wait_for(asyncio.gather(cached.embed(forth), cached.embed(back)), 20)
    assert [*answers] == [model.lists(forth), model.lists(back)]
    assert len(model.texts) == 30


async def test_a_sync_call_works_inside_a_running_loop(cached: Any, model: Any) -> None:
    assert cached.embed_sync(["a"]) == model.lists(["a"])
    assert await cached.embed(["a"]) == model.lists(["a"])


def test_it_works_on_uvloop(cached: Any, model: Any) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop has no build for this platform")

    async def main() -> list[Any]:
        return [cached.embed_sync(["a"]), await cached.embed(["a", "b"])]

    loop = uvloop.new_event_loop()
    try:
        assert loop.run_until_complete(main()) == [model.lists(["a"]), model.lists(["a", "b"])]
    finally:
        loop.close()


def test_a_client_bound_to_a_loop_survives_many(tmp_path: Path) -> None:
    class Bound(FakeEmbeddingModel):
        runs_on = "background"
        lock: asyncio.Lock | None = None
        loops: set[Any]

        async def embed(self, texts: list[str], *, role: str = "document") -> list[list[float]]:
            self.lock = self.lock or asyncio.Lock()
            self.loops.add(asyncio.get_running_loop())
            async with self.lock:
                await asyncio.sleep(0.001)
                return await super().embed(texts, role=role)

    model = Bound()
    model.loops = set()
    cached = CachedEmbeddingModel(model, tmp_path)
    for text in "abc":
        asyncio.run(cached.embed([text]))
        cached.embed_sync([text + text])
    assert len(model.loops) == 1


async def test_the_callers_loop_goes_on_while_a_function_blocks(tmp_path: Path) -> None:
    started, done = threading.Event(), threading.Event()

    def block(texts: list[str]) -> list[list[float]]:
        started.set()
        assert done.wait(10)
        return [[1.0]] * len(texts)

    cached = CachedEmbeddingModel(CallableEmbeddingModel(block, model_name="blocking"), tmp_path)
    embedding = asyncio.ensure_future(cached.embed(["a"]))
    while not started.is_set():
        await asyncio.sleep(0.001)
    done.set()
    assert await embedding == [[1.0]]


def test_context_variables_reach_the_model(tmp_path: Path) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    def look(texts: list[str]) -> list[list[float]]:
        seen.append(variable.get())
        return [[1.0]] * len(texts)

    async def look_async(texts: list[str]) -> list[list[float]]:
        return look(texts)

    variable.set("set")
    for number, function in enumerate((look, look_async)):
        model = CallableEmbeddingModel(function, model_name=f"looking {number}")
        CachedEmbeddingModel(model, tmp_path).embed_sync(["a"])
        asyncio.run(CachedEmbeddingModel(model, tmp_path).embed(["b"]))
    assert seen == ["set"] * 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, StopIteration, GeneratorExit])
def test_whatever_a_model_raises_the_next_call_works(tmp_path: Path, error: type[BaseException]) -> None:
    def fail(_: list[str]) -> Any:
        raise error

    async def fail_async(texts: list[str]) -> Any:
        fail(texts)

    for number, function in enumerate((fail, fail_async)):
        model = CallableEmbeddingModel(function, model_name=f"failing {number}")
        with pytest.raises((error, RuntimeError)):
            CachedEmbeddingModel(model, tmp_path).embed_sync(["a"])
    sound = FakeEmbeddingModel()
    assert CachedEmbeddingModel(sound, tmp_path).embed_sync(["a"]) == sound.lists(["a"])


def test_a_sync_call_on_the_background_loop_is_an_error_not_a_deadlock(tmp_path: Path) -> None:
    inner = CachedEmbeddingModel(FakeEmbeddingModel("inner"), tmp_path)

    async def reenter(texts: list[str]) -> list[list[float]]:
        return inner.embed_sync(texts)

    outer = CachedEmbeddingModel(CallableEmbeddingModel(reenter, model_name="outer"), tmp_path)
    with pytest.raises(RuntimeError, match="wait for itself"):
        outer.embed_sync(["a"])


def in_child(work: Callable[[], object], method: str = "fork") -> None:
    """Run work in a child process; fail if it fails or takes too long."""
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=work)
    child.start()
    child.join(60)
    hung = child.is_alive()
    child.kill()
    assert not hung
    assert child.exitcode == 0


class Call:
    """A picklable call that checks its answer."""

    def __init__(self, cached: CachedEmbeddingModel, texts: list[str], calls: int) -> None:
        self.cached, self.texts, self.calls = cached, texts, calls

    def __call__(self) -> None:
        model: Any = self.cached.embedding_model
        before = len(model.calls)
        assert self.cached.embed_sync(self.texts) == model.lists(self.texts)
        assert asyncio.run(self.cached.embed(self.texts)) == model.lists(self.texts)
        assert len(model.calls) - before == self.calls


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_goes_on_and_so_does_its_parent(cached: Any) -> None:
    cached.embed_sync(["a"])
    in_child(Call(cached, ["a"], 0))
    in_child(Call(cached, ["b", "c"], 1))
    Call(cached, ["a", "b", "c"], 0)()
    Call(cached, ["d"], 1)()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_in_the_middle_of_everything_hangs_nobody(cached: Any, model: Any) -> None:
    stop = threading.Event()

    def work(worker: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            cached.embed_sync([f"{worker} {number} {at}" for at in range(5)])

    with ThreadPoolExecutor(4) as threads:
        working = [threads.submit(work, worker) for worker in range(4)]
        try:
            for number in range(10):
                in_child(Call(cached, [f"child {number}"], 1))
        finally:
            stop.set()
        for one in working:
            one.result()


def test_a_spawned_child_opens_the_same_cache(cached: Any) -> None:
    cached.embed_sync(["a"])
    in_child(Call(cached, ["a"], 0), "spawn")


def test_a_pickle_opens_the_same_cache_with_the_same_keys(tmp_path: Path) -> None:
    model = FakeEmbeddingModel()
    options = CacheOptions(chunk_size=7)
    cached = CachedEmbeddingModel(model, tmp_path, options=options, self="x", state=1)
    cached.embed_sync(["a"])
    copy = pickle.loads(pickle.dumps(cached))
    assert copy.cache_key("a") == cached.cache_key("a")
    assert copy.options == options
    Call(copy, ["a"], 0)()


def test_nothing_is_started_before_the_first_miss(tmp_path: Path) -> None:
    code = (
        "import threading\n"
        "from kura_cache_adapters import CachedEmbeddingModel\n"
        "from kura_cache_adapters.testing import FakeEmbeddingModel\n"
        f"cached = CachedEmbeddingModel(FakeEmbeddingModel(), {str(tmp_path)!r})\n"
        "assert threading.active_count() == 1\n"
        "cached.embed_sync(['a'])\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_a_model_may_fork_while_it_holds_a_lock() -> None:
    lock = ForkLock()

    def work() -> None:
        with lock, lock:
            pass

    with lock:
        in_child(work)
    in_child(work)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_no_model_and_its_child_may_use_it() -> None:
    lock, held, go_on = ModelLock(), threading.Event(), threading.Event()

    def encode() -> None:
        with lock:
            held.set()
            assert go_on.wait(60)

    def work() -> None:
        with lock, lock:
            pass

    encoding = threading.Thread(target=encode)
    encoding.start()
    assert held.wait(10)
    before = time.monotonic()
    in_child(work)
    assert time.monotonic() - before < 1
    assert not lock.acquire(blocking=False)  # the parent's model still has it
    go_on.set()
    encoding.join()
    work()


def test_with_calls_the_locks_of_c_themselves() -> None:
    for kind in (ForkLock, ModelLock):
        for name in ("__enter__", "__exit__"):
            assert getattr(kind, name) is getattr(type(threading.RLock()), name)


def test_a_child_is_forked_with_every_lock_free_whoever_held_it() -> None:
    mine, others = ForkLock(), [ForkLock(), ModelLock()]

    def work() -> None:
        with ThreadPoolExecutor(1) as threads:
            assert all(threads.map(lambda lock: lock.acquire(timeout=5), [mine, *others]))

    with ThreadPoolExecutor(1) as thread, mine, mine, others[1]:
        in_child(work)
        assert not thread.submit(mine.acquire, timeout=0.01).result()  # here it is held
    work()


def test_locks_pickle_as_free_ones_and_are_forgotten_when_unused() -> None:
    lock = ForkLock()
    with ThreadPoolExecutor(1) as thread, lock:
        copy = pickle.loads(pickle.dumps(lock))
        assert thread.submit(copy.acquire, timeout=5).result()
    gone = weakref.ref(lock)
    del lock
    assert gone() is None


INTERRUPTED = """
import _thread, os, sys, threading
os.register_at_fork(before=_thread.interrupt_main)  # called after ours: Ctrl-C in the midst of a fork
from kura_cache_adapters._runtime.fork import ForkLock, ModelLock
locks = [ForkLock(), ForkLock(), ModelLock()]
heard = []
sys.unraisablehook = lambda one: heard.append(one.exc_type)
child = os.fork()
def take_all():
    taken.extend(lock.acquire(timeout=5) for lock in locks)
taken = []
one = threading.Thread(target=take_all)
one.start()
one.join()
if not child:
    os._exit(taken != [True] * 3)
assert os.waitpid(child, 0)[1] == 0
assert taken == [True] * 3
assert heard == [KeyboardInterrupt]
"""


def test_ctrl_c_in_the_midst_of_a_fork_leaves_no_lock_taken() -> None:
    subprocess.run([sys.executable, "-c", INTERRUPTED], check=True, timeout=60)


def test_one_module_alone_says_what_a_fork_does() -> None:
    package = Path(kura_cache_adapters.__file__).parent
    calls = [file for file in package.rglob("*.py") if "register_at_fork" in file.read_text()]
    found = {file.relative_to(package).as_posix() for file in calls}
    assert found - {"_core/fill.py"} == {
        "_runtime/fork.py"
    }  # the progress bar has one, for as long as it is there


def test_a_loaded_model_has_one_lock_and_no_fork_waits_for_it() -> None:
    model, other = FakeEmbeddingModel(), FakeEmbeddingModel()
    assert lock_of(model) is lock_of(model) is not lock_of(other)
    assert not lock_of(model).waited_for
    assert type(pickle.loads(pickle.dumps(lock_of(model)))) is ModelLock
