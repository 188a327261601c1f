"""The index of a segment's key prefixes finds what a search without it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kura_cache_adapters import open_store
from kura_cache_adapters._segments import prefix_index
from kura_cache_adapters._segments.prefix_index import IndexOnce, PrefixIndex, slots_of
from kura_cache_adapters.stores import ArrowStore
from kura_cache_adapters.testing import StoreContract
from kura_cache_adapters.testing.stores import IDENTITY, key_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kura_cache_adapters.protocols import EmbeddingStore

ANY = st.integers(0, 2**64 - 1) | st.integers(0, 40) | st.integers(2**64 - 40, 2**64 - 1)


@given(st.lists(ANY, min_size=1, max_size=200), st.lists(ANY, max_size=60))
@settings(deadline=None, derandomize=True, database=None)
def test_it_finds_the_place_of_whatever_is_sought_and_lets_pass_what_is_there(
    rows: list[int], others: list[int]
) -> None:
    prefixes = np.sort(np.array(rows, np.uint64))
    index = PrefixIndex(prefixes)
    sought = np.sort(np.array([*rows[:3], *others], np.uint64))
    assert index.places(sought).tolist() == np.searchsorted(prefixes, sought).tolist()
    at, bit = slots_of(prefixes, index.shift)
    assert (index.bits[at] & bit).all()
    assert all(map(index.may_have, rows))


def test_few_of_those_that_are_not_there_pass() -> None:
    chance = np.random.default_rng(0)
    index = PrefixIndex(np.sort(chance.integers(0, 2**64, 5000, dtype=np.uint64)))
    passed = sum(index.may_have(int(other)) for other in chance.integers(0, 2**64, 5000, dtype=np.uint64))
    assert passed < 5000 / 12
    assert index.bits.nbytes <= 4 * 5000


def test_it_is_made_when_an_eighth_of_the_rows_was_looked_up_and_only_of_many() -> None:
    prefixes, once = np.arange(4096, dtype=np.uint64), IndexOnce()
    assert once.asked(prefixes, 512) is None
    assert once.asked(prefixes, 1) is once.index is not None
    assert IndexOnce().asked(prefixes[:2047], 10**6) is None


class TestIndexedStore(StoreContract):
    """The laws of a store, with an index of each segment from the first look-up on."""

    @pytest.fixture(params=["arrow", "parquet", "jsonl", "arrow read"])
    def open_store(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> Callable[[], EmbeddingStore]:
        monkeypatch.setattr(prefix_index, "_FEWEST", 1)
        monkeypatch.setattr(prefix_index, "_WORTH", 1_000_000)
        scheme, _, read = request.param.partition(" ")
        return lambda: open_store(f"{scheme}://{tmp_path}" + "?mapped=false" * bool(read))


def test_short_vectors_lie_in_few_segments(tmp_path: Path) -> None:
    space = ArrowStore(tmp_path).space(IDENTITY)
    for start in range(0, 160_000, 10_000):
        numbers = range(start, start + 10_000)
        space.put_many(map(key_of, numbers), np.ones((10_000, 4), np.float32), durable=False)
    space.close()  # when what merges beside has ended
    assert space.stats().parts <= 10
    assert len(space.get_many(map(key_of, range(160_000))).positions) == 160_000
