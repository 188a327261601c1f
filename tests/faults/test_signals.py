"""Signal handlers that raise, and handlers that use the cache which they interrupt."""

from __future__ import annotations

import functools
import gc
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, MemoryStore, TieredStore
from kura_cache_adapters._runtime.signals import pass_on_signals, suppressed
from kura_cache_adapters.stores import ArrowStore, ParquetStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.acme_vectors.store import DictStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")

TEXTS = [f"text {number}" for number in range(300)]


CACHES: dict[str, Callable[[Path], Any]] = {
    "memory": lambda _: MemoryStore(),
    "arrow": ArrowStore,
    "arrow, read": lambda path: ArrowStore(path, mapped=False),
    "parquet": ParquetStore,
    "a store of one's own": lambda path: DictStore(str(path)),
    "memory, arrow": lambda path: TieredStore(MemoryStore(), ArrowStore(path)),
}
caches = pytest.mark.parametrize("cache", CACHES)


@pytest.fixture
def handled() -> Iterator[Callable[[Any], object]]:
    before = signal.getsignal(signal.SIGALRM)
    gc.collect()
    gc.disable()  # what is raised while something old is collected, Python itself ignores
    yield lambda handler: signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    gc.enable()


class SoftTimeLimitError(Exception):
    """As a task queue raises it."""


def raiser(kind: type[Exception]) -> Callable[..., None]:
    def handler(*_: object) -> None:
        raise kind

    return handler


class Handler:
    def __call__(self, *_: object) -> None:
        raise SoftTimeLimitError

    def method(self, *_: object) -> None:
        raise SoftTimeLimitError


HANDLERS: dict[str, tuple[Any, type[Exception]]] = {
    "an error of its own": (raiser(SoftTimeLimitError), SoftTimeLimitError),
    "TimeoutError": (raiser(TimeoutError), TimeoutError),
    "ValueError": (raiser(ValueError), ValueError),
    "a method": (Handler().method, SoftTimeLimitError),
    "an object": (Handler(), SoftTimeLimitError),
    "a partial": (functools.partial(raiser(SoftTimeLimitError)), SoftTimeLimitError),
}


@caches
@pytest.mark.parametrize("handler", HANDLERS)
def test_what_a_handler_raises_during_a_hit_arrives_and_costs_nothing(
    cache: str,
    handler: str,
    tmp_path: Path,
    handled: Callable[[Any], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    function, kind = HANDLERS[handler]
    fake = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(fake, CACHES[cache](tmp_path), options=CacheOptions(durable=False))
    right = cached.embed_array_sync(TEXTS).tobytes()
    handled(function)
    arrived, chance = 0, np.random.default_rng(0)
    for _ in range(40):
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + chance.random() * 1e-3)
            for _ in range(1000):
                cached.embed_array_sync(TEXTS[:1])
                assert cached.embed_array_sync(TEXTS).tobytes() == right  # array_equal swallows exceptions
        except kind:
            arrived += 1
    assert arrived >= 38  # Python's own library swallows some, as pathlib does ValueErrors
    assert fake.texts == TEXTS
    assert not caplog.records


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in Python's finalizers
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@caches
def test_what_a_handler_raises_during_a_fill_arrives_and_loses_nothing_that_was_stored(
    cache: str, tmp_path: Path, handled: Callable[[Any], object]
) -> None:
    fake = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(fake, CACHES[cache](tmp_path), options=CacheOptions(durable=False))
    handled(raiser(TimeoutError))
    chance, arrived = np.random.default_rng(1), 0
    for number in range(60):
        texts = [f"{number} {at}" for at in range(20)]
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + chance.random() * 3e-3)
        try:
            cached.embed_array_sync(texts)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except TimeoutError:
            arrived += 1
        begun = time.monotonic()
        assert np.array_equal(again(cached, texts), fake.array(texts))
        assert time.monotonic() - begun < 20  # nobody waits for what was claimed by the call that ended
    assert arrived
    before = len(fake.texts)
    asked = [f"{number} {at}" for number in range(60) for at in range(20)]
    assert np.array_equal(again(cached, asked), fake.array(asked))
    assert len(fake.texts) == before
    assert cached.stats.save_failures == 0


def again(cached: CachedEmbeddingModel, texts: list[str]) -> Any:
    """Embed, also where a timer that was late strikes once more."""
    try:
        return cached.embed_array_sync(texts)
    except TimeoutError:
        return cached.embed_array_sync(texts)


@caches
def test_a_handler_may_look_up_in_the_cache_that_it_interrupts(
    cache: str, tmp_path: Path, handled: Callable[[Any], object]
) -> None:
    """Whatever it gets is right: found, or embedded where what it interrupted was in the middle of things."""
    fake = FakeEmbeddingModel()
    store = CACHES[cache](tmp_path)
    if isinstance(store, MemoryStore):
        store.max_bytes = 40_000  # it evicts all the time
    cached = CachedEmbeddingModel(fake, store, options=CacheOptions(durable=False))
    wrong, looked = [], 0

    def handler(*_: object) -> None:
        nonlocal looked
        texts = TEXTS[looked % 250 :][:40]
        looked += 1
        if cached.embed_array_sync(texts).tobytes() != fake.array(texts).tobytes():
            wrong.append(texts)

    handled(handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    end = time.monotonic() + 1
    number = 0
    while time.monotonic() < end:
        number += 1
        texts = [*TEXTS[:20], *(f"{number} {at}" for at in range(20))]
        assert np.array_equal(cached.embed_array_sync(texts), fake.array(texts))
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert looked > 50
    assert not wrong


def test_what_the_caller_is_handling_is_not_taken_for_news(handled: Callable[[Any], object]) -> None:
    """A store fails while a program deals with its time limit: that is the store's trouble, as ever."""
    handled(raiser(TimeoutError))
    try:
        signal.raise_signal(signal.SIGALRM)
    except TimeoutError:
        with suppressed(OSError):
            Path("/missing").stat()
        try:
            Path("/missing").stat()
        except OSError as error:
            pass_on_signals(error)
    with pytest.raises(TimeoutError), suppressed(OSError):
        signal.raise_signal(signal.SIGALRM)
