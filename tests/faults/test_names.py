"""Names of checkpoints: all managers of ours refuse the same ones, and no other leaves its directory."""

# ruff: noqa: RUF001 - look-alikes are under test

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from kura_cache_adapters import CachedEmbeddingModel, CheckpointError
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.fault_lab import MANAGERS, WAYS

MINE = [way for way in MANAGERS if way in WAYS]
PIECES = [
    *["..", ".", "/", "\\", "\0", "~", "C:", "//host/share/", "%2e%2e%2f", "$HOME", "*", "?", "|", "a", "B"],
    *["con", "NUL", "com1", "lpt9", "conout$", ".txt", ".jsonl", ".parquet", ".tmp", ".previous", " ", "-"],
    *["e\u0301", "\u200d", "\u202e", "\ufeff", "\udcff", "\n", "x" * 199, "ü" * 100, *"．／＼∕⁄∖꞉․‥ﬁé"],
]
NAMES = st.lists(st.sampled_from(PIECES), max_size=4).map("".join) | st.text(max_size=12)


class Record(BaseModel):
    text: str


def refusal(operation: Any) -> str | None:
    """Return what an operation says about a name; None when it takes it."""
    try:
        operation()
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return None


def refusals(manager: Any, name: Any) -> set[str | None]:
    operations = [
        partial(manager.get_checkpoint_path, name),
        partial(manager.load_checkpoint, name, Record),
        partial(manager.save_checkpoint, name, [Record(text="a")]),
        partial(manager.delete_checkpoint, name),
    ]
    return set(map(refusal, operations))


def below(path: Path) -> set[Path]:
    return set(path.rglob("*"))


@example("../x")
@example("x" * 300)
@example("a\0b")
@example("nul.jsonl.jsonl")
@example(".jsonl.parquet")
@example("a .jsonl")
@example("a..parquet")
@settings(max_examples=150, deadline=None, derandomize=True)
@given(NAMES)
def test_a_name_is_refused_by_all_or_stays_inside(name: str) -> None:
    with TemporaryDirectory() as directory:
        root = Path(directory)
        managers = {way: WAYS[way](root / "inside" / way) for way in MINE}
        before = below(root)
        answers = {way: refusals(manager, name) for way, manager in managers.items()}
        (answer,) = set.union(*answers.values())
        assert below(root) == before  # what was saved, was deleted
        if answer is not None:
            assert answer.startswith("ValueError: ")
            assert "is no name for a checkpoint" in answer
            return
        for way, manager in managers.items():
            manager.save_checkpoint(name, [Record(text=way)])
            listed = manager.list_checkpoints()  # several managers may call it by several names
            assert [manager.load_checkpoint(each, Record) for each in listed] == [[Record(text=way)]] * len(
                listed
            )
            inside = root / "inside" / way
            assert all(path.is_relative_to(inside) for path in below(root) - before if way in path.parts)
            assert listed
            deleted = [manager.delete_checkpoint(each) for each in listed]
            assert any(deleted)
        assert below(root) == before


@pytest.mark.parametrize("name", ["..", "/etc/passwd", "x" * 300, "a∕b", ""])
@pytest.mark.parametrize("way", MINE)
def test_a_manager_that_is_switched_off_refuses_the_same(way: str, name: str, tmp_path: Path) -> None:
    on, off = WAYS[way](tmp_path), WAYS[way](tmp_path)
    for manager in [off, *getattr(off, "managers", [])]:
        manager.enabled = False
    assert refusals(on, name) == refusals(off, name) != {None}


@pytest.mark.parametrize("way", MINE)
def test_files_without_a_name_of_ours_are_not_listed(way: str, tmp_path: Path) -> None:
    manager = WAYS[way](tmp_path)
    manager.save_checkpoint("x", [Record(text="a")])
    for one in getattr(manager, "managers", [manager]):
        path = one.get_checkpoint_path("x")
        for name in ["con", "a\nb", "e\u0301", "trailing ", "a∕b"]:
            path.rename(path.with_name(f"{name}{path.suffix}"))
            one.save_checkpoint("x", [Record(text="a")])
        assert one.list_checkpoints() == ["x"]


@pytest.mark.parametrize("way", MINE)
def test_no_checkpoint_takes_the_place_of_a_caches_vectors(way: str, tmp_path: Path) -> None:
    manager = WAYS[way](tmp_path)
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, manager)
    cached.embed_sync(["a"])
    for one in getattr(manager, "managers", [manager]):
        with suppress(CheckpointError):  # or it lies beside
            one.save_checkpoint(cached.identity().directory, [Record(text="a")])
    assert CachedEmbeddingModel(model, WAYS[way](tmp_path)).embed_sync(["a"]) == model.lists(["a"])
    assert len(model.calls) == 1
