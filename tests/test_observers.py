"""One seam for what happens: events, observers, the bar, and the threads that a call goes through."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    CacheOptions,
    CallableEmbeddingModel,
    Embedded,
    Failed,
    LookedUp,
    MemoryStore,
    Stored,
    TieredStore,
)
from kura_cache_adapters._runtime import threads
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.test_concurrency import in_child

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters import Event


class Ledger(list[Any]):
    """An observer that keeps what it hears."""

    __call__ = list.append

    def of(self, kind: type) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


def observed(cache: Any, **options: Any) -> tuple[CachedEmbeddingModel, Ledger]:
    ledger = Ledger()
    model = FakeEmbeddingModel(dimension=3)
    return CachedEmbeddingModel(model, cache, options=CacheOptions(observers=[ledger], **options)), ledger


class Broken:
    """A store that can do nothing."""

    def space(self, identity: Any) -> Any:  # noqa: ARG002 - a store's signature
        raise OSError(28, "No space left on device")

    def spaces(self) -> list[Any]:
        return []

    def close(self) -> None:
        pass


def test_a_call_is_told_in_counts_seconds_and_bytes(tmp_path: Path) -> None:
    cached, ledger = observed(tmp_path, chunk_size=2)
    cached.embed_sync(["a"])
    del ledger[:]
    cached.embed_sync(["a", "b", "b", "c", "d"])
    (looked,) = ledger.of(LookedUp)
    assert (looked.texts, looked.hits, looked.missing, looked.repeated) == (5, 1, 3, 1)
    assert (looked.model, looked.readable, looked.invalid, looked.tiers) == ("fake", True, 0, ())
    assert [event.texts for event in ledger.of(Embedded)] == [2, 1]
    assert {event.call for event in ledger.of(Embedded)} == {looked.call}
    assert [(event.entries, event.nbytes) for event in ledger.of(Stored)] == [(2, 24), (1, 12)]
    assert all(event.seconds > 0 for event in ledger)


def test_a_hit_is_one_event_and_calls_have_numbers_of_their_own(tmp_path: Path) -> None:
    cached, ledger = observed(tmp_path)
    cached.embed_sync(["a"])
    del ledger[:]
    cached.embed_sync(["a"])
    asyncio.run(cached.embed_array(["a", "a"]))
    assert [type(event) for event in ledger] == [LookedUp, LookedUp]
    assert ledger[0].call != ledger[1].call


def test_stats_are_what_the_events_add_up_to(tmp_path: Path) -> None:
    cached, ledger = observed(tmp_path)
    for texts in (["a", "a", "b"], ["b", "c"], []):
        cached.embed_sync(texts)
    stats = cached.stats
    assert stats.hits == sum(event.hits for event in ledger.of(LookedUp)) == 1
    assert stats.misses == sum(event.texts for event in ledger.of(Embedded)) == 3
    assert stats.duplicates == sum(event.repeated for event in ledger.of(LookedUp)) == 1
    assert stats.stored == sum(event.entries for event in ledger.of(Stored)) == 3


async def test_what_another_call_embeds_is_shared_and_paid_once(tmp_path: Path) -> None:
    cached, ledger = observed(tmp_path)
    await asyncio.gather(*(cached.embed(["a", "b"]) for _ in range(3)))
    assert sum(event.texts for event in ledger.of(Embedded)) == 2
    hits = sum(event.hits for event in ledger.of(LookedUp))
    assert sum(event.shared for event in ledger.of(Embedded)) + hits == 4


def test_a_tiered_store_says_which_tier_had_what(tmp_path: Path) -> None:
    CachedEmbeddingModel(FakeEmbeddingModel(dimension=3), ArrowStore(tmp_path)).embed_sync(["a", "b"])
    cached, ledger = observed(TieredStore(MemoryStore(), ArrowStore(tmp_path)))
    cached.embed_sync(["a"])
    cached.embed_sync(["a", "b", "c"])
    cached.embed_sync(["a"])
    assert [event.tiers for event in ledger.of(LookedUp)] == [(0, 1), (1, 1), (1,)]


def test_a_failing_store_is_told_each_time_and_logged_once(caplog: Any) -> None:
    cached, ledger = observed(Broken())
    with caplog.at_level(logging.WARNING):
        cached.embed_sync(["a"])
        cached.embed_sync(["a"])
    assert [event.action for event in ledger.of(Failed)] == ["read", "write", "read", "write"]
    assert [event.readable for event in ledger.of(LookedUp)] == [False, False]
    assert "No space left" in ledger.of(Failed)[0].reason
    assert len(caplog.records) == 2
    assert {record.name for record in caplog.records} == {"kura_cache_adapters.store"}


def gone(_: list[str]) -> None:
    raise ConnectionError


def test_a_failing_model_is_told_and_its_error_reaches_the_caller(tmp_path: Path) -> None:
    cached, ledger = observed(tmp_path)
    cached.embedding_model.fault = gone  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError):
        cached.embed_sync(["a"])
    (failed,) = ledger.of(Failed)
    assert (failed.action, failed.call) == ("embed", ledger.of(LookedUp)[0].call)


def test_an_observer_that_fails_costs_one_warning_and_nothing_else(tmp_path: Path, caplog: Any) -> None:
    def broken(event: Event) -> None:
        raise ValueError(event)

    heard = Ledger()
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, tmp_path, options=CacheOptions(observers=[broken, heard]))
    assert cached.embed_sync(["a"]) == cached.embed_sync(["a"]) == model.lists(["a"])
    assert cached.stats.hits == 1
    assert len(heard) == 4
    assert [record.name for record in caplog.records] == ["kura_cache_adapters.observers"]


@pytest.mark.parametrize("observers", [print, ["print"], {print}, 1])
def test_observers_are_a_list_of_callables(observers: Any) -> None:
    with pytest.raises(TypeError, match="observers must be a list of callables"):
        CacheOptions(observers=observers)


def slow(texts: list[str]) -> list[list[float]]:
    time.sleep(0.08 * len(texts))
    return [[float(len(text))] for text in texts]


def with_a_bar(cache: Any) -> CachedEmbeddingModel:
    model = CallableEmbeddingModel(slow, model_name="slow")
    return CachedEmbeddingModel(model, cache, options=CacheOptions(progress=True, chunk_size=1))


def test_a_call_has_one_bar_that_tells_hits_from_misses(tmp_path: Path, capfd: Any) -> None:
    cached = with_a_bar(tmp_path)
    cached.embed_sync(["a"])
    capfd.readouterr()
    cached.embed_sync(["a", *"bcdef"])
    shown = capfd.readouterr().err
    assert "slow: 100%" in shown
    assert "6/6" in shown
    assert "1 from the cache" in shown
    assert "0/6" not in shown


def test_what_is_done_at_once_shows_nothing(tmp_path: Path, capfd: Any) -> None:
    options = CacheOptions(progress=True)
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path, options=options)
    cached.embed_sync(["a", "b"])
    cached.embed_sync(["a", "b"])
    assert capfd.readouterr().err == ""


def test_the_bar_of_a_call_that_fails_is_closed(tmp_path: Path, capfd: Any) -> None:
    def fails_in_the_end(texts: list[str]) -> list[list[float]]:
        if texts == ["d"]:
            raise ConnectionError
        return slow(texts)

    model = CallableEmbeddingModel(fails_in_the_end, model_name="slow")
    cached = CachedEmbeddingModel(model, tmp_path, options=CacheOptions(progress=True, chunk_size=1))
    with pytest.raises(ConnectionError):
        cached.embed_sync([*"abcd"])
    progress: Any = cached._observe._others[-1]
    assert not progress._bars
    assert "3/4" in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_forked_while_a_bar_is_drawn_has_bars_of_its_own(tmp_path: Path, capfd: Any) -> None:
    cached = with_a_bar(tmp_path)
    drawing = threading.Thread(target=cached.embed_sync, args=([*"abcdefgh"],))
    drawing.start()
    time.sleep(0.2)
    in_child(lambda: cached.embed_sync([*"uvwxyz"]))
    drawing.join()
    capfd.readouterr()


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count each time that a call goes on in another thread."""
    seen: list[str] = []
    submit, threadsafe = threads._submit, asyncio.BaseEventLoop.call_soon_threadsafe

    def submitting(*arguments: Any) -> Any:
        seen.append("to a pool")
        return submit(*arguments)

    def posting(self: Any, callback: Any, *arguments: Any, **more: Any) -> Any:
        if getattr(self, "_thread_id", None) not in {None, threading.get_ident()}:
            seen.append("to a loop")
        return threadsafe(self, callback, *arguments, **more)

    monkeypatch.setattr(threads, "_submit", submitting)
    monkeypatch.setattr(asyncio.BaseEventLoop, "call_soon_threadsafe", posting)
    return seen


@pytest.mark.parametrize(("texts", "most"), [(["a"], 0), (["b"], 4)], ids=["hit", "miss"])
def test_a_sync_call_changes_threads_so_often_at_most(
    texts: list[str], most: int, tmp_path: Path, changes: list[str]
) -> None:
    cached, _ = observed(tmp_path)
    cached.embed_sync(["a"])
    changes.clear()
    cached.embed_sync(texts)
    home = texts != ["a"]  # and back to the caller
    assert len(changes) + home <= most, changes


@pytest.mark.parametrize(
    ("texts", "most"),
    [(["a"], 0), (["a"] * 33, 2), (["b"], 8)],
    ids=["small hit", "hit", "miss"],
)
async def test_an_async_call_changes_threads_so_often_at_most(
    texts: list[str], most: int, tmp_path: Path, changes: list[str]
) -> None:
    cached, _ = observed(tmp_path)
    for _ in range(2):  # it is written, then opened
        await cached.embed(["a"])
    changes.clear()
    await cached.embed(texts)
    assert len(changes) <= most, changes
