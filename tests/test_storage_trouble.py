"""Broken storage: the answer is the bare model's, with one warning, and no vector is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, TieredStore, open_store
from kura_cache_adapters._identity.keys import text_keys
from kura_cache_adapters._segments.directory import SegmentStore
from kura_cache_adapters._segments.rows import checksum_of, checksums_of
from kura_cache_adapters.checks import key_matrix
from kura_cache_adapters.errors import DamagedSegmentError
from kura_cache_adapters.protocols import Hits
from kura_cache_adapters.stores import ArrowStore, MemoryStore, ParquetStore
from kura_cache_adapters.stores.arrow import ArrowFormat
from kura_cache_adapters.stores.parquet import ParquetFormat
from kura_cache_adapters.testing import FakeEmbeddingModel
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters._segments.rows import Rows

TEXTS = [f"text {at}" for at in range(40)]
SCHEMES = ["arrow", "parquet", "jsonl", "hf"]


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> str:
    if request.param == "hf":
        pytest.importorskip("datasets", reason="needs the extra `datasets`")
    scheme: str = request.param
    return scheme


def assert_like_the_bare_model(cache: object, caplog: Any, warnings: int = 1) -> CachedEmbeddingModel:
    model = FakeEmbeddingModel(dimension=384)
    cached = CachedEmbeddingModel(model, cache)  # type: ignore[arg-type]
    for _ in range(3):
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
    assert len(model.calls) == 3
    assert [record.levelname for record in caplog.records].count("WARNING") == warnings
    assert cached.stats.save_failures == 3
    return cached


class Broken:
    """A store of somebody's whose every method fails, but for `space` when it opens."""

    def __init__(self, *, opens: bool) -> None:
        self.opens = opens

    def space(self, _: object) -> Broken:
        if not self.opens:
            self.fail()
        return self

    def fail(self, *_: object, **__: object) -> Any:
        raise RuntimeError

    spaces = close = get_many = put_many = fail


@pytest.mark.parametrize("opens", [True, False])
def test_a_foreign_store_that_fails(opens: bool, caplog: Any) -> None:  # noqa: FBT001
    assert_like_the_bare_model(Broken(opens=opens), caplog, warnings=2)


class Lying(MemoryStore):
    """A store whose answers are no answers."""

    hits: Hits

    def space(self, _: object) -> Any:
        return self

    def get_many(self, _: object) -> Hits:
        return self.hits


