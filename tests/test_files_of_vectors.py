"""Vectors in files: what is imported, refused, checked and counted, and that what is written comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from kura_cache_adapters import (
    Adopted,
    ArrowStore,
    CachedEmbeddingModel,
    DimensionMismatchError,
    MemoryStore,
    open_cache,
)
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.fault_lab import WAYS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

FAKE = FakeEmbeddingModel()
TEXTS = [f"text {at} é" for at in range(2500)]
MATRIX = FAKE.array(TEXTS)
FORMATS = ["parquet", "jsonl", "npz"]


def of(cache: Any, fake: FakeEmbeddingModel | None = None) -> CachedEmbeddingModel:
    return CachedEmbeddingModel(fake or FakeEmbeddingModel(), cache)


def table(vectors: Any, texts: Any = None) -> pa.Table:
    return pa.table({"id": [*range(len(vectors))], "text": texts or TEXTS, "embedding": vectors})


def fixed(matrix: NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def lists(matrix: NDArray[Any], kind: Any) -> pa.Array:
    return pa.array([*matrix], kind)


VECTORS: dict[str, Callable[[NDArray[Any]], Any]] = {
    "fixed-size": fixed,
    "lists": lambda matrix: lists(matrix, pa.list_(pa.float32())),
    "large lists": lambda matrix: lists(matrix, pa.large_list(pa.float64())),
    "list views": lambda matrix: lists(matrix, pa.list_view(pa.float32())),
    "tensors": pa.FixedShapeTensorArray.from_numpy_ndarray,
}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_what_a_killed_export_has_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    cached = of(tmp_path / "cache")
    cached.embed_sync(["a"])
    (tmp_path / ".out.npz.7-abc.tmp").write_text("half")
    assert cached.export_file(tmp_path / "out.npz", ["a"]) == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["cache", "out.npz"]


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("write", [pq.write_table, feather.write_feather])
def test_vectors_of_any_list_type_are_imported(kind: str, write: Any, tmp_path: Path) -> None:
    path = tmp_path / ("file.parquet" if write is pq.write_table else "file.feather")
    write(table(VECTORS[kind](MATRIX)), path)
    cached = of(MemoryStore())
    assert cached.import_file(path) == Adopted(2500, 0, 2500, 0, 2500)
    assert np.array_equal(cached.embed_array_sync(TEXTS), MATRIX)
    assert (cached.stats.misses, cached.stats.hits) == (0, 2500)
    assert cached.import_file(path) == Adopted(2500, 2500)


def test_half_floats_are_imported_as_they_are(tmp_path: Path) -> None:
    half = MATRIX.astype(np.float16)
    pq.write_table(table(fixed(half)), tmp_path / "half.parquet")
    cached = of(MemoryStore())
    assert cached.import_file(tmp_path / "half.parquet", check=3).stored == 2500
    assert np.array_equal(cached.embed_array_sync(TEXTS), half.astype(np.float32))


def test_columns_have_any_name_and_dictionaries_are_texts(tmp_path: Path) -> None:
    columns = {"passage": pa.array(TEXTS).dictionary_encode(), "v": fixed(MATRIX)}
    pq.write_table(pa.table(columns), tmp_path / "file.parquet", row_group_size=700)
    cached = of(MemoryStore())
    assert cached.import_file(tmp_path / "file.parquet", text="passage", vector="v").stored == 2500


def test_lines_of_json_are_imported(tmp_path: Path) -> None:
    rows = [
        json.dumps({"text": text, "embedding": vector})
        for text, vector in zip(TEXTS, FAKE.lists(TEXTS), strict=True)
    ]
    rows[0], rows[7], rows[8], rows[9] = "{", "", rows[8][:30], '["text"]'
    (tmp_path / "file.jsonl").write_text("\n".join(rows))
    cached = of(MemoryStore())
    assert cached.import_file(tmp_path / "file.jsonl", check=3) == Adopted(2499, 0, 2496, 3, 2496)
    assert np.array_equal(cached.embed_array_sync(TEXTS[10:]), MATRIX[10:])


def test_an_archive_of_arrays_is_imported(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "file.npz", text=np.array(TEXTS), embedding=MATRIX.astype(np.float64))
    cached = of(MemoryStore())
    assert cached.import_file(tmp_path / "file.npz").stored == 2500
    assert np.array_equal(cached.embed_array_sync(TEXTS), MATRIX)


def test_one_long_text_in_an_archive_takes_no_room_a_thousand_times(tmp_path: Path) -> None:
    texts = ["x" * 1_000_000, *TEXTS[1:40]]
    np.savez_compressed(tmp_path / "file.npz", text=np.array(texts), embedding=MATRIX[:40])
    cached = of(MemoryStore())
    assert cached.import_file(tmp_path / "file.npz").stored == 40
    assert np.array_equal(cached.embed_array_sync(texts), MATRIX[:40])


@pytest.mark.parametrize("texts", [np.array(TEXTS, object), np.array(3)])
def test_an_archive_that_would_run_code_is_refused(texts: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", text=texts, embedding=np.asfortranarray(MATRIX))
    with pytest.raises(ValueError, match="is not read here: save rows of str"):
        of(MemoryStore()).import_file(tmp_path / "file.npz")


def test_a_dataset_on_disk_is_imported_without_its_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra `datasets`")
    rows = datasets.Dataset.from_dict({"text": TEXTS, "embedding": FAKE.lists(TEXTS)})
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "saved", num_shards={"train": 3})
    cached = of(MemoryStore())
    with pytest.raises(ValueError, match=r"name one: .*train"):
        cached.import_file(tmp_path / "saved")
    assert cached.import_file(tmp_path / "saved" / "train", check=3).stored == 2500
    assert np.array_equal(cached.embed_array_sync(TEXTS), MATRIX)
    state = tmp_path / "saved" / "train" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "../other.arrow"}]}))
    with pytest.raises(ValueError, match="elsewhere"):
        cached.import_file(tmp_path / "saved" / "train")


def test_rows_that_hold_no_vector_are_left_out_and_counted(tmp_path: Path) -> None:
    vectors: list[Any] = FAKE.lists(TEXTS)
    vectors[0], vectors[1], vectors[2], vectors[3] = [float("nan")] * 8, [0.5], None, [None] * 8
    texts: list[Any] = [*TEXTS]
    texts[4], texts[5] = None, texts[6]
    pq.write_table(table(vectors, texts), tmp_path / "file.parquet")
    cached = of(MemoryStore())
    # Null is no damage; the repeated text is known.
    assert cached.import_file(tmp_path / "file.parquet") == Adopted(2500, 1, 2494, 4, 2494)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file.csv", r"is of no kind that is read here: \.parquet, \.jsonl"),
        ("file.parquet", "no column 'embedding'; it has 'text', 'vector'"),
        ("file.jsonl", "no column 'embedding'; it has 'text', 'vector'"),
        ("file.npz", "no column 'embedding'; it has 'text', 'vector'"),
        ("file.feather", "no column 'embedding'; it has 'text', 'vector'"),
    ],
)
def test_another_file_is_refused_with_what_there_is(name: str, message: str, tmp_path: Path) -> None:
    rows = {"text": ["a"], "vector": [[1.0]]}
    (tmp_path / "file.csv").touch()
    (tmp_path / "file.jsonl").write_text(json.dumps({"text": "a", "vector": [1.0]}))
    pq.write_table(pa.table(rows), tmp_path / "file.parquet")
    feather.write_feather(pa.table(rows), tmp_path / "file.feather")
    np.savez(tmp_path / "file.npz", text=np.array(["a"]), vector=np.ones((1, 1)))
    with pytest.raises(ValueError, match=message):
        of(MemoryStore()).import_file(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        of(MemoryStore()).import_file(tmp_path / "missing.parquet")


# check=


def test_a_check_embeds_the_first_texts_and_refuses_the_vectors_of_another_model(tmp_path: Path) -> None:
    pq.write_table(table(fixed(MATRIX)), tmp_path / "file.parquet")
    other = FakeEmbeddingModel("another")
    cached = of(MemoryStore(), other)
    with pytest.raises(
        ValueError, match=r"other vectors than another makes: of 3 .* is 1\.\d+ of a vector's"
    ):
        cached.import_file(tmp_path / "file.parquet", check=3)
    assert other.texts == TEXTS[:3]
    assert cached.missing(TEXTS[:5]) == [0, 1, 2, 3, 4]
    wide = of(MemoryStore(), FakeEmbeddingModel(dimension=16))
    with pytest.raises(DimensionMismatchError, match="16"):
        wide.import_file(tmp_path / "file.parquet", check=3)


def test_a_check_asks_the_model_though_the_cache_knows_the_texts(tmp_path: Path) -> None:
    fake = FakeEmbeddingModel()
    cached = of(MemoryStore(), fake)
    cached.add(TEXTS[:3], MATRIX[:3] + 1)
    pq.write_table(table(fixed(MATRIX)), tmp_path / "file.parquet")
    assert cached.import_file(tmp_path / "file.parquet", check=3) == Adopted(2500, 3, 2497, 0, 2497)
    assert fake.texts == TEXTS[:3]


@pytest.mark.parametrize(
    ("drift", "tolerance", "refused"), [(0.005, 0.02, False), (0.05, 0.02, True), (0.05, 0.1, False)]
)
def test_a_little_drift_is_no_other_model(
    drift: float, tolerance: float, *, refused: bool, tmp_path: Path
) -> None:
    pq.write_table(table(fixed(MATRIX * np.float32(1 + drift))), tmp_path / "file.parquet")
    cached = of(MemoryStore())
    if refused:
        with pytest.raises(ValueError, match=r"the largest difference is 0\.05 of"):
            cached.import_file(tmp_path / "file.parquet", check=3, tolerance=tolerance)
    else:
        assert cached.import_file(tmp_path / "file.parquet", check=3, tolerance=tolerance).stored == 2500


def test_what_is_checked_are_the_first_vectors_wherever_they_begin(tmp_path: Path) -> None:
    pq.write_table(table([None] * 2000 + FAKE.lists(TEXTS[2000:])), tmp_path / "file.parquet")
    other = FakeEmbeddingModel("another")
    with pytest.raises(ValueError, match="nothing was stored"):
        of(MemoryStore(), other).import_file(tmp_path / "file.parquet", check=2)
    assert other.texts == TEXTS[2000:2002]


def test_vectors_of_another_dimension_than_the_stored_ones_are_refused(tmp_path: Path) -> None:
    cached = of(MemoryStore(), FakeEmbeddingModel(dimension=16))
    cached.embed_sync(["before"])
    pq.write_table(table(fixed(MATRIX)), tmp_path / "file.parquet")
    with pytest.raises(DimensionMismatchError):
        cached.import_file(tmp_path / "file.parquet")


# Out, and in again


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_texts_come_back_with_their_vectors(ending: str, dtype: Any, tmp_path: Path) -> None:
    fake = FakeEmbeddingModel(dtype=dtype)
    cached, twin = of(MemoryStore(), fake), of(MemoryStore(), FakeEmbeddingModel(dtype=dtype))
    odd = ["", "a\nb", "\U0001f600", "tab\t"]
    cached.embed_sync([*TEXTS, *odd])
    path = tmp_path / f"file.{ending}"
    assert cached.export_file(path, [*TEXTS, *odd, *odd, "not there"]) == 2504
    assert twin.import_file(path, check=3) == Adopted(2504, 0, 2504, 0, 2504)
    assert np.array_equal(twin.embed_array_sync([*TEXTS, *odd]), fake.array([*TEXTS, *odd]))


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_held_of_a_model_comes_back_by_keys(way: str, ending: str, tmp_path: Path) -> None:
    fake = FakeEmbeddingModel(roles=("query",), dtype=np.float64)
    cached = of(WAYS[way](tmp_path / "one"), fake)
    cached.embed_sync(TEXTS[:50])
    cached.embed_sync(TEXTS[:50], role="query")
    cached.add(["plain"], np.ones((1, 8)))  # float32 beside float64
    assert cached.cache is not None
    path = tmp_path / f"file.{ending}"
    assert cached.cache.export_file(path, cached.identity()) == 101
    with open_cache(tmp_path / "other") as other:
        assert other.import_file(path) == Adopted(101, 0, 101, 0, 101)
        assert other.import_file(path) == Adopted(101, 101)
    twin = of(tmp_path / "other", FakeEmbeddingModel(roles=("query",), dtype=np.float64))
    assert np.array_equal(twin.embed_array_sync(TEXTS[:50], role="query"), fake.array(TEXTS[:50], "query"))
    assert np.array_equal(twin.embed_array_sync([*TEXTS[:50], "plain"])[:50], fake.array(TEXTS[:50]))
    assert twin.stats.misses == 0


def test_a_vector_under_another_key_is_damaged(tmp_path: Path) -> None:
    cached = of(MemoryStore())
    cached.embed_sync(TEXTS[:4])
    assert cached.cache is not None
    path = tmp_path / "file.jsonl"
    cached.cache.export_file(path, cached.identity())
    head, *lines = path.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[0]["vector"], rows[1]["vector"] = rows[1]["vector"], rows[0]["vector"]
    rows[2]["key"] = "00" * 32
    rows += [{"key": 1 << 40, "checksum": "x", "vector": rows[3]["vector"]}, {"key": "zz"}]
    path.write_text("\n".join([head, *map(json.dumps, rows)]))
    with open_cache(MemoryStore()) as other:
        assert other.import_file(path) == Adopted(6, 0, 1, 5, 1)


def test_a_file_of_keys_and_one_of_texts_are_not_taken_for_each_other(tmp_path: Path) -> None:
    cached = of(MemoryStore())
    cached.embed_sync(TEXTS[:3])
    assert cached.cache is not None
    for ending in FORMATS:
        texts, keys = tmp_path / f"texts.{ending}", tmp_path / f"keys.{ending}"
        cached.export_file(texts, TEXTS)
        cached.cache.export_file(keys, cached.identity())
        with pytest.raises(ValueError, match=r"model\.import_file takes texts"):
            cached.cache.import_file(texts)
        with pytest.raises(ValueError, match="no column 'text'"):
            cached.import_file(keys)


def test_nothing_to_write_and_other_endings_leave_no_file(tmp_path: Path) -> None:
    cached = of(tmp_path / "cache")
    assert cached.cache is not None
    with pytest.raises(ValueError, match="nothing to write"):
        cached.export_file(tmp_path / "file.parquet", TEXTS)
    with pytest.raises(ValueError, match="nothing to write"):
        of(None).export_file(tmp_path / "file.parquet", TEXTS)
    with pytest.raises(ValueError, match="nothing to write"):
        cached.cache.export_file(tmp_path / "file.parquet", cached.identity())
    cached.embed_sync(["a", "b\0"])
    with pytest.raises(ValueError, match=r"ends in \.parquet, \.jsonl, \.npz"):
        cached.export_file(tmp_path / "file.csv", ["a"])
    with pytest.raises(ValueError, match="does not keep a NUL"):
        cached.export_file(tmp_path / "file.npz", ["b\0"])
    (tmp_path / "full.parquet").mkdir()
    with pytest.raises(ValueError, match="is not written here"):
        cached.export_file(tmp_path / "full.parquet", ["a"])
    assert {each.name for each in tmp_path.iterdir()} == {"cache", "full.parquet"}


KILLED = """
import os, signal, sys
from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters.testing import FakeEmbeddingModel
import kura_cache_adapters._adopt.writing as writing
made = writing._batch
def batch(*arguments):
    batch.count += 1
    if batch.count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return made(*arguments)
