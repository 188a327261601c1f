"""What another engine has read out of segments is checked as a look-up would check it."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kura_cache_adapters import CachedEmbeddingModel, CallableEmbeddingModel
from kura_cache_adapters.integrations.joins import intact
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from pathlib import Path


KEYING = """
import sys
from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters.testing import FakeEmbeddingModel

CachedEmbeddingModel(FakeEmbeddingModel()).keys_file("in.txt", "out.parquet", overwrite=True)
status = open("/proc/self/status").read()  # getrusage tells of the process that has started this one, too
print(status.split("VmHWM:")[1].split()[0])
"""


def keying(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KEYING]
    return subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9 here")
def test_a_killed_run_over_a_file_of_keys_leaves_that_and_the_next_one_nothing_else(tmp_path: Path) -> None:
    target, model = tmp_path / "out.parquet", CachedEmbeddingModel(FakeEmbeddingModel())
    (tmp_path / "in.txt").write_text("old\n")
    model.keys_file(tmp_path / "in.txt", target)
    with pytest.raises(FileExistsError, match="overwrite=True, or another name"):
        model.keys_file(tmp_path / "in.txt", target)
    before = target.read_bytes()
    (tmp_path / "in.txt").write_text("".join(f"text {at}\n" for at in range(150_000)))
    running = keying(tmp_path)
    while not [*tmp_path.glob(".out.parquet.*")]:
        assert running.poll() is None
    running.kill()
    running.communicate()
    assert target.read_bytes() == before
    assert [*tmp_path.glob(".out.parquet.*")]
    (tmp_path / "in.txt").write_text("new\n")
    assert model.keys_file(tmp_path / "in.txt", target, overwrite=True) == 1
    assert pq.read_table(target)["text"].to_pylist() == ["new"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.txt", "out.parquet"]


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux counts it")
def test_keys_of_millions_of_texts_take_no_more_memory_than_those_of_a_few_batches(tmp_path: Path) -> None:
    megabytes = []
    for count in (200_000, 4_000_000):
        with (tmp_path / "in.txt").open("w") as file:
            file.writelines(f"text {at} {'.' * (at % 200)}\n" for at in range(count))
        told, _ = keying(tmp_path).communicate()
        megabytes.append(int(told) / 1024)
        assert pq.read_metadata(tmp_path / "out.parquet").num_rows == count
    assert megabytes[1] < megabytes[0] + 50
    assert megabytes[1] < 400


@pytest.fixture(params=[np.float32, np.float64])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> pa.Table:
    model = CachedEmbeddingModel(
        FakeEmbeddingModel(dimension=3, dtype=request.param), f"parquet://{tmp_path}"
    )
    model.embed_sync(["a", "b", "c", "d"])
    return pq.read_table(next(tmp_path.glob("*/[0-9]*.parquet")), columns=["key", "checksum", "vector"])


def replaced(rows: pa.Table, name: str, values: Any, kind: pa.DataType | None = None) -> pa.Table:
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, name, pa.array(values, kind or rows.schema.field(name).type))


def test_rows_are_intact_in_any_form_of_lists_and_checksums(rows: pa.Table) -> None:
    vectors, sums = rows["vector"].to_pylist(), rows["checksum"].to_pylist()
    lists = replaced(rows, "vector", vectors, pa.list_(rows.schema.field("vector").type.value_type))
    decimals = replaced(lists, "checksum", [Decimal(each) for each in sums], pa.decimal128(20, 0))
    for each in (rows, lists, decimals, rows.to_batches()[0], lists.slice(1, 2), rows.slice(1, 2)):
        assert intact(each).tolist() == [True] * len(each)
    assert intact(rows[:0]).tolist() == []


def test_a_changed_bit_another_key_and_no_vector_are_told_row_by_row(rows: pa.Table) -> None:
    vectors, keys = rows["vector"].to_pylist(), rows["key"].to_pylist()
    vectors[1][2] = float(np.nextafter(np.float32(vectors[1][2]), np.float32(2)))
    assert intact(replaced(rows, "vector", vectors)).tolist() == [True, False, True, True]
    assert intact(replaced(rows, "key", keys[::-1])).tolist() == [False] * 4
    vectors[0] = None
    assert intact(replaced(rows, "vector", vectors)).tolist() == [False, False, True, True]
    assert intact(replaced(rows, "key", [*keys[:3], None])).tolist() == [True, True, True, False]


def test_rows_that_an_engine_has_made_float64_beside_others_are_intact(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb")

    def thirds(texts: list[str]) -> list[list[float]]:
        return [[len(text) / 3, 1.0] for text in texts]

    model = CachedEmbeddingModel(CallableEmbeddingModel(thirds, model_name="thirds"), f"parquet://{tmp_path}")
    for text in ("aaa", "b"):  # a segment in float32, and one in float64
        model.embed_sync([text])
    files = [f"FROM '{path}'" for path in tmp_path.glob("*/[0-9]*.parquet")]
    rows = duckdb.sql(" UNION ALL ".join(files)).to_arrow_table()
    vectors = rows["vector"].to_pylist()
    assert sorted(vectors) == sorted(thirds(["aaa", "b"]))
    assert intact(rows).all()
    at = vectors.index([1.0, 1.0])
    vectors[at][0] = float(np.nextafter(1.0, 2.0))
    assert intact(replaced(rows, "vector", vectors)).tolist() == [each != at for each in range(2)]


@pytest.mark.parametrize("vectors", [[[1.0], [1.0, 2.0], [1.0], [1.0]], [[]] * 4])
def test_vectors_of_several_dimensions_or_none_are_refused(
    rows: pa.Table, vectors: list[list[float]]
) -> None:
    with pytest.raises(ValueError, match=r"not of one dimension, .*join one space at a time"):
        intact(replaced(rows, "vector", vectors, pa.list_(pa.float32())))