LIES = {
    "beyond": Hits(np.array([0, 7]), np.ones((2, 8), np.float32)),
    "before": Hits(np.array([-1, 0]), np.ones((2, 8), np.float32)),
    "twice": Hits(np.array([1, 1]), np.ones((2, 8), np.float32)),
    "falling": Hits(np.array([1, 0]), np.ones((2, 8), np.float32)),
    "too few": Hits(np.array([0, 1]), np.ones((1, 8), np.float32)),
    "flat": Hits(np.array([0]), np.ones(1, np.float32)),
    "integers": Hits(np.array([0]), np.ones((1, 8), np.int64)),  # type: ignore[arg-type]
    "no positions": Hits(np.array([0.0]), np.ones((1, 8), np.float32)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_foreign_store_that_answers_nonsense_is_not_believed(lie: str) -> None:
    model, store = FakeEmbeddingModel(), Lying()
    store.hits = LIES[lie]
    for cache in (store, TieredStore(store, MemoryStore())):
        assert CachedEmbeddingModel(model, cache).embed_sync(["a", "b"]) == model.lists(["a", "b"])


def test_a_failing_tier_leaves_the_others_at_work(tmp_path: Path, caplog: Any) -> None:
    model = FakeEmbeddingModel()
    store = TieredStore(Broken(opens=True), ArrowStore(tmp_path))  # type: ignore[arg-type]
    assert CachedEmbeddingModel(model, store).embed_sync(TEXTS) == model.lists(TEXTS)
    assert CachedEmbeddingModel(model, store).embed_sync(TEXTS) == model.lists(TEXTS)
    assert len(model.calls) == 1
    assert "Could not read from" in caplog.text


def segments(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != "_identity.json")


def test_no_flipped_bit_of_a_parquet_footer_reaches_the_parser(tmp_path: Path) -> None:
    space = open_store(f"parquet://{tmp_path}").space(IDENTITY)
    space.put_many(text_keys(IDENTITY.head("document"), TEXTS), FakeEmbeddingModel().array(TEXTS))
    [file] = segments(tmp_path)
    whole = file.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for bit in range(8 * footer, 8 * len(whole), 7):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        with pytest.raises(DamagedSegmentError):
            ParquetFormat(None).read(file)


def test_merged_segments_hold_what_their_parts_held(tmp_path: Path, scheme: str) -> None:
    space = open_store(f"{scheme}://{tmp_path}").space(IDENTITY)
    for number in range(130):
        space.put_many([key_of(number), key_of(0)], vectors_of([number, 0]))
        assert len(space.get_many([key_of(number)]).positions) == 1
    assert space.stats().parts < 25
    hits = open_store(f"{scheme}://{tmp_path}").space(IDENTITY).get_many(map(key_of, range(130)))
    assert np.array_equal(hits.vectors, vectors_of(list(range(130))))


def test_a_merge_sets_damaged_rows_aside_and_never_deletes_them(tmp_path: Path) -> None:
    space = ArrowStore(tmp_path).space(IDENTITY)
    for number in range(7):
        space.put_many([key_of(number), key_of(number + 100)], vectors_of([number, number + 100]))
    damaged = next(f for f in segments(tmp_path) if vectors_of([3]).tobytes() in f.read_bytes())
    damaged.write_bytes(damaged.read_bytes().replace(vectors_of([3]).tobytes(), vectors_of([9]).tobytes()))
    fresh = ArrowStore(tmp_path).space(IDENTITY)
    fresh.put_many([key_of(7)], vectors_of([7]))
    fresh.put_many([key_of(8), key_of(108)], vectors_of([8, 108]))
    hits = fresh.get_many(map(key_of, [*range(9), *range(100, 107)]))
    assert sorted({*range(16)} - {*hits.positions.tolist()}) == [3]
    assert [file.name for file in segments(tmp_path) if file.name.endswith(".damaged")] == [
        f"_{damaged.name}.damaged",
    ]


def test_compressed_parquet_is_smaller_than_the_raw_vectors(tmp_path: Path) -> None:
    space = ParquetStore(tmp_path, compression="zstd").space(IDENTITY)
    vectors = vectors_of(list(range(400)), 384) / 20
    space.put_many(map(key_of, range(400)), vectors)
    assert space.stats().nbytes < 0.95 * vectors.nbytes
    assert np.array_equal(space.get_many(map(key_of, range(400))).vectors, vectors)


def test_memory_evicts_what_was_used_least_recently() -> None:
    store = MemoryStore(max_bytes=100 * (5 * 4 + 200))
    one, two = store.space(IDENTITY), store.space(open_identity := type(IDENTITY).of("another"))
    for number in range(60):
        one.put_many([key_of(number)], vectors_of([number]))
    one.get_many(map(key_of, range(10)))
    for number in range(60):
        two.put_many([key_of(number)], vectors_of([number]))
    assert one.stats().nbytes + two.stats().nbytes <= store.max_bytes
    assert len(one.get_many(map(key_of, range(10))).positions) == 10
    assert len(one.get_many(map(key_of, range(10, 20))).positions) == 0
    assert np.array_equal(two.get_many(map(key_of, range(60))).vectors, vectors_of(list(range(60))))
    assert store.spaces() == [IDENTITY, open_identity]
    assert one._vectors.nbytes + two._vectors.nbytes < 2 * store.max_bytes
    one.put_many(map(key_of, range(1000)), vectors_of(list(range(1000))))
    assert one.stats().nbytes <= store.max_bytes
    with pytest.raises(ValueError, match="max_bytes"):
        MemoryStore(max_bytes=0)


def test_tiers_fill_upwards_and_are_all_written(tmp_path: Path) -> None:
    fast, slow = MemoryStore(), ArrowStore(tmp_path)
    slow.space(IDENTITY).put_many(map(key_of, [1, 2]), vectors_of([1, 2]))
    space = TieredStore(fast, slow).space(IDENTITY)
    assert np.array_equal(space.get_many(map(key_of, [2, 5, 1])).vectors, vectors_of([2, 1]))
    assert sorted(fast.space(IDENTITY).keys()) == sorted(map(key_of, [1, 2]))
    space.put_many([key_of(3)], vectors_of([3]))
    assert len(fast.space(IDENTITY).get_many([key_of(3)]).positions) == 1
    assert len(slow.space(IDENTITY).get_many([key_of(3)]).positions) == 1
    with pytest.raises(ValueError, match="at least one"):
        TieredStore()


@pytest.mark.parametrize("url", ["ftp://x", "memory://path", "arrow://"])
def test_an_unknown_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="://"):
        open_store(url)


def test_a_relative_path_is_fixed_when_the_store_is_opened(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    store = ArrowStore("cache")
    monkeypatch.chdir("/")
    store.space(IDENTITY).put_many([key_of(1)], vectors_of([1]))
    assert (tmp_path / "cache").is_dir()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dimension", [1, 2, 3, 8, 385])
def test_a_checksum_is_what_the_format_document_says(dtype: Any, dimension: int) -> None:
    keys, vectors = key_matrix(map(key_of, range(300))), vectors_of(list(range(300)), dimension, dtype)
    sums = checksums_of(keys, vectors)
    for at in (0, 1, 299):
        content = key_of(at) + vectors[at].tobytes()
        content += bytes(-len(content) % 8)
        state, total = 0, (vectors[at].nbytes << 8) + vectors.itemsize
        for start in range(0, len(content), 8):
            state = (state + 0x9E3779B97F4A7C15) % 2**64
            weight = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            weight = (weight ^ weight >> 27) * 0x94D049BB133111EB % 2**64
            word = int.from_bytes(content[start : start + 8], "little")
            total += (word ^ word >> 32) * ((weight ^ weight >> 31) | 1)
        assert total % 2**64 == sums[at] == checksum_of(key_of(at), vectors[at].tobytes(), vectors.itemsize)


def test_tiers_together_answer_what_each_has_a_part_of(tmp_path: Path) -> None:
    fast, slow = MemoryStore(), ArrowStore(tmp_path)
    fast.space(IDENTITY).put_many(map(key_of, [3, 1]), vectors_of([3, 1]))
    slow.space(IDENTITY).put_many(map(key_of, [0, 2]), vectors_of([0, 2]))
    hits = TieredStore(fast, slow).space(IDENTITY).get_many(map(key_of, range(6)))
    assert hits.positions.tolist() == [0, 1, 2, 3]
    assert np.array_equal(hits.vectors, vectors_of([0, 1, 2, 3]))


def test_a_tier_of_another_dimension_is_left_out(tmp_path: Path) -> None:
    fast, slow = MemoryStore(), ArrowStore(tmp_path)
    fast.space(IDENTITY).put_many([key_of(1)], vectors_of([1], 3))
    slow.space(IDENTITY).put_many([key_of(2)], vectors_of([2], 4))
    hits = TieredStore(fast, slow).space(IDENTITY).get_many(map(key_of, [1, 2]))
    assert hits.positions.tolist() == [0]
    assert hits.vectors.shape == (1, 3)


class CleanedUp(ArrowFormat):
    """A format beside which somebody removes a file while it is being written."""

    times = 1

    def write(self, path: Path, rows: Rows) -> None:
        super().write(path, rows)
        if self.times:
            self.times -= 1
            path.unlink()


@pytest.mark.parametrize("durable", [True, False])
def test_a_segment_that_somebody_removes_while_it_is_written_is_written_once_more(
    tmp_path: Path,
    durable: bool,  # noqa: FBT001
) -> None:
    space = SegmentStore(tmp_path, CleanedUp()).space(IDENTITY)
    space.put_many([key_of(0)], vectors_of([0]), durable=durable)
    assert len(space.get_many([key_of(0)]).positions) == 1
    assert space.stats().parts == 1
