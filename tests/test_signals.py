"""Signal handlers: what they raise is the program's, and what they look up is right or a miss."""

from __future__ import annotations

import functools
import signal
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, MemoryStore, TieredStore
from kura_cache_adapters._runtime.signals import suppressed
from kura_cache_adapters.errors import ReentryError
from kura_cache_adapters.stores import ArrowStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from kura_cache_adapters.testing.stores import IDENTITY, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore, VectorSpace


class OutOfTime(Exception):  # noqa: N818 - as programs call theirs
    """What a handler raises."""


def plain(_number: int, _frame: object, *, error: type[Exception] = OutOfTime) -> None:
    raise error


def of_any_arguments(*_arguments: object) -> None:
    raise OutOfTime


def once(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise OutOfTime


class Handler:
    def method(self, _number: int, _frame: object) -> None:
        raise OutOfTime

    __call__ = method


HANDLERS: dict[str, tuple[Callable[..., Any], type[Exception]]] = {
    "plain": (plain, OutOfTime),
    "any arguments": (of_any_arguments, OutOfTime),
    "puts itself away": (once, OutOfTime),
    "method": (Handler().method, OutOfTime),
    "object": (Handler(), OutOfTime),
    "an OSError": (functools.partial(plain, error=TimeoutError), TimeoutError),
    "a ValueError": (functools.partial(plain, error=ValueError), ValueError),
}


@pytest.fixture(autouse=True)
def _former_handler() -> Iterator[None]:
    former = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)


class Interrupted(MemoryStore):
    """A store in which a signal arrives, or an error of its own, in the middle of a look-up."""

    trouble: Callable[[], object] = staticmethod(lambda: None)

    def space(self, identity: ModelIdentity) -> VectorSpace:  # type: ignore[override]
        self.trouble()
        return super().space(identity)


@pytest.mark.parametrize("name", HANDLERS)
def test_what_a_signal_handler_raises_during_a_look_up_reaches_the_caller(name: str) -> None:
    handler, error = HANDLERS[name]
    signal.signal(signal.SIGALRM, handler)
    store, model = Interrupted(), FakeEmbeddingModel()
    store.trouble = lambda: signal.raise_signal(signal.SIGALRM)
    cached = CachedEmbeddingModel(model, store)
    with pytest.raises(error):
        cached.embed_sync(["a"])
    assert not model.texts
    store.trouble = lambda: None
    assert cached.embed_sync(["a"]) == cached.embed_sync(["a"])
    assert len(model.texts) == 1


def test_a_store_error_is_a_miss_while_a_signal_handler_is_installed() -> None:
    signal.signal(signal.SIGALRM, plain)
    store = Interrupted()
    store.trouble = lambda: int("no number")
    assert len(CachedEmbeddingModel(FakeEmbeddingModel(), store).embed_sync(["a"])) == 1


def test_what_the_caller_is_dealing_with_is_not_taken_for_news() -> None:
    """A store fails while a program deals with its time limit: that is the store's trouble, as ever."""
    signal.signal(signal.SIGALRM, functools.partial(plain, error=TimeoutError))
    try:
        signal.raise_signal(signal.SIGALRM)
    except TimeoutError:
        with suppressed(OSError):
            Path("/missing").stat()
    with pytest.raises(TimeoutError), suppressed(OSError):
        signal.raise_signal(signal.SIGALRM)


def test_a_claim_that_a_signal_has_lost_halfway_keeps_nobody_waiting(tmp_path: Path) -> None:
    space = ArrowStore(tmp_path).space(IDENTITY)
    keys = [*map(key_of, range(3))]
    claim = space.claim(keys)
    assert claim is not None
    claim._descriptor = None  # as where the exception came before the file was closed
    del claim
    again = space.claim(keys)
    assert again is not None
    assert set(again.keys) == set(keys)
    again.release(keys)
    assert [path.name for path in (space.path / ".claims").iterdir()] == ["gate"]


class Ticking(MemoryStore):
    """A store in which a signal arrives while a look-up holds its lock."""

    def tick(self) -> int:
        signal.raise_signal(signal.SIGALRM)
        return super().tick()


def test_a_handler_that_interrupts_the_holder_of_the_memory_is_refused_at_once() -> None:
    store, model = Ticking(), FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, store)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    right = cached.embed_sync(["a"])
    signal.signal(signal.SIGALRM, lambda _number, _frame: cached.embed_sync(["a"]))
    with pytest.raises(ReentryError):
        cached.embed_sync(["a"])
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    assert cached.embed_sync(["a"]) == right
    assert len(model.texts) == 1


@pytest.mark.parametrize("way", ["memory", "disk", "memory before disk"])
def test_a_handler_that_looks_up_in_the_cache_it_interrupts_gets_right_vectors(
    way: str, tmp_path: Path
) -> None:
    disk = ArrowStore(tmp_path)
    stores: dict[str, EmbeddingStore] = {
        "memory": MemoryStore(),
        "disk": disk,
        "memory before disk": TieredStore(MemoryStore(), disk),
    }
    cached, model = CachedEmbeddingModel(FakeEmbeddingModel(), stores[way]), FakeEmbeddingModel()
    heard: list[bool] = []

    def right(texts: list[str]) -> bool:
        return np.array_equal(cached.embed_array_sync(texts), model.array(texts))

    def look_up(_number: int, _frame: object) -> None:
        try:
            heard.append(right([f"text {len(heard) % 50}", f"new {len(heard) // 20}"]))
        except ReentryError:
            heard.append(True)
        signal.setitimer(signal.ITIMER_REAL, 0.001)  # only now: handlers must not pile up

    signal.signal(signal.SIGALRM, look_up)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    turns = count()
    while len(heard) < 100:
        assert right([f"text {next(turns) % 300}", "text 1"])
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert all(heard)
