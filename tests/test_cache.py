"""A cache without a model: what it holds is told by itself, whatever it was opened by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import (
    Cache,
    CachedEmbeddingModel,
    JSONLCheckpointManager,
    MemoryStore,
    ParquetStore,
    open_cache,
)
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from pathlib import Path

WAYS: dict[str, Any] = {
    "a path": lambda path: path,
    "a url": lambda path: f"parquet://{path}",
    "a store": ParquetStore,
    "a manager": JSONLCheckpointManager,
}


@pytest.mark.parametrize("way", WAYS)
def test_it_tells_what_it_holds_without_a_model(way: str, tmp_path: Path) -> None:
    model = CachedEmbeddingModel(FakeEmbeddingModel(dimension=3), WAYS[way](tmp_path), version=2)
    model.embed_sync(["a", "b"])
    model.embed_sync(["c"], role="query")
    with open_cache(WAYS[way](tmp_path)) as cache:
        (identity,) = (space.identity for space in cache.spaces())
        stats = cache.stats(identity)
        assert (identity.model_name, stats.rows, stats.dimension) == ("fake", 3, 3)
        assert stats.nbytes > 0
        keys = [bytes.fromhex(model.cache_key(text)) for text in "azb"]
        assert set(cache.keys(identity)) >= {keys[0], keys[2]}
        assert cache.missing(identity, [*keys, *keys]) == [keys[1]]


def test_a_models_cache_is_the_same_and_takes_its_identity(tmp_path: Path) -> None:
    model = CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path)
    model.embed_sync(["a"])
    assert isinstance(model.cache, Cache)
    assert model.cache.stats(model.identity()).rows == 1
    assert CachedEmbeddingModel(FakeEmbeddingModel()).cache is None


def test_a_store_that_was_handed_in_open_stays_open() -> None:
    store = MemoryStore()
    model = CachedEmbeddingModel(FakeEmbeddingModel(), store)
    model.embed_sync(["a"])
    open_cache(store).close()
    model.close()
    assert model.cache is not None
    assert model.cache.stats(model.identity()).rows == 1


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="switched off"):
        open_cache(JSONLCheckpointManager(tmp_path, enabled=False))
    with pytest.raises(TypeError, match="int is no cache"):
        open_cache(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no store for nfs://"):
        open_cache("nfs://bucket")


def test_a_failing_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((OSError, ValueError)):
        open_cache(tmp_path / "file").spaces()
