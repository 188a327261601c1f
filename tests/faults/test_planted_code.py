"""Code planted in a cache: nothing of it runs, and nothing that it names is imported."""

from __future__ import annotations

import ast
import json
import os
import pickle
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

import kura_cache_adapters
from kura_cache_adapters import CheckpointError, HFDatasetCheckpointManager
from tests.faults.fault_lab import FORMATS, MANAGERS, WAYS, Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec

PACKAGE = Path(kura_cache_adapters.__file__).parent
TEXTS = [f"text {at}" for at in range(20)]

FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "imp", "runpy", "code"}
RUNS = {"eval", "exec", "compile", "__import__", "execfile", "entry_points", "get_type_hints"}
LOADS = {"load_module", "exec_module", "py_extension_type", "read_pickle", "load_from_disk", "allow_pickle"}
ALLOWED = {
    ("testing/stores.py", "pickle"): "a law says that stores survive pickling: it pickles its own",
    ("_core/floats.py", "marshal"): "writes floats, to see that they are floats; reads nothing",
    ("integrations/batches.py", "pickle"): "pickles what makes a model, to compare it; reads nothing",
    ("_runtime/lazy.py", "import_module"): "the package's own names, imported when first used",
    ("_runtime/entry_points.py", "entry_points"): "what distributions register, by scheme or class",
    ("_cli/words.py", "import_module"): "the model that the person at the terminal names",
    ("errors.py", "import_module"): "optional packages, named in our code",
    ("kura.py", "import_module"): "kura.dimensionality, by that name",
    ("stores/registry.py", "import_module"): "our own stores, from a table",
    ("stores/url_options.py", "get_type_hints"): "the annotations of a store's constructor",
}


class Record(BaseModel):
    text: str


def uses(path: Path) -> Iterator[str]:
    """Yield what a file uses of all that can run code it was not written with."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: Sequence[str] = ()
        if isinstance(node, ast.Import):
            names = [name.name.partition(".")[0] for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").partition(".")[0]]
        elif isinstance(node, ast.Name) and node.id in RUNS | {"import_module"}:
            names = [node.id]
        elif isinstance(node, (ast.Attribute, ast.keyword)):
            name = node.attr if isinstance(node, ast.Attribute) else node.arg
            names = [name] if name in LOADS | {"import_module"} else []
        yield from set(names) & (FORBIDDEN | RUNS | LOADS | {"import_module"})


def test_the_package_has_no_way_to_run_what_it_reads() -> None:
    found = {(str(path.relative_to(PACKAGE)), use) for path in PACKAGE.rglob("*.py") for use in uses(path)}
    assert found == set(ALLOWED)


class Planted:
    """What runs when it is unpickled: a file appears."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """Name a directory that only planted code makes; show that it would."""
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Planted(marker)))
    marker.rmdir()
    yield marker
    assert not marker.exists()


class Finder:
    """Notes every module that is looked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        self.asked.append(name)
        return None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    finder = Finder()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    return finder.asked


def stored(way: str, path: Path) -> Ledger:
    """Fill a cache, and read it once, so that all that is imported is imported."""
    ledger = Ledger(way, path / "cache", "planted code", damaging=True)
    ledger.ask(ledger.open(), TEXTS)
    assert ledger.audit().good
    return ledger


@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("way", WAYS)
def test_a_pickle_in_place_of_any_file_is_not_loaded(
    way: str, protocol: int, tmp_path: Path, marker: Path, asked: list[str]
) -> None:
    ledger = stored(way, tmp_path)
    code = pickle.dumps(Planted(marker), protocol)
    places = [path for path in ledger.path.rglob("*") if path.is_file()]
    for path in places:
        for name in ("x.pkl", "x.pt", f"{path.stem}.npy", f"0{path.name[1:]}"):
            path.with_name(name).write_bytes(code)
        path.write_bytes(code)
    np.save(ledger.path / "array.npy", np.array([Planted(marker)], object), allow_pickle=True)
    asked.clear()
    assert ledger.audit().good
    assert places
    assert asked == []


