"""Vectors from elsewhere: what `add` takes, what it refuses before it spoils a cache, and what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from kura_cache_adapters import (
    CachedEmbeddingModel,
    DimensionMismatchError,
    MemoryStore,
    TieredStore,
    open_store,
)
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.stores.memory import MemorySpace

CACHES: dict[str, Callable[[Path], Any]] = {
    "arrow": lambda path: open_store(f"arrow://{path}"),
    "parquet": lambda path: open_store(f"parquet://{path}"),
    "jsonl": lambda path: open_store(f"jsonl://{path}"),
    "memory": lambda _: MemoryStore(),
    "memory, arrow": lambda path: TieredStore(MemoryStore(), open_store(f"arrow://{path}")),
}
caches = pytest.mark.parametrize("cache", CACHES)


def model(cache: Any, dimension: int = 8) -> CachedEmbeddingModel:
    return CachedEmbeddingModel(FakeEmbeddingModel(dimension=dimension), cache)


def asked(cached: CachedEmbeddingModel) -> list[str]:
    assert isinstance(cached.embedding_model, FakeEmbeddingModel)
    return cached.embedding_model.texts


@caches
def test_vectors_of_another_dimension_than_the_stored_ones_are_refused(cache: str, tmp_path: Path) -> None:
    store = CACHES[cache](tmp_path)
    model(store, 16).embed_sync(["a", "b"])
    for opened in (store, CACHES[cache](tmp_path)) if cache != "memory" else (store,):
        with pytest.raises(DimensionMismatchError):
            model(opened).add(["c", "d"], np.ones((2, 8)))
        with pytest.raises(DimensionMismatchError):
            model(opened).add(["a"], np.ones((1, 8)))
        cached = model(opened, 16)
        assert cached.missing(["a", "b", "c", "d"]) == [2, 3]
        assert cached.embed_sync(["c"]) == FakeEmbeddingModel(dimension=16).lists(["c"])
        assert cached.cache is not None
        cached.cache.store.space(cached.identity().shared).delete_many([bytes.fromhex(cached.cache_key("c"))])


@caches
def test_a_model_of_another_dimension_spoils_no_cache_that_was_just_opened(
    cache: str, tmp_path: Path
) -> None:
    store = CACHES[cache](tmp_path)
    model(store, 16).embed_sync(["a", "b"])
    opened = store if cache == "memory" else CACHES[cache](tmp_path)
    assert model(opened, 8).embed_sync(["c"]) == FakeEmbeddingModel(dimension=8).lists(["c"])
    cached = model(CACHES[cache](tmp_path) if cache != "memory" else store, 16)
    assert cached.embed_sync(["a", "b", "c"]) == FakeEmbeddingModel(dimension=16).lists(["a", "b", "c"])
    assert asked(cached) == ["c"]


@caches
def test_what_add_says_is_how_many_it_has_stored(cache: str, tmp_path: Path) -> None:
    cached = model(CACHES[cache](tmp_path), 2)
    assert cached.add(["a", "b", "a"], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]) == 2
    assert cached.add(["a", "c"], [[7.0, 8.0], [9.0, 10.0]]) == 1
    assert cached.add(["a", "c"], [[7.0, 8.0], [9.0, 10.0]]) == 0
    assert cached.embed_sync(["a", "b", "c"]) == [[1.0, 2.0], [3.0, 4.0], [9.0, 10.0]]
    assert asked(cached) == []


@caches
def test_known_vectors_are_replaced_where_that_is_said(cache: str, tmp_path: Path) -> None:
    store = CACHES[cache](tmp_path)
    cached = model(store, 2)
    cached.add(["a", "b"], [[1.0, 2.0], [3.0, 4.0]])
    assert cached.add(["a", "c"], [[7.0, 8.0], [9.0, 10.0]], replace=True) == 2
    for opened in (store, CACHES[cache](tmp_path)) if cache != "memory" else (store,):
        assert model(opened, 2).embed_sync(["a", "b", "c"]) == [[7.0, 8.0], [3.0, 4.0], [9.0, 10.0]]


ROWS = [[0.5, 1.5], [-2.0, 0.25]]


@pytest.mark.parametrize(
    "vectors",
    [
        np.array(ROWS, np.float16),
        pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(ROWS)), 2),
        pa.array(ROWS, pa.list_(pa.float32())),
        pa.chunked_array([pa.array(ROWS[:1]), pa.array(ROWS[1:])]),
        tuple(map(np.array, ROWS)),
    ],
    ids=["float16", "fixed-size lists", "lists", "chunks", "arrays"],
)
def test_any_form_in_which_a_model_may_answer_is_taken(vectors: Any) -> None:
    cached = model(MemoryStore(), 2)
    assert cached.add(["a", "b"], vectors) == 2
    assert cached.embed_sync(["a", "b"]) == ROWS


def test_columns_of_polars_are_taken() -> None:
    polars = pytest.importorskip("polars")
    for kind in (polars.List(polars.Float64), polars.Array(polars.Float32, 2)):
        cached = model(MemoryStore(), 2)
        assert cached.add(["a", "b"], polars.Series(ROWS, dtype=kind)) == 2
        assert cached.embed_sync(["a", "b"]) == ROWS


class Full(MemoryStore):
    """A store that takes nothing."""

    def space(self, identity: ModelIdentity) -> MemorySpace:
        space = super().space(identity)
        space.put_many = self.refuse  # type: ignore[method-assign]
        return space

    def refuse(self, *_: object, **__: object) -> None:
        message = "no room"
        raise OSError(message)


def test_what_the_slowest_tier_has_is_stored_though_another_refuses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cached = model(TieredStore(Full(), open_store(tmp_path)))
    cached.embed_sync(["a"])
    assert cached.stats.stored == 1
    assert cached.stats.save_failures == 0
    assert cached.add(["b"], np.ones((1, 8))) == 1
    assert "Could not write to <a space of Full(" in caplog.text
    assert model(open_store(tmp_path)).missing(["a", "b"]) == []


async def test_what_a_fast_tier_alone_has_is_not_stored_but_paid_for_once() -> None:
    """The second call has looked before the first one's vector was there, and looks again."""
    import asyncio

    cached = model(TieredStore(MemoryStore(), Full()))
    await asyncio.gather(*(cached.embed(["a"]) for _ in range(5)))
    await cached.embed(["a"])
    assert cached.stats.stored == 0
    assert cached.stats.save_failures == 1
    assert asked(cached) == ["a"]
