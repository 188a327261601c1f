"""Time limits that strike anywhere in a hit: what their handlers raise arrives, and nothing is paid for."""

from __future__ import annotations

import gc
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, MemoryStore, TieredStore
from kura_cache_adapters.stores import ArrowStore, ParquetStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.acme_vectors.store import DictStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # between open and with
@caches
@pytest.mark.parametrize("kind", [SoftTimeLimitError, TimeoutError])
def test_what_a_handler_raises_during_a_hit_arrives_and_costs_nothing(
    cache: str,
    kind: type[Exception],
    tmp_path: Path,
    handled: Callable[[Any], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(fake, CACHES[cache](tmp_path), options=CacheOptions(durable=False))
    right = cached.embed_array_sync(TEXTS).tobytes()
    handled(raiser(kind))
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
