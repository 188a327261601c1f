"""Every checkpoint manager keeps the contract of managers."""

from __future__ import annotations

import math
import pickle
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kura_cache_adapters import CachedEmbeddingModel, CheckpointError
from kura_cache_adapters.checkpoints import (
    HFDatasetCheckpointManager,
    JSONLCheckpointManager,
    MultiCheckpointManager,
    ParquetCheckpointManager,
)
from kura_cache_adapters.stores import HFDatasetStore, JSONLStore, ParquetStore, TieredStore, as_store
from kura_cache_adapters.testing import CheckpointManagerContract, FakeEmbeddingModel
from kura_cache_adapters.testing.checkpoints import Everything, Leaf, Names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kura_cache_adapters.protocols import BaseCheckpointManager


class TestJSONLCheckpointManager(CheckpointManagerContract):
    @pytest.fixture
    def open_manager(self, tmp_path: Path) -> Callable[..., BaseCheckpointManager]:
        return lambda **options: JSONLCheckpointManager(tmp_path / "checkpoints", **options)


class TestParquetCheckpointManager(CheckpointManagerContract):
    @pytest.fixture
    def open_manager(self, tmp_path: Path) -> Callable[..., BaseCheckpointManager]:
        return lambda **options: ParquetCheckpointManager(tmp_path / "checkpoints", **options)


class TestHFDatasetCheckpointManager(CheckpointManagerContract):
    @pytest.fixture
    def open_manager(self, tmp_path: Path) -> Callable[..., BaseCheckpointManager]:
        pytest.importorskip("datasets", reason="needs the extra `datasets`")
        return lambda **options: HFDatasetCheckpointManager(tmp_path / "checkpoints", **options)


class TestMultiCheckpointManager(CheckpointManagerContract):
    @pytest.fixture
    def open_manager(self, tmp_path: Path) -> Callable[..., BaseCheckpointManager]:
        return lambda **options: MultiCheckpointManager(
            [JSONLCheckpointManager(tmp_path / "checkpoints", **options)],
        )


@pytest.fixture
def pair(tmp_path: Path) -> list[BaseCheckpointManager]:
    return [JSONLCheckpointManager(tmp_path / "j"), ParquetCheckpointManager(tmp_path / "p")]


def test_several_managers_save_everywhere_and_load_from_the_first_that_has_it(pair: Any) -> None:
    both = MultiCheckpointManager(pair)
    both.save_checkpoint("x", [Leaf(value=1)])
    assert [manager.list_checkpoints() for manager in pair] == [["x"], ["x"]]
    assert pair[0].delete_checkpoint("x")
    assert both.load_checkpoint("x", Leaf) == [Leaf(value=1)]
    assert MultiCheckpointManager(pair, load_strategy="priority").load_checkpoint("x", Leaf) is None
    assert both.get_stats()["managers"][1]["checkpoint_count"] == 1
    assert both.delete_checkpoint("x")
    assert both.list_checkpoints() == []


def test_the_primary_manager_alone_saves_when_told_so(pair: Any) -> None:
    MultiCheckpointManager(pair, save_strategy="primary_only").save_checkpoint("x", [Leaf()])
    assert [manager.list_checkpoints() for manager in pair] == [["x"], []]


