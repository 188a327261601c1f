"""What is seen of a cache, and what goes of it: whole segments, for all processes, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import (
    ArrowStore,
    MemoryStore,
    SpaceBusyError,
    TieredStore,
    UnsupportedError,
    open_cache,
    open_store,
)
from kura_cache_adapters._disk import locks
from kura_cache_adapters._segments import cleaning
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.testing.stores import IDENTITY
from tests.test_forgetting import found, opened, put, url

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters._segments.space import SegmentSpace

__all__ = ["url"]

DAY = 86_400.0


def aged(space: SegmentSpace, numbers: range, days: float) -> None:
    before = {*space.path.glob("0*")}
    put(space, numbers)
    for path in {*space.path.glob("0*")} - before:
        os.utime(path, (time.time() - days * DAY, time.time() - days * DAY))


def test_what_is_too_old_or_too_much_goes_and_a_dry_run_changes_nothing(url: str) -> None:
    space, cache = opened(url), open_cache(url)
    for at, days in enumerate((40, 20, 1)):
        aged(space, range(10 * at, 10 * at + 10), days)
    plan = cache.prune(older_than=timedelta(days=30), dry_run=True)
    assert (plan.parts, plan.entries, plan.dry_run, len(cache)) == (1, 10, True, 30)
    assert cache.prune(older_than=30 * DAY).spaces == plan.spaces
    assert found(opened(url), range(30)) == [*range(10, 30)]
    (info,) = cache.spaces()
    assert info.nbytes is not None
    cache.prune(max_bytes=info.nbytes - 1, model=info.name)
    assert found(opened(url), range(30)) == [*range(20, 30)]
    assert cache.prune(unused_for=5 * DAY).parts == 0


def test_a_compact_space_has_one_segment_and_the_same_rows(url: str) -> None:
    space, cache = opened(url), open_cache(url)
    for at in range(5):
        put(space, range(10 * at, 10 * at + 10))
    assert cache.compact().parts == 4
    assert cache.compact().spaces == ()
    assert found(opened(url), range(50)) == [*range(50)]
    assert cache.stats().parts == 1


def test_a_removed_space_is_gone_and_can_be_filled_anew(url: str) -> None:
    space, cache = opened(url), open_cache(url)
    put(space, range(10))
    assert cache.rm(IDENTITY.model_name).entries == 10
    assert (cache.spaces(), len(cache), bool(cache)) == ([], 0, True)
    put(space, range(5))
    assert found(opened(url), range(10)) == [*range(5)]


def test_writing_keeps_a_store_within_its_bounds(url: str) -> None:
    old = opened(url)
    aged(old, range(10), 40)
    store = open_store(f"{url}?ttl=30d&max_bytes=10e9")
    put(store.space(IDENTITY), range(10, 20))
    assert found(opened(url), range(20)) == [*range(10, 20)]


def test_memory_says_that_it_cannot_be_pruned() -> None:
    store = MemoryStore()
    put(store.space(IDENTITY), range(3))
    with pytest.raises(UnsupportedError, match="max_bytes="):
        open_cache(store).prune(older_than=1)
    assert open_cache(store).clear().entries == 3


def test_a_bound_that_is_none_and_a_name_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="say what is to go"):
        open_cache(tmp_path).prune()
    with pytest.raises(ValueError, match="there is no space"):
        open_cache(tmp_path).rm("typo")
    with pytest.raises(ValueError, match="ttl=0"):
        ArrowStore(tmp_path, ttl=0)


def test_over_tiers_each_that_is_on_disk_is_cleaned(tmp_path: Path) -> None:
    near, far = ArrowStore(tmp_path / "near"), open_store(f"parquet://{tmp_path}/far")
    tiers = TieredStore(MemoryStore(), near, far)
    put(tiers.space(IDENTITY), range(10))
    for path in tmp_path.glob("*/*/0*"):
        os.utime(path, (0, 0))
    cache = open_cache(tiers)
    assert cache.prune(older_than=DAY, dry_run=True).parts == 2
    assert cache.prune(older_than=DAY).entries == 20
    assert found(near.space(IDENTITY), range(10)) == []
    assert found(far.space(IDENTITY), range(10)) == []
    put(tiers.space(IDENTITY), range(10, 20))
    assert cache.rm(IDENTITY.model_name).entries == 20 + 20  # what memory holds is counted with them
    assert found(tiers.space(IDENTITY), range(20)) == []


def test_a_space_in_which_another_merges_is_left_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "_PATIENCE", 1)
    store = ArrowStore(tmp_path)
    busy, other = (store.space(ModelIdentity.of(name)) for name in ("busy", "other"))
    for space in (busy, other):
        aged(space, range(10), 40)
    cache = open_cache(store)
    with locks.try_lock(busy.path) as alone:
        assert alone
        assert cache.prune(older_than=DAY, dry_run=True).parts == 2
        with pytest.raises(SpaceBusyError, match=busy.path.name) as caught:
            cache.prune(older_than=DAY)
    assert caught.value.names == (busy.path.name,)
    assert caught.value.receipt is not None
    assert caught.value.receipt.entries == 10
    assert [len(found(space, range(10))) for space in (busy, other)] == [10, 0]
    assert cache.prune(older_than=DAY).entries == 10


def test_no_merge_of_another_process_brings_back_what_was_pruned(tmp_path: Path) -> None:
    writer, cache = ArrowStore(tmp_path).space(IDENTITY), open_cache(tmp_path)
    for at in range(60):
        aged(writer, range(at, at + 1), 40)
        if at % 10 == 9:  # the writer has these open, and merges what is left of them later
            found(writer, range(at + 1))
            cache.prune(older_than=DAY)
    put(writer, range(100, 101))
    cache.prune(older_than=DAY)
    assert found(ArrowStore(tmp_path).space(IDENTITY), range(101)) == [100]


def test_a_kill_in_the_middle_of_compacting_loses_nothing(tmp_path: Path) -> None:
    space = ArrowStore(tmp_path).space(IDENTITY)
    for at in range(40):
        put(space, range(50 * at, 50 * at + 50))
    code = "import sys; from kura_cache_adapters import open_cache\nwhile True: {}.compact()"
    program = code.format("open_cache(sys.argv[1])")
    for wait in (0.0, 0.005, 0.02, 0.05):
        running = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
        while running.poll() is None and not [*space.path.glob(".0*")] and len([*space.path.glob("0*")]) > 1:
            time.sleep(0.001)
        time.sleep(wait)
        running.kill()
        running.wait()
        assert found(ArrowStore(tmp_path).space(IDENTITY), range(2000)) == [*range(2000)]
        put(space, range(2000, 2001))
    assert open_cache(tmp_path).compact() is not None
    assert found(ArrowStore(tmp_path).space(IDENTITY), range(2001)) == [*range(2001)]


def test_a_manager_that_lists_nothing_says_that_it_cannot_be_emptied() -> None:
    class Manager:
        def is_enabled(self) -> bool:
            return True

        def load_checkpoint(self, *_: Any) -> None:
            return None

        def save_checkpoint(self, *_: Any) -> None:
            pass

    cache = open_cache(Manager())
    put(cache.store.space(IDENTITY), range(3))
    for refused in (cache.clear, cache.compact, lambda: len(cache)):
        with pytest.raises(UnsupportedError):
            refused()


def test_a_model_of_several_spaces_is_told_apart_by_their_names(tmp_path: Path) -> None:
    store = ArrowStore(tmp_path)
    spaces = [store.space(ModelIdentity.of("same", {"at": at})) for at in range(2)]
    for space in spaces:
        put(space, range(3))
    cache = open_cache(store)
    with pytest.raises(ValueError, match="has 2 spaces") as caught:
        cache.stats("same")
    assert all(space.path.name in str(caught.value) for space in spaces)
    assert cache.stats(spaces[0].path.name).rows == 3
    assert cache.prune(max_bytes=0, model="same", dry_run=True).entries == 6


async def test_a_cache_is_closed_by_async_with(tmp_path: Path) -> None:
    put(ArrowStore(tmp_path).space(IDENTITY), range(3))
    async with open_cache(tmp_path) as cache:
        assert len(cache) == 3
