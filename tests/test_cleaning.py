"""What is seen of a cache, and what goes of it: whole segments, for all processes, and nothing else."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from kura_cache_adapters import ArrowStore, MemoryStore, UnsupportedError, open_cache, open_store
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
