"""Embed answers each kind of batch in kind, is one model a process, and equal in each run."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from copy import deepcopy
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from kura_cache_adapters import (
    ArrowStore,
    MirroredStore,
    MissingExtraError,
    Remote,
    TieredStore,
    open_cache,
)
from kura_cache_adapters.integrations.batches import Embed
from kura_cache_adapters.integrations.ray import embed_dataset
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAKE = partial(FakeEmbeddingModel, dimension=3)
TEXTS = ["one", None, "two", "one"]
RIGHT = [None if text is None else MAKE().lists([text])[0] for text in TEXTS]


@pytest.fixture
def embed(tmp_path: Path) -> Embed:
    return Embed(MAKE, tmp_path / "cache")


def plain(vectors: Any) -> list[Any]:
    return [None if vector is None else [*map(float, vector)] for vector in vectors]


@pytest.mark.parametrize("column", [list, np.array, partial(np.array, dtype=object), pa.array])
def test_a_dict_of_columns_gets_a_matrix(embed: Embed, column: Any) -> None:
    batch = {"text": column(["one", "two"]), "more": [1, 2]}
    done = embed(batch)
    assert done["vector"].dtype == np.float32
    assert done["vector"].tolist() == MAKE().lists(["one", "two"])
    assert [*done] == ["text", "more", "vector"]
    assert "vector" not in batch


@pytest.mark.parametrize("nothing", [None, float("nan"), np.float32("nan")])
def test_in_a_dict_no_text_has_no_vector(embed: Embed, nothing: Any) -> None:
    assert plain(embed({"text": ["one", nothing, "two", "one"]})["vector"]) == RIGHT
    assert plain(embed({"text": [nothing]})["vector"]) == [None]


def test_a_batch_without_texts_needs_no_server() -> None:
    pytest.importorskip("redis", reason="needs the extra `redis`")
    batch = Embed(MAKE, "redis://127.0.0.1:1/0", column="text")({"text": [None]})
    assert plain(batch["vector"]) == [None]


def test_marks_of_pandas_and_columns_of_one_name_are_no_texts(embed: Embed) -> None:
    pd = pytest.importorskip("pandas", reason="needs pandas")
    marked = np.array(["one", pd.NA, "two", "one", pd.NaT], object)  # as Ray makes them
    assert plain(embed({"text": marked})["vector"]) == [*RIGHT, None]
    with pytest.raises(TypeError, match="one DataFrame is in the place of a column"):
        embed(pd.DataFrame([["one", "two"]] * 2, columns=["text", "text"]))


def test_a_frame_gets_a_column_of_rows(embed: Embed) -> None:
    pd = pytest.importorskip("pandas", reason="needs pandas")
    for mark in (None, np.nan, pd.NA):
        frame = pd.DataFrame({"text": ["one", mark, "two", "one"], "more": 1}, index=[7, 7, 1, 0])
        done = embed(frame)
        assert plain(done["vector"]) == RIGHT
        assert done.index.tolist() == [7, 7, 1, 0]
        assert "vector" not in frame
    assert [*embed(frame[:0])] == ["text", "more", "vector"]


def test_a_frame_of_polars_gets_arrays(embed: Embed) -> None:
    pl = pytest.importorskip("polars", reason="needs polars")
    done = embed(pl.DataFrame({"text": TEXTS, "more": 1}))
    assert plain(done["vector"]) == RIGHT
    assert done.schema["vector"] == pl.Array(pl.Float32, 3)
    with pytest.raises(ValueError, match="a column 'vector' already"):
        embed(done)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_a_table_and_a_record_batch_get_lists_of_one_size(embed: Embed, kind: pa.DataType) -> None:
    batch = pa.record_batch({"text": pa.array(TEXTS, pa.string()).cast(kind)})
    for each in (batch, pa.Table.from_batches([batch, batch[:2]])):
        done = embed(each)
        assert type(done) is type(each)
        assert done.schema.field("vector").type == pa.list_(pa.float32(), 3)
        assert done["vector"].to_pylist()[:4] == RIGHT


def test_a_table_without_texts_has_the_type_of_the_others(embed: Embed) -> None:
    empty = pa.table({"text": pa.array([None, None], pa.string())})
    assert embed(empty)["vector"].to_pylist() == [None, None]
    embed({"text": ["one"]})
    assert embed(empty).schema.field("vector").type == pa.list_(pa.float32(), 3)


def test_an_iterator_is_answered_by_one_that_flushes_at_its_end(embed: Embed) -> None:
    batches = embed(iter([{"text": ["one"]}, {"text": ["two"]}]))
    assert plain(next(batches)["vector"]) == RIGHT[:1]
    closed: list[str] = []
    embed.model.close = partial(closed.append, "closed")  # type: ignore[method-assign]
    assert plain(next(batches)["vector"]) == RIGHT[2:3]
    assert not closed
    assert [*batches] == []
    assert closed


def test_columns_roles_types_and_keys_are_chosen(tmp_path: Path) -> None:
    make = partial(FakeEmbeddingModel, roles=["query"])
    embed = Embed(make, tmp_path, column="t", out="v", role="query", dtype=np.float64, version=2)
    done = embed({"t": ["one"]})["v"]
    assert done.dtype == np.float64
    assert done.tolist() == make().lists(["one"], "query")
    assert embed.model.identity().parameters == '{"version":2}'


@pytest.mark.parametrize(
    ("batch", "error", "says"),
    [
        ({"t": ["one"]}, ValueError, "no column 'text'; there are t"),
        ({"text": ["one"], "vector": [1]}, ValueError, "a column 'vector' already: pass out="),
        ({"text": [1]}, TypeError, "must be a string, not int"),
        (["one"], TypeError, "not a list"),
        ({"text": "a row's"}, TypeError, "one str is in the place of a column: give batches"),
        ({"text": None}, TypeError, "one NoneType is in the place of a column"),
    ],
)
def test_what_is_no_batch_of_texts_is_refused(embed: Embed, batch: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        embed(batch)


def test_a_model_in_the_place_of_its_maker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="must be a function that makes a model, not a FakeEmbeddingModel"):
        Embed(FakeEmbeddingModel(), tmp_path)  # type: ignore[arg-type]


def test_a_path_is_that_of_who_has_written_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [Embed(MAKE, "./cache"), Embed(MAKE, "parquet://./other?compression=zstd")]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for each in made:
        each({"text": ["one"]})
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "other", "elsewhere"}
    assert [*tmp_path.glob("other/*/*.parquet")]


def test_all_copies_that_come_to_a_process_have_one_model(embed: Embed) -> None:
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs cloudpickle")

    def make() -> FakeEmbeddingModel:
        return FakeEmbeddingModel(dimension=3)

    embed({"text": ["one"]})  # which does not travel
    for each in (embed, Embed(make, embed._recipe[1])):
        first, second = (pickle.loads(cloudpickle.dumps(each)) for _ in range(2))
        assert first.model is second.model
        assert first.model is not each.model
        assert plain(first({"text": ["one"]})["vector"]) == RIGHT[:1]
    other = Embed(MAKE, embed._recipe[1], version=2)
    assert pickle.loads(pickle.dumps(other)).model is not pickle.loads(pickle.dumps(embed)).model


def test_what_cannot_be_pickled_again_has_a_model_all_the_same(tmp_path: Path) -> None:
    lock = Lock()
    copied = deepcopy(Embed(lambda: (lock, MAKE())[1], tmp_path))
    assert plain(copied({"text": ["one"]})["vector"]) == RIGHT[:1]


def test_datasets_finds_it_equal_in_each_run_and_after_each_use(tmp_path: Path) -> None:
    fingerprint = pytest.importorskip("datasets.fingerprint", reason="needs the extra `datasets`")
    one, other, third = (Embed(MAKE, tmp_path / "cache", column=name) for name in ("text", "text", "t"))
    before = fingerprint.Hasher.hash(one)
    one({"text": ["one"]})
    assert fingerprint.Hasher.hash(one) == before == fingerprint.Hasher.hash(other)
    assert fingerprint.Hasher.hash(third) != before


def stores(kind: str, path: Path) -> Any:
    """Return a cache that keeps all in `here`, if anywhere, and in `there`, which others reach."""
    there = path / "there"
    if kind.startswith("mirror"):
        pytest.importorskip("obstore", reason="needs the extra `object-store`")
    ways: dict[str, Callable[[], Any]] = {
        "tiers": lambda: ["memory://", str(path / "here"), f"parquet://{there}"],
        "remote": lambda: Remote(ArrowStore(there)),
        "tiers with a remote": lambda: [path / "here", Remote(ArrowStore(there))],
        "tiers in tiers": lambda: [["memory://", "./here"], [None, "./there"]],
        "a tiered store": lambda: TieredStore(ArrowStore(path / "here"), Remote(ArrowStore(there))),
        "mirrored": lambda: MirroredStore(ArrowStore(path / "here"), "file://./there"),
        "mirror in tiers": lambda: ["./here", "file://./there"],
    }
    return ways[kind]()


KINDS = ["tiers", "remote", "tiers with a remote", "tiers in tiers", "a tiered store", "mirrored"]


def worker(pickled: bytes, path: Path) -> None:
    """Embed elsewhere, and end as a worker that is killed when its batches are done."""
    os.chdir(path)
    embed = pickle.loads(pickled)
    found = [plain(batch["vector"]) for batch in embed(iter([{"text": ["one"]}, {"text": ["two"]}]))]
    os._exit(found != [RIGHT[:1], RIGHT[2:3]])


@pytest.mark.parametrize("kind", [*KINDS, "mirror in tiers"])
def test_what_a_worker_embeds_is_where_others_reach_it_when_its_batches_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs cloudpickle")
    monkeypatch.chdir(tmp_path)
    embed = Embed(MAKE, stores(kind, tmp_path))
    (tmp_path / "elsewhere").mkdir()
    started = multiprocessing.get_context("spawn").Process(
        target=worker,
        args=(cloudpickle.dumps(embed), tmp_path / "elsewhere"),
    )
    started.start()
    started.join(30)
    assert started.exitcode == 0
    assert [*(tmp_path / "elsewhere").iterdir()] == []
    (there,) = {each.parent for each in (tmp_path / "there").glob("*/*.*") if each.suffix != ".json"}
    with open_cache(there.parent) as cache:
        assert cache.stats().rows == 2


@pytest.mark.parametrize("kind", [*KINDS, "mirror in tiers"])
def test_any_store_is_pickled_alike_in_each_run_and_after_each_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs cloudpickle")
    embed = Embed(MAKE, stores(kind, tmp_path))
    before = cloudpickle.dumps(embed)
    embed({"text": ["one"]})
    embed.close()
    assert cloudpickle.dumps(embed) == before
    assert cloudpickle.dumps(Embed(MAKE, stores(kind, tmp_path))) == before
    first, second = pickle.loads(before), pickle.loads(before)
    assert first.model is second.model


def test_dask_embeds_its_partitions_by_it(embed: Embed) -> None:
    pd = pytest.importorskip("pandas", reason="needs pandas")
    dd = pytest.importorskip("dask.dataframe", reason="needs dask")
    frame = dd.from_pandas(pd.DataFrame({"text": TEXTS}), npartitions=2)
    done = frame.map_partitions(embed, meta=embed(frame.head(0))).compute(scheduler="synchronous")
    assert plain(done["vector"]) == RIGHT


def test_without_ray_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(MissingExtraError, match=r"kura-cache-adapters\[ray\]"):
        embed_dataset(None, MAKE, tmp_path)
