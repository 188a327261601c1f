"""What is small and at hand is answered on the caller's loop: without a thread, a wait or a monopoly."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    CacheOptions,
    HFDatasetStore,
    JSONLStore,
    LookedUp,
    MemoryStore,
    ParquetStore,
    TieredStore,
)
from kura_cache_adapters._core import glance as glances
from kura_cache_adapters._segments.search import ArraySegment
from kura_cache_adapters.stores.memory import MemorySpace
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from kura_cache_adapters.protocols import Hits

TEXTS = [f"text {number}" for number in range(40)]
AT_HAND: dict[str, Callable[[Path], Any]] = {
    "arrow": ArrowStore,
    "parquet": ParquetStore,
    "jsonl": JSONLStore,
    "hf": HFDatasetStore,
    "memory": lambda _: MemoryStore(),
    "tiers": lambda path: TieredStore(MemoryStore(), ArrowStore(path)),
}


class Threads(list[int]):
    """An observer that remembers in which thread it hears of look-ups."""

    def __call__(self, event: object) -> None:
        if isinstance(event, LookedUp):
            self.append(threading.get_ident())

    @property
    def last_here(self) -> bool:
        return self[-1] == threading.get_ident()


async def filled(store: Any, model: Any = None) -> tuple[CachedEmbeddingModel, Threads]:
    """Return a cache that has found all texts once, and the threads of its look-ups from then on."""
    threads = Threads()
    model = FakeEmbeddingModel() if model is None else model
    cached = CachedEmbeddingModel(model, store, options=CacheOptions(observers=[threads]))
    for _ in range(2):
        await cached.embed(TEXTS)
    threads.clear()
    return cached, threads


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine's pauses not be taken for those of a disk."""
    monkeypatch.setattr(glances, "_LONG", 1.0)


@pytest.mark.parametrize("kind", AT_HAND)
@pytest.mark.parametrize("texts", [[], TEXTS[:1], TEXTS[7:39], (TEXTS[3], TEXTS[3])], ids=len)
async def test_a_small_answer_at_hand_is_found_on_the_callers_loop(
    kind: str, texts: Any, tmp_path: Path
) -> None:
    cached, threads = await filled(AT_HAND[kind](tmp_path))
    before = cached.stats
    assert await cached.embed(texts) == FakeEmbeddingModel().lists(texts)
    assert (await cached.embed_array(texts)).tolist() == cached.embed_array_sync(texts).tolist()
    assert threads == [threading.get_ident()] * 3
    assert cached.stats.hits == before.hits + 3 * len(texts)


@pytest.mark.parametrize(
    "texts",
    [TEXTS, [TEXTS[0], "new"], [TEXTS[0], "x" * (1 << 17)], iter(TEXTS[:3])],
    ids=["many", "one that is missing", "a long one", "an iterator"],
)
@pytest.mark.parametrize("kind", ["arrow", "memory", "tiers"])
async def test_all_else_is_looked_up_in_a_thread_and_told_once(kind: str, texts: Any, tmp_path: Path) -> None:
    cached, threads = await filled(AT_HAND[kind](tmp_path))
    texts = [*texts] if isinstance(texts, list) else iter(TEXTS[:3])
    asked = texts if isinstance(texts, list) else TEXTS[:3]
    assert await cached.embed(texts) == FakeEmbeddingModel().lists(asked)
    assert len(threads) == 1
    assert not threads.last_here or len(asked) > cached.stats.hits


async def test_a_file_that_is_not_at_hand_is_read_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ArraySegment, "at_hand", False)
    cached, threads = await filled(ArrowStore(tmp_path))
    await cached.embed(TEXTS[:1])
    assert not threads.last_here


async def test_a_store_that_is_at_work_does_not_hold_the_loop() -> None:
    store = MemoryStore()
    cached, threads = await filled(store)
    held, free = threading.Event(), threading.Event()

    def work() -> None:
        with store.locked():
            held.set()
            free.wait(10)

    working = threading.Thread(target=work)
    working.start()
    assert held.wait(10)
    asked = asyncio.ensure_future(cached.embed(TEXTS[:1]))
    await asyncio.sleep(0.05)  # the loop runs on
    assert not asked.done()
    free.set()
    assert await asked == FakeEmbeddingModel().lists(TEXTS[:1])
    working.join()
    assert not threads.last_here


