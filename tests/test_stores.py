"""Every store keeps the contract of stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import open_store
from kura_cache_adapters.checkpoints import JSONLCheckpointManager
from kura_cache_adapters.stores import (
    ArrowStore,
    CheckpointStore,
    HFDatasetStore,
    JSONLStore,
    MemoryStore,
    ParquetStore,
    TieredStore,
)
from kura_cache_adapters.stores.memory import MemorySpace
from kura_cache_adapters.testing import StoreContract
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of
from tests.test_key_value import DictStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore


class TestArrowStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: ArrowStore(tmp_path / "cache")


class TestReadArrowStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: ArrowStore(tmp_path / "cache", mapped=False)


class TestReadParquetStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: ParquetStore(tmp_path / "cache", mapped=False)


class TestParquetStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: ParquetStore(tmp_path / "cache")


class TestCompressedParquetStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: ParquetStore(tmp_path / "cache", compression="zstd")


class TestJSONLStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: JSONLStore(tmp_path / "cache")


class TestHFDatasetStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        pytest.importorskip("datasets", reason="needs the extra `datasets`")
        return lambda: HFDatasetStore(tmp_path / "cache")


class TestMemoryStore(StoreContract):
    persistent = False

    @pytest.fixture
    def open_store(self) -> Callable[[], EmbeddingStore]:
        return MemoryStore


class TestTieredStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: TieredStore(MemoryStore(), ArrowStore(tmp_path / "cache"))


class TestCheckpointStore(StoreContract):
    counts_spaces = False
    examples = 5

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: CheckpointStore(JSONLCheckpointManager(tmp_path / "cache"))


@pytest.mark.parametrize("scheme", ["arrow", "jsonl"])
def test_what_is_let_go_while_it_is_read_is_read_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A look-up of much lets the file's pages go; they come back as they were."""
    monkeypatch.setattr("kura_cache_adapters._segments.search._MANY_BYTES", 1)
    numbers = list(range(3000))
    for half in (numbers[::2], numbers[1::2]):
        open_store(f"{scheme}://{tmp_path}").space(IDENTITY).put_many(map(key_of, half), vectors_of(half))
    space = open_store(f"{scheme}://{tmp_path}").space(IDENTITY)
    for _ in range(2):
        hits = space.get_many(map(key_of, [*numbers, 5000]))
        assert hits.positions.tolist() == numbers
        assert np.array_equal(hits.vectors, vectors_of(numbers))


@pytest.mark.parametrize(("first", "second"), [("f4", "f8"), ("f8", "f4")])
@pytest.mark.parametrize("make", [ArrowStore, ParquetStore, lambda _: DictStore({})])
def test_room_for_vectors_is_not_taken_for_numbers_before_they_come(
    make: Callable[[Path], EmbeddingStore],
    first: str,
    second: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty = np.empty

    def used_before(shape: Any, dtype: Any = float) -> Any:
        array = empty(shape, dtype)
        if array.dtype == np.float32:
            array.view(np.uint32).fill(0x7FA00000)  # a NaN that a cast to float64 warns of
        return array

    space = make(tmp_path).space(IDENTITY)
    for number, dtype in ((1, first), (2, second)):
        space.put_many([key_of(number)], vectors_of([number], dtype=dtype) / np.array(3, dtype))
    monkeypatch.setattr("kura_cache_adapters.stores.key_value.chunk_rows", lambda _: 1)
    monkeypatch.setattr(np, "empty", used_before)
    assert len(space.get_many([key_of(number) for number in range(9)]).positions) == 2


class Refusing(MemoryStore):
    """A store that refuses to be written to, for a while."""

    refuses = True

    def space(self, identity: ModelIdentity) -> Any:
        space = super().space(identity)
        put_many = MemorySpace.put_many

        def put(keys: Any, vectors: Any, *, durable: bool = True) -> None:
            if self.refuses:
                message = "full"
                raise OSError(message)
            put_many(space, keys, vectors, durable=durable)

        space.put_many = put  # type: ignore[method-assign]
        return space


@pytest.mark.parametrize("next_use", ["a batch", "none"])
def test_what_a_tier_has_refused_it_gets_when_it_works_again(next_use: str) -> None:
    slow = Refusing()
    store = TieredStore(MemoryStore(), slow)
    space = store.space(IDENTITY)
    with pytest.raises(OSError, match="full"):
        space.put_many([key_of(1), key_of(2)], vectors_of([1, 2]))
    space.delete_many([key_of(2)])
    slow.refuses = False
    if next_use == "a batch":
        space.put_many([key_of(3)], vectors_of([3]))
    else:
        space.catch_up()
    expected = [1, 3] if next_use == "a batch" else [1]
    hits = slow.space(IDENTITY).get_many(map(key_of, [1, 3]))
    assert np.array_equal(hits.vectors, vectors_of(expected))
    assert list(slow.space(IDENTITY).get_many([key_of(2)]).positions) == []


def test_a_tier_that_cannot_be_read_does_not_end_what_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = MemoryStore(), Refusing()
    space = TieredStore(fast, slow).space(IDENTITY)
    with pytest.raises(OSError, match="full"):
        space.put_many([key_of(1)], vectors_of([1]))
    slow.refuses = False
    with monkeypatch.context() as patch:
        patch.setattr(fast.space(IDENTITY), "get_many", lambda _: 1 / 0)
        space.put_many([key_of(2)], vectors_of([2]))
    space.put_many([key_of(3)], vectors_of([3]))
    hits = slow.space(IDENTITY).get_many(map(key_of, [1, 2, 3]))
    assert np.array_equal(hits.vectors, vectors_of([1, 2, 3]))
