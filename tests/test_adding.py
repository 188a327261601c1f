"""Vectors from elsewhere: what `add` takes, refuses, keeps and counts, and what "stored" means over tiers."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    DimensionMismatchError,
    MemoryStore,
    TieredStore,
)
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.fault_lab import WAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import Hits
    from kura_cache_adapters.stores.memory import MemorySpace

MATRIX = np.arange(6, dtype=np.float32).reshape(3, 2)
TEXTS = ["a", "b", "c"]


def of(dimension: int, cache: Any) -> CachedEmbeddingModel:
    return CachedEmbeddingModel(FakeEmbeddingModel(dimension=dimension), cache)


def dimensions(way: str, path: Path) -> set[int]:
    """Return the dimensions of what a cache finds of the texts, one by one, as a new process does."""
    cached = of(8, WAYS[way](path))
    assert cached.cache is not None
    space = cached.cache.store.space(cached.identity())
    keys = [bytes.fromhex(cached.cache_key(text)) for text in [*TEXTS, "more", "other"]]
    return {space.get_many([key]).vectors.shape[1] for key in keys} - {0}


@pytest.mark.parametrize("way", WAYS)
def test_vectors_of_another_dimension_never_lie_beside_those_on_disk(way: str, tmp_path: Path) -> None:
    of(16, WAYS[way](tmp_path)).embed_sync(TEXTS)
    fresh = of(8, WAYS[way](tmp_path))
    with pytest.raises(DimensionMismatchError, match="16"):
        fresh.add(["more"], np.ones((1, 8)))
    with pytest.raises(DimensionMismatchError, match="16"):
        fresh.add(TEXTS, np.ones((3, 8)))
    assert fresh.stats.save_failures == 0  # the caller has heard of it
    assert of(8, WAYS[way](tmp_path)).embed_sync(["other"]) == FakeEmbeddingModel(dimension=8).lists(
        ["other"]
    )
    assert dimensions(way, tmp_path) == {16}
    again = of(16, WAYS[way](tmp_path))
    assert again.missing(TEXTS) == []
    assert again.add(["more"], np.ones((1, 16))) == 1


def test_a_model_that_has_changed_is_answered_and_not_stored(tmp_path: Path, caplog: Any) -> None:
    of(16, tmp_path).embed_sync(TEXTS)
    changed = of(8, tmp_path)
    assert changed.embed_array_sync(["other"]).shape == (1, 8)
    assert changed.stats.save_failures == 1
    assert "holds vectors of 16 dimensions; these have 8" in caplog.text


def test_a_file_of_another_dimension_does_not_decide_for_the_others(tmp_path: Path) -> None:
    of(8, tmp_path / "ours").embed_sync(["one"])
    of(16, tmp_path / "theirs").embed_sync([f"text {at}" for at in range(10)])
    (foreign,), (space,) = (tmp_path / "theirs").rglob("*.arrow"), (tmp_path / "ours").glob("fake-*")
    foreign.rename(space / foreign.name)
    assert of(8, tmp_path / "ours").add(["more"], np.ones((1, 8))) == 1


def polars(values: Any, *nested: Any) -> Any:
    library: Any = pytest.importorskip("polars")
    return library.Series(values, dtype=library.Array(library.Float32, *nested) if nested else None)


def of_arrow(dtype: type[np.generic]) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(MATRIX.ravel().astype(dtype)), 2)


COLUMNS: dict[str, Any] = {
    "float16": lambda: MATRIX.astype(np.float16),
    "a list array": lambda: pa.array(MATRIX.tolist(), pa.list_(pa.float32())),
    "a large list array": lambda: pa.array(MATRIX.tolist(), pa.large_list(pa.float64())),
    "a fixed size list array": lambda: of_arrow(np.float32),
    "a fixed size list array of float16": lambda: of_arrow(np.float16),
    "chunks": lambda: pa.chunked_array([of_arrow(np.float32)[:1], of_arrow(np.float32)[1:]]),
    "tensors": lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(MATRIX),
    "polars lists": lambda: polars(MATRIX.tolist()),
    "polars arrays": lambda: polars(MATRIX.tolist(), 2),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_any_column_of_vectors_may_be_added(kind: str, tmp_path: Path) -> None:
    cached = of(2, tmp_path)
    assert cached.add(pa.array(TEXTS), COLUMNS[kind]()) == 3
    assert of(2, tmp_path).embed_array_sync(TEXTS).tolist() == MATRIX.tolist()
    with pytest.raises(DimensionMismatchError):
        of(2, tmp_path).add(["d", "e"], [[1.0, 2.0], [1.0, 2.0, 3.0]])


@pytest.mark.parametrize("way", WAYS)
def test_a_known_text_keeps_its_vector_unless_it_is_replaced(way: str, tmp_path: Path) -> None:
    cached = of(2, WAYS[way](tmp_path))
    assert cached.add(["a", "b", "a"], [[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]]) == 2
    assert cached.add(["b", "c"], [[9.0, 9.0], [3.0, 3.0]]) == 1
    assert cached.add(["a", "b"], [[9.0, 9.0], [9.0, 9.0]]) == 0
    for reader in (cached, of(2, WAYS[way](tmp_path))):
        assert reader.embed_sync(TEXTS) == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    assert cached.add(["b", "b", "d"], [[7.0, 7.0], [8.0, 8.0], [4.0, 4.0]], replace=True) == 2
    for reader in (cached, of(2, WAYS[way](tmp_path))):
        assert reader.embed_sync([*TEXTS, "d"]) == [[1.0, 1.0], [7.0, 7.0], [3.0, 3.0], [4.0, 4.0]]
    assert cached.stats.stored == 2 + 1 + 2


def test_a_replacement_of_another_dimension_leaves_what_was_there(tmp_path: Path) -> None:
    cached = of(2, tmp_path)
    cached.add(["a"], [[1.0, 2.0]])
    with pytest.raises(DimensionMismatchError):
        cached.add(["a", "b"], np.ones((2, 3)), replace=True)
    with pytest.raises(DimensionMismatchError):
        of(2, tmp_path).add(["b"], np.ones((1, 3)), replace=True)
    assert of(2, tmp_path).embed_sync(["a"]) == [[1.0, 2.0]]


class Refusing(MemoryStore):
    """A store that refuses to be written to."""

    def space(self, identity: ModelIdentity) -> MemorySpace:
        space = super().space(identity)

        def refuse(*_: object, **__: object) -> None:
            raise OSError(28, "full")

        space.put_many = refuse  # type: ignore[method-assign]
        return space


class RefusingOnDisk(Refusing):
    """The same, as one that would keep what it takes."""

    def space(self, identity: ModelIdentity) -> MemorySpace:
        space = super().space(identity)
        space.volatile = False
        return space


TIERS: dict[str, tuple[Callable[[Path], TieredStore], int]] = {
    "memory refuses": (lambda path: TieredStore(Refusing(), ArrowStore(path)), 1),
    "a fast disk refuses": (lambda path: TieredStore(RefusingOnDisk(), ArrowStore(path)), 1),
    "the slowest refuses, a disk has it": (lambda path: TieredStore(ArrowStore(path), RefusingOnDisk()), 1),
    "the disk refuses, memory has it": (lambda _: TieredStore(MemoryStore(), RefusingOnDisk()), 0),
    "the slowest memory refuses": (lambda _: TieredStore(MemoryStore(), Refusing()), 0),
    "all refuse": (lambda _: TieredStore(Refusing(), RefusingOnDisk()), 0),
}


@pytest.mark.parametrize("case", TIERS)
def test_stored_is_what_outlives_the_process(case: str, tmp_path: Path, caplog: Any) -> None:
    make, stored = TIERS[case]
    cached = of(8, make(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert cached.add(["a"], np.ones((1, 8))) == stored
        cached.embed_sync(["b"])
    assert (cached.stats.stored, cached.stats.save_failures) == (2 * stored, 2 * (1 - stored))
    assert "Could not write" in caplog.text
    if stored:
        assert of(8, ArrowStore(tmp_path)).missing(["a", "b"]) == []


@pytest.mark.parametrize("case", [case for case in TIERS if case != "all refuse"])
def test_a_call_that_comes_late_finds_what_any_tier_has(case: str, tmp_path: Path) -> None:
    """It has looked before the other has stored, and embeds after it: it looks again."""
    store = TIERS[case][0](tmp_path)
    cached = of(8, store)
    space = store.space(cached.identity())
    get_many, looked, stored = space.get_many, threading.Event(), threading.Event()

    def look_and_wait(keys: Iterable[bytes]) -> Hits:
        hits = get_many(keys)
        if not looked.is_set():
            looked.set()
            assert stored.wait(30)
        return hits

    space.get_many = look_and_wait  # type: ignore[method-assign]
    answers: list[Any] = []
    late = threading.Thread(target=lambda: answers.append(cached.embed_sync(["a"])))
    late.start()
    assert looked.wait(30)
    cached.embed_sync(["a"])
    stored.set()
    late.join()
    model: Any = cached.embedding_model
    assert answers == [model.lists(["a"])]
    assert model.texts == ["a"]


def test_a_dimension_that_the_disk_refuses_is_in_no_tier(tmp_path: Path) -> None:
    of(16, tmp_path).embed_sync(TEXTS)
    memory = MemoryStore()
    cached = of(8, TieredStore(memory, ArrowStore(tmp_path)))
    with pytest.raises(DimensionMismatchError):
        cached.add(["more"], np.ones((1, 8)))
    assert list(memory.space(cached.identity()).keys()) == []
    cached.close()