class Counting(MemorySpace):
    """A space with a look-up of its own."""

    looked = 0

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        type(self).looked += 1
        return super().get_many(keys)


class OfAnother(MemoryStore):
    """A store of such spaces."""

    def space(self, identity: Any) -> Any:
        return self._spaces.setdefault(identity, Counting(self))


@pytest.mark.parametrize("behind", [False, True])
async def test_a_look_up_of_a_classes_own_is_not_passed_by(*, behind: bool) -> None:
    cached, threads = await filled(TieredStore(OfAnother(), MemoryStore()) if behind else OfAnother())
    before = Counting.looked
    await cached.embed(TEXTS[:1])
    assert Counting.looked == before + 1
    assert not threads.last_here


async def test_a_look_up_that_is_replaced_is_not_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    cached, _ = await filled(store)
    asked: list[Any] = []
    (space,) = store._spaces.values()
    real = space.get_many

    def replaced(keys: Any) -> Hits:
        asked.append(keys)
        return real(keys)

    monkeypatch.setattr(space, "get_many", replaced)
    await cached.embed(TEXTS[:1])
    assert asked


@pytest.mark.parametrize("answer", [None, "raises", "too few", "no hits"])
async def test_what_a_glance_cannot_answer_is_looked_up(
    answer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    cached, threads = await filled(store)
    glance = MemorySpace.glance

    def other(self: MemorySpace, keys: list[bytes]) -> Any:
        match answer:
            case "raises":
                raise OSError(5, "Input/output error")
            case "too few":
                return glance(self, keys[:-1])
            case "no hits":
                return "hits"
        return None

    monkeypatch.setattr(MemorySpace, "glance", other)
    assert await cached.embed(TEXTS[:2]) == FakeEmbeddingModel().lists(TEXTS[:2])
    assert not threads.last_here
    assert (cached.stats.load_failures, cached.stats.misses) == (0, len(TEXTS))


async def test_after_a_glance_that_took_long_the_loop_has_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    cached, threads = await filled(MemoryStore())
    glance = MemorySpace.glance

    def slow(self: MemorySpace, keys: list[bytes]) -> Any:
        time.sleep(0.02)
        return glance(self, keys)

    monkeypatch.setattr(glances, "_LONG", 0.02)
    with monkeypatch.context() as patch:
        patch.setattr(MemorySpace, "glance", slow)
        await cached.embed(TEXTS[:1])
    assert threads.last_here
    await cached.embed(TEXTS[:1])
    assert not threads.last_here
    monkeypatch.setattr(cached._calls._pace, "_again", 0.0)  # when that is over
    await cached.embed(TEXTS[:1])
    assert threads.last_here


async def test_a_task_of_hits_alone_leaves_the_others_their_turns() -> None:
    cached, threads = await filled(MemoryStore())
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(other())
    for at in range(4000):
        await cached.embed(TEXTS[at % 40 :][:1])
    beside.cancel()
    assert threads.last_here
    assert turns > 5


class Changing(FakeEmbeddingModel):
    """A model that says where it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.version, self.read_in = 1, list[int]()

    def state(self) -> int:
        return self.version

    def prepare(self) -> None:
        """Have nothing to load."""

    def identity(self) -> dict[str, Any]:
        self.read_in.append(threading.get_ident())
        return {"version": self.version}


async def test_a_model_that_has_changed_is_not_read_on_the_loop_and_answers_anew() -> None:
    model = Changing()
    cached, threads = await filled(MemoryStore(), model)
    await cached.embed(TEXTS[:1])
    assert threads.last_here
    model.version, model.read_in[:] = 2, []
    await cached.embed(TEXTS[:1])
    assert model.calls[-1] == TEXTS[:1]
    assert threading.get_ident() not in model.read_in


async def test_errors_of_a_small_call_are_those_of_a_large_one() -> None:
    cached, _ = await filled(MemoryStore())
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string"):
        await cached.embed(["a", 1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="role"):
        await cached.embed(["a"], role="")


def test_under_trio_what_is_at_hand_is_an_error_too() -> None:
    trio = pytest.importorskip("trio", reason="needs trio")
    cached, _ = asyncio.run(filled(MemoryStore()))
    with pytest.raises(RuntimeError, match=r"trio\.to_thread\.run_sync"):
        trio.run(cached.embed, TEXTS[:1])