batch.count = 0
writing._batch = batch
model = CachedEmbeddingModel(FakeEmbeddingModel(), sys.argv[1])
model.export_file(sys.argv[2], [f"t{at}" for at in range(9000)])
"""


def test_a_killed_export_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    cached = of(ArrowStore(tmp_path / "cache"))
    texts = [f"t{at}" for at in range(9000)]
    cached.embed_sync(texts)
    path = tmp_path / "file.parquet"
    assert cached.export_file(path, texts[:5]) == 5
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cache"), str(path)]
    killed = subprocess.run(command, check=False, timeout=60, env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    assert pq.read_table(path).num_rows == 5
    assert cached.export_file(path, texts) == 9000


MEASURED = """
import resource, sys
from kura_cache_adapters import ArrowStore, CachedEmbeddingModel, CacheOptions
from kura_cache_adapters.testing import FakeEmbeddingModel
model = CachedEmbeddingModel(
    FakeEmbeddingModel(dimension=768), ArrowStore(sys.argv[1]), options=CacheOptions(durable=False)
)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(model.import_file(sys.argv[2]).stored, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts in kilobytes")
@pytest.mark.parametrize("ending", ["parquet", "npz"])
def test_a_large_file_is_imported_in_little_memory(ending: str, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((60_000, 768), np.float32)  # 184 MB
    texts = [f"text {at}" for at in range(len(matrix))]
    path = tmp_path / f"large.{ending}"
    if ending == "npz":
        np.savez(path, text=np.array(texts), embedding=matrix)
    else:
        pq.write_table(pa.table({"text": texts, "embedding": fixed(matrix)}), path)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "cache"), str(path)]
    printed = subprocess.run(command, check=True, timeout=100, capture_output=True, text=True).stdout
    stored, kilobytes = map(int, printed.split())
    assert stored == len(matrix)
    assert kilobytes < 150_000
