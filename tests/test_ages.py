"""What pruning needs to know of segments is kept beside their rows: the newest writing, the last use."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from kura_cache_adapters._segments.ages import age_of
from tests.test_forgetting import found, opened, put, url

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters._segments.space import SegmentSpace

__all__ = ["url"]

DAY = 86_400


def segments(space: SegmentSpace) -> list[Path]:
    return sorted(space.path.glob("0*"))


def make_older(space: SegmentSpace, days: float) -> None:
    for path in segments(space):
        os.utime(path, (time.time() - days * DAY, time.time() - days * DAY))


def test_a_hit_marks_its_segment_as_used_once_a_day_and_no_other(url: str) -> None:
    space = opened(url)
    put(space, range(10))
    put(space, range(10, 20))
    make_older(space, days=10)
    for numbers in (range(1), range(3)):  # alone, and several
        make_older(space, days=10)
        assert found(opened(url), numbers)
        used = [time.time() - age_of(path).used < DAY for path in segments(space)]
        assert sorted(used) == [False, True]
    ages = [age_of(path) for path in segments(space)]
    time.sleep(0.01)
    assert found(opened(url), range(3))
    assert [age_of(path) for path in segments(space)] == ages
    assert all(time.time() - age.written > 9 * DAY for age in ages)


def test_a_look_up_in_vain_uses_nothing(url: str) -> None:
    space = opened(url)
    put(space, range(10))
    make_older(space, days=10)
    assert not found(opened(url), range(10, 20))
    if not url.startswith("hf"):  # there a segment is a directory, which is listed to be opened
        assert all(time.time() - age_of(path).used > 9 * DAY for path in segments(space))


def test_a_merge_is_as_old_as_its_youngest_row(url: str) -> None:
    space = opened(url)
    for number in range(7):
        put(space, range(number, number + 1))
    make_older(space, days=3)
    space = opened(url)
    youngest = time.time() - 2 * DAY
    os.utime(segments(space)[0], (time.time() - DAY, youngest))
    written = {path.name for path in segments(space)}
    space._merger._merge(space._listing.refresh(), durable=False)
    (merged,) = segments(space)
    assert merged.name not in written
    assert age_of(merged).written == pytest.approx(youngest, abs=0.01)
    assert age_of(merged).used == pytest.approx(time.time() - DAY, abs=60)


def test_what_is_rewritten_gets_no_younger_by_it(url: str) -> None:
    space = opened(url)
    put(space, range(10))
    make_older(space, days=100)
    opened(url).delete_many([next(iter(space.keys()))])
    (rewritten,) = segments(space)
    assert time.time() - age_of(rewritten).written > 99 * DAY


def test_merges_keep_ages_apart(url: str) -> None:
    """Seven old ones and one that is new are no eight of a kind."""
    old = opened(url)
    for number in range(7):
        put(old, range(number, number + 1))
    make_older(old, days=50)
    space = opened(url)
    found(space, range(7))
    for number in range(7, 30):
        put(space, range(number, number + 1))
    aged = [path for path in segments(space) if time.time() - age_of(path).written > 40 * DAY]
    assert len(aged) == 7
    assert len(segments(space)) < 7 + 23
    assert found(space, range(30)) == [*range(30)]