def with_metadata(path: Path, code: bytes) -> None:
    """Write a segment again, its rows as they were, its schema with code for whoever unpickles it."""
    old = pq.read_table(path) if path.suffix == ".parquet" else table_of(path)
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": code}
    fields = [field.with_metadata(extension) for field in old.schema]
    pandas = {**(old.schema.metadata or {}), "pandas": code, "huggingface": code}
    table = pa.table(old.columns, schema=pa.schema(fields, metadata=pandas)).combine_chunks()
    path.unlink()
    if path.suffix == ".parquet":
        pq.write_table(table, path, compression="NONE", use_dictionary=False, write_statistics=False)
        sealed(path)
        return
    new = pa.ipc.new_stream if path.parent.suffix == ".hf" else pa.ipc.new_file
    with path.open("wb") as file, new(file, table.schema) as writer:
        writer.write_table(table)


def table_of(path: Path) -> pa.Table:
    content = pa.BufferReader(path.read_bytes())
    return (pa.ipc.open_stream if path.parent.suffix == ".hf" else pa.ipc.open_file)(content).read_all()


def sealed(path: Path) -> None:
    """Put the digest of docs/format.md before the footer, as who can write files can."""
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:start] + sha256(content[start:]).digest()[:16] + content[start:])


@pytest.mark.parametrize("way", [way for way in FORMATS if way != "jsonl"])
def test_a_pickled_arrow_type_is_not_loaded(way: str, tmp_path: Path, marker: Path, asked: list[str]) -> None:
    ledger = stored(way, tmp_path)
    segments = [path for path in ledger.path.rglob("*") if path.suffix in {".arrow", ".parquet"}]
    for path in segments:
        with_metadata(path, pickle.dumps(Planted(marker), 0))
    ledger.damaging = False  # the rows are there: they are data, and found
    asked.clear()
    assert ledger.audit().good
    assert segments
    assert [name for name in asked if not name.startswith("pyarrow")] == []


@pytest.mark.parametrize("way", MANAGERS)
def test_a_pickle_in_place_of_a_checkpoint_is_an_error(way: str, tmp_path: Path, marker: Path) -> None:
    if way not in WAYS:
        pytest.skip("needs the extra `datasets`")
    manager = WAYS[way](tmp_path)
    manager.save_checkpoint("x", [Record(text="a")])
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(pickle.dumps(Planted(marker)))
    with pytest.raises(CheckpointError):
        manager.load_checkpoint("x", Record)


def dataset(tmp_path: Path) -> tuple[HFDatasetCheckpointManager, Path]:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    manager = HFDatasetCheckpointManager(tmp_path / "checkpoints")
    manager.save_checkpoint("x", [Record(text="a")])
    assert manager.load_checkpoint("x", Record) == [Record(text="a")]
    return manager, manager.get_checkpoint_path("x")


def test_what_a_dataset_names_is_not_imported(tmp_path: Path, asked: list[str]) -> None:
    manager, path = dataset(tmp_path)
    state = json.loads((path / "state.json").read_text())
    state |= {"_format_type": "planted_format", "_fingerprint": "x", "_format_kwargs": {"dtype": "planted"}}
    (path / "state.json").write_text(json.dumps(state))
    features = {"text": {"_type": "Planted", "module": "planted_module"}}
    (path / "dataset_info.json").write_text(json.dumps({"features": features, "builder_name": "planted"}))
    asked.clear()
    assert manager.load_checkpoint("x", Record) == [Record(text="a")]
    assert asked == []


@pytest.mark.parametrize(
    "name", ["../elsewhere.arrow", "{}/elsewhere.arrow", "..", "", "sub/../../elsewhere.arrow"]
)
def test_a_dataset_that_points_out_of_its_directory_is_an_error(name: str, tmp_path: Path) -> None:
    manager, path = dataset(tmp_path)
    (data,) = path.glob("*.arrow")
    data.rename(tmp_path / "checkpoints" / "elsewhere.arrow")
    state = json.loads((path / "state.json").read_text())
    state["_data_files"] = [{"filename": name.format(tmp_path / "checkpoints")}]
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError):
        manager.load_checkpoint("x", Record)