@pytest.mark.parametrize(
    "options",
    [{"managers": []}, {"save_strategy": "none"}, {"load_strategy": "last"}],
)
def test_a_multi_manager_refuses_what_it_does_not_know(pair: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|at least one"):
        MultiCheckpointManager(**{"managers": pair, **options})


@pytest.mark.parametrize("name", ["save_strategy", "load_strategy"])
@pytest.mark.parametrize("word", ["primary", "", None, ["priority"], "PRIORITY", "all"])
def test_a_strategy_that_is_set_later_is_checked_too(pair: Any, name: str, word: Any) -> None:
    both = MultiCheckpointManager(pair)
    before = getattr(both, name)
    with pytest.raises(ValueError, match=rf"{name} must be '\w+' or '\w+', not"):
        setattr(both, name, word)
    assert getattr(both, name) == before
    assert both.get_stats()[name] == before


def test_a_strategy_that_is_set_later_counts(pair: Any) -> None:
    both = MultiCheckpointManager(pair)
    both.save_strategy = "primary_only"
    both.save_checkpoint("x", [Leaf()])
    assert [manager.list_checkpoints() for manager in pair] == [["x"], []]
    pair[1].save_checkpoint("y", [Leaf()])
    both.load_strategy = "priority"
    assert both.load_checkpoint("y", Leaf) is None
    again = pickle.loads(pickle.dumps(both))
    assert (again.save_strategy, again.load_strategy) == ("primary_only", "priority")


def test_each_manager_opens_the_store_of_its_format(tmp_path: Path, pair: Any) -> None:
    assert isinstance(as_store(pair[0]), JSONLStore)
    assert isinstance(as_store(pair[1]), ParquetStore)
    assert isinstance(as_store(MultiCheckpointManager(pair)), TieredStore)
    assert as_store(JSONLCheckpointManager(tmp_path, enabled=False)) is None
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    assert isinstance(as_store(HFDatasetCheckpointManager(tmp_path)), HFDatasetStore)


def test_a_cache_and_checkpoints_share_a_directory(pair: Any) -> None:
    for manager in pair:
        model = FakeEmbeddingModel()
        vectors = CachedEmbeddingModel(model, manager).embed_sync(["a", "b"])
        manager.save_checkpoint("x", [Leaf()])
        assert manager.list_checkpoints() == ["x"]
        assert CachedEmbeddingModel(model, manager).embed_sync(["a", "b"]) == vectors
        assert len(model.calls) == 1


def test_parquet_columns_are_typed_for_other_readers(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    manager = ParquetCheckpointManager(tmp_path, compression="zstd")
    manager.save_checkpoint("x", [Leaf(value=1), Leaf(value=None)])
    assert pq.read_table(manager.get_checkpoint_path("x")).to_pydict() == {
        "kind": ["leaf", "leaf"],
        "value": [1, None],
    }
    with pytest.raises(ValueError, match="compression"):
        ParquetCheckpointManager(tmp_path, compression="lzma")  # type: ignore[arg-type]


def test_a_directory_that_cannot_be_made_is_only_a_warning(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    manager = JSONLCheckpointManager(tmp_path / "file" / "below")
    assert "No checkpoint directory" in caplog.text
    with pytest.raises(OSError, match="file"):
        manager.save_checkpoint("x", [Leaf()])
    model = FakeEmbeddingModel()
    assert CachedEmbeddingModel(model, manager).embed_sync(["a"]) == model.lists(["a"])


def test_a_save_killed_between_its_renames_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    manager = HFDatasetCheckpointManager(tmp_path)
    manager.save_checkpoint("x", [Leaf(value=1)])
    (tmp_path / "x").rename(tmp_path / ".x.previous")
    assert manager.list_checkpoints() == ["x"]
    assert manager.load_checkpoint("x", Leaf) == [Leaf(value=1)]


def test_no_directory_of_something_else_is_replaced(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    managers = [HFDatasetCheckpointManager(tmp_path), JSONLCheckpointManager(tmp_path)]
    for manager in managers:
        path = manager.get_checkpoint_path("work")
        path.mkdir()
        (path / "main.py").write_text("mine")
        with pytest.raises(CheckpointError, match="give the checkpoint another name"):
            manager.save_checkpoint("work", [])
        assert (path / "main.py").read_text() == "mine"


@pytest.fixture
def datasets_manager(tmp_path: Path) -> HFDatasetCheckpointManager:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    return HFDatasetCheckpointManager(tmp_path)


def test_a_filter_sees_fields_and_gives_models(datasets_manager: HFDatasetCheckpointManager) -> None:
    records = [Everything(name=f"{at}", count=at, vector=[math.inf], tags={"x"}) for at in range(5)]
    datasets_manager.save_checkpoint("x", records)
    found = datasets_manager.filter_checkpoint("x", lambda row: row["count"] > 2 and row["tags"], Everything)
    assert found == records[3:]
    assert datasets_manager.filter_checkpoint("x", lambda _: False, Everything) == []
    assert datasets_manager.filter_checkpoint("missing", lambda _: True, Everything) is None
    with pytest.raises(CheckpointError, match="Names"):
        datasets_manager.filter_checkpoint("x", lambda _: True, Names)
    datasets_manager.save_checkpoint("names", [Names(["a"]), Names([])])
    assert datasets_manager.filter_checkpoint("names", bool, Names) == [Names(["a"])]


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, KeyError])
def test_what_a_filter_raises_is_the_callers(
    datasets_manager: HFDatasetCheckpointManager, error: type[Exception]
) -> None:
    def refuse(_: Any) -> bool:
        raise error

    datasets_manager.save_checkpoint("x", [Leaf()])
    with pytest.raises(error):
        datasets_manager.filter_checkpoint("x", refuse, Leaf)


def test_a_dataset_is_described_without_reading_its_records(
    datasets_manager: HFDatasetCheckpointManager,
) -> None:
    datasets_manager.save_checkpoint("x", [Leaf(value=at) for at in range(1500)])
    info: Any = datasets_manager.get_checkpoint_info("x")
    assert (info["num_rows"], info["num_columns"], info["column_names"]) == (1500, 2, ["kind", "value"])
    path = datasets_manager.get_checkpoint_path("x")
    assert info["size_bytes"] == sum(file.stat().st_size for file in path.iterdir())
    assert {*info["features"]} == {"kind", "value"}
    assert datasets_manager.get_checkpoint_info("missing") is None
    (path / "dataset_info.json").write_text("{")
    with pytest.raises(CheckpointError, match=str(path)):
        datasets_manager.get_checkpoint_info("x")


def test_a_file_has_a_size(tmp_path: Path) -> None:
    manager = ParquetCheckpointManager(tmp_path)
    manager.save_checkpoint("x", [Leaf()])
    assert manager.get_file_size("x") == manager.get_file_size("x.parquet") > 0
    assert manager.get_file_size("x") == (tmp_path / "x.parquet").stat().st_size
    assert manager.get_file_size("missing") == 0


@pytest.mark.parametrize("option", [{"hub_repo": "me/mine"}, {"hub_token": "hf_secret"}])
def test_what_would_leave_the_directory_is_refused_with_the_cure(
    tmp_path: Path, option: dict[str, str]
) -> None:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    with pytest.raises(NotImplementedError, match="push_to_hub") as refusal:
        HFDatasetCheckpointManager(tmp_path / "c", **option)  # type: ignore[arg-type]
    assert "hf_secret" not in str(refusal.value)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("option", [{"streaming": True}, {"compression": None}, {"compression": "zstd"}])
def test_options_that_change_nothing_are_taken(tmp_path: Path, option: dict[str, Any]) -> None:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    manager = HFDatasetCheckpointManager(tmp_path, **option)
    manager.save_checkpoint("x", [Leaf(value=1)])
    assert manager.load_checkpoint("x", Leaf, streaming=True) == [Leaf(value=1)]
    with pytest.raises(ValueError, match="compression"):
        HFDatasetCheckpointManager(tmp_path, compression="lzma")  # type: ignore[arg-type]


def test_a_foreign_parquet_checkpoint_without_rows_is_empty(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    assert ParquetCheckpointManager(tmp_path).load_checkpoint("empty", Leaf) == []


@pytest.mark.parametrize(
    "kind", [JSONLCheckpointManager, ParquetCheckpointManager, HFDatasetCheckpointManager]
)
def test_a_save_whose_unfinished_file_is_cleaned_away_is_made_once_more(
    kind: type[BaseCheckpointManager], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is HFDatasetCheckpointManager:
        pytest.importorskip("datasets", reason="needs the extra `datasets`")
    write: Any = kind._write  # type: ignore[attr-defined]
    written: list[Path] = []

    def cleaned_away(self: Any, path: Path, records: Any) -> None:
        write(self, path, records)
        written.append(path)
        if len(written) == 1:
            path.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(kind, "_write", cleaned_away)
    manager = kind(tmp_path / "checkpoints")
    manager.save_checkpoint("x", [Leaf(value=1)])
    assert manager.load_checkpoint("x", Leaf) == [Leaf(value=1)]
    assert len(written) == 2
