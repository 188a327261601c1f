"""Symbolic links inside a cache: nothing outside of it is created, changed or deleted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

from kura_cache_adapters import CheckpointError
from tests.faults.fault_lab import MANAGERS, WAYS, Ledger

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [f"text {at}" for at in range(12)]
MERGES = 9  # so many segments of one row are merged

pytestmark = pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="needs O_NOFOLLOW")


class Record(BaseModel):
    text: str


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    """Read all that is below a path: bytes, and when each was changed."""
    found = {}
    for each in [path, *path.rglob("*")]:
        status = each.lstat()
        content = each.read_bytes() if each.is_file() else b""
        found[str(each.relative_to(path))] = (content, status.st_mtime_ns)
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Make a directory that is no part of the cache."""
    outside = tmp_path / "outside"
    (outside / "empty").mkdir(parents=True)
    (outside / "file").write_text("somebody's")
    return outside


def filled(way: str, tmp_path: Path) -> Ledger:
    ledger = Ledger(way, tmp_path / "cache", "symbolic links", damaging=True)
    ledger.ask(ledger.open(), TEXTS)
    return ledger


def spaces(path: Path) -> list[Path]:
    return sorted(file.parent for file in path.rglob("_identity.json"))


def use(ledger: Ledger) -> None:
    """Look up, store often enough for a merge, and delete."""
    cached = ledger.open()
    ledger.ask(cached, TEXTS)
    for number in range(MERGES):
        ledger.ask(cached, [f"more {number}"])
    space = cached._store.space(cached.identity())  # type: ignore[union-attr]
    try:
        space.delete_many([bytes.fromhex(cached.cache_key(text)) for text in TEXTS])
        list(space.keys())
    except OSError:
        pass  # a store says so; what counts is what it has not touched
    assert (ledger.outcome.wrong, ledger.outcome.raised) == (0, 0)


@pytest.mark.parametrize("way", WAYS)
def test_a_space_that_is_a_link_is_not_written_through(way: str, tmp_path: Path, outside: Path) -> None:
    ledger = filled(way, tmp_path)
    for number, space in enumerate(spaces(ledger.path)):
        space.rename(outside / f"moved {number}")
        space.symlink_to(outside / f"moved {number}")
    before = contents(outside)
    use(ledger)
    ledger.open()._store.spaces()  # type: ignore[union-attr]
    assert contents(outside) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_space_that_becomes_a_link_while_it_is_open_is_not_written_through(
    way: str, tmp_path: Path, outside: Path
) -> None:
    ledger = filled(way, tmp_path)
    cached = ledger.open()
    ledger.ask(cached, TEXTS)
    for number, space in enumerate(spaces(ledger.path)):
        space.rename(outside / f"moved {number}")
        space.symlink_to(outside / f"moved {number}")
    before = contents(outside)
    for number in range(MERGES):
        cached.add([f"more {number}"], cached.embedding_model.array([f"more {number}"]))  # type: ignore[attr-defined]
    assert contents(outside) == before


@pytest.mark.parametrize("target", ["empty", "missing", "file"])
@pytest.mark.parametrize("way", WAYS)
def test_a_link_that_waits_for_the_first_write_leads_nowhere(
    way: str, target: str, tmp_path: Path, outside: Path
) -> None:
    twin = filled(way, tmp_path / "twin")
    places = [space.relative_to(twin.path) for space in spaces(twin.path)]
    ledger = Ledger(way, tmp_path / "cache", "symbolic links", damaging=True)
    ledger.open()
    for place in places:
        (ledger.path / place).parent.mkdir(parents=True, exist_ok=True)
        (ledger.path / place).symlink_to(outside / target)
    before = contents(outside)
    use(ledger)
    assert places
    assert contents(outside) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_link_in_place_of_any_file_is_not_followed(way: str, tmp_path: Path, outside: Path) -> None:
    ledger = filled(way, tmp_path)
    files = [path for path in ledger.path.rglob("*") if path.is_file()]
    for number, path in enumerate(files):
        path.rename(outside / f"moved {number}")
        path.symlink_to(outside / f"moved {number}")
    before = contents(outside)
    cached = ledger.open()
    ledger.ask(cached, TEXTS)
    assert cached.stats.hits == 0  # a segment behind a link is not read either
    use(ledger)
    ledger.open()._store.spaces()  # type: ignore[union-attr]
    assert contents(outside) == before
    assert ledger.audit().good


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith(("hf", "HF"))])
def test_a_link_in_place_of_a_dataset_is_not_followed(way: str, tmp_path: Path, outside: Path) -> None:
    ledger = filled(way, tmp_path)
    (dataset,) = ledger.path.rglob("*.hf")
    dataset.rename(outside / "moved")
    dataset.symlink_to(outside / "moved")
    before = contents(outside)
    cached = ledger.open()
    ledger.ask(cached, TEXTS)
    assert cached.stats.hits == 0
    use(ledger)
    assert contents(outside) == before
    assert ledger.audit().good


@pytest.mark.parametrize("way", WAYS)
def test_what_killed_writers_left_is_removed_and_not_followed(
    way: str, tmp_path: Path, outside: Path
) -> None:
    ledger = filled(way, tmp_path)
    for space in spaces(ledger.path):
        for name, target in [(".a.arrow.1-00.tmp", "empty"), ("._identity.json.1-00.tmp", "file")]:
            (space / name).symlink_to(outside / target)
            os.utime(space / name, (0, 0), follow_symlinks=False)
        (space / ".d.hf.1-00.tmp").mkdir()
        (space / ".d.hf.1-00.tmp" / "link").symlink_to(outside)
        os.utime(space / ".d.hf.1-00.tmp", (0, 0))
    before = contents(outside)
    use(ledger)
    assert not list(ledger.path.rglob(".*.tmp"))
    assert contents(outside) == before


@pytest.mark.parametrize("target", ["empty", "missing", "file", "checkpoint"])
@pytest.mark.parametrize("way", MANAGERS)
def test_a_checkpoint_that_is_a_link_is_replaced_and_deleted_and_its_target_is_not(
    way: str, target: str, tmp_path: Path, outside: Path
) -> None:
    if way not in WAYS:
        pytest.skip("needs the extra `datasets`")
    elsewhere, manager = WAYS[way](outside / "other"), WAYS[way](tmp_path / "cache")
    elsewhere.save_checkpoint("checkpoint", [Record(text="theirs")])
    manager.save_checkpoint("x", [Record(text="first")])
    managers = [
        *zip(
            getattr(manager, "managers", [manager]), getattr(elsewhere, "managers", [elsewhere]), strict=True
        )
    ]

    def link() -> None:
        for mine, theirs in managers:
            assert mine.delete_checkpoint("x") or not mine.get_checkpoint_path("x").exists()
            there = theirs.get_checkpoint_path(target) if target == "checkpoint" else outside / target
            mine.get_checkpoint_path("x").unlink(missing_ok=True)
            mine.get_checkpoint_path("x").symlink_to(there)

    link()
    before = contents(outside)
    manager.save_checkpoint("x", [Record(text="mine")])
    assert manager.load_checkpoint("x", Record) == [Record(text="mine")]
    link()
    manager.list_checkpoints()
    manager.delete_checkpoint("x")
    assert contents(outside) == before


FILES = [way for way in MANAGERS if way in WAYS and way != "Multi manager"]


@pytest.mark.parametrize("way", FILES)
def test_a_checkpoint_that_is_a_link_is_not_read(way: str, tmp_path: Path, outside: Path) -> None:
    elsewhere, manager = WAYS[way](outside / "other"), WAYS[way](tmp_path / "cache")
    elsewhere.save_checkpoint("theirs", [Record(text="theirs")])
    manager.get_checkpoint_path("x").symlink_to(elsewhere.get_checkpoint_path("theirs"))
    manager.get_checkpoint_path("loop").symlink_to(manager.get_checkpoint_path("loop"))
    for name in ("x", "loop"):
        with pytest.raises(CheckpointError, match="a symbolic link is not followed"):
            manager.load_checkpoint(name, Record)


@pytest.mark.parametrize("way", FILES)
def test_a_link_to_a_checkpoint_beside_it_is_not_read_either(way: str, tmp_path: Path) -> None:
    manager = WAYS[way](tmp_path)
    manager.save_checkpoint("x", [Record(text="mine")])
    manager.get_checkpoint_path("y").symlink_to(manager.get_checkpoint_path("x").name)
    with pytest.raises(CheckpointError, match="a symbolic link is not followed"):
        manager.load_checkpoint("y", Record)
    assert manager.load_checkpoint("x", Record) == [Record(text="mine")]


@pytest.mark.parametrize("part", ["state.json", "data-00000-of-00001.arrow", "data.sha256"])
@pytest.mark.parametrize("target", ["the same content", "nothing"])
def test_no_link_inside_a_dataset_is_read(part: str, target: str, tmp_path: Path, outside: Path) -> None:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    manager = WAYS["HF manager"](tmp_path / "cache")
    manager.save_checkpoint("x", [Record(text="mine")])
    file = manager.get_checkpoint_path("x") / part
    file.rename(outside / part)
    file.symlink_to(outside / part if target == "the same content" else outside / "missing")
    with pytest.raises(CheckpointError, match="a symbolic link is not followed"):
        manager.load_checkpoint("x", Record)


def test_where_one_copy_of_a_checkpoint_is_a_link_the_other_is_read(tmp_path: Path, outside: Path) -> None:
    manager = WAYS["Multi manager"](tmp_path / "cache")
    manager.save_checkpoint("x", [Record(text="mine")])
    path = manager.get_checkpoint_path("x")
    path.unlink()
    path.symlink_to(outside / "file")
    assert manager.load_checkpoint("x", Record) == [Record(text="mine")]


def test_checkpoints_in_a_directory_that_the_user_has_linked_are_read(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "checkpoints").symlink_to(tmp_path / "elsewhere")
    for way in FILES:
        manager = WAYS[way](tmp_path / "checkpoints")
        manager.save_checkpoint(way, [Record(text=way)])
        assert manager.load_checkpoint(way, Record) == [Record(text=way)]


def test_what_a_killed_save_moved_aside_is_not_followed(tmp_path: Path, outside: Path) -> None:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    manager = WAYS["HF manager"](tmp_path / "cache")
    (tmp_path / "cache" / ".x.previous").symlink_to(outside)
    before = contents(outside)
    assert manager.list_checkpoints() == []
    manager.save_checkpoint("x", [Record(text="mine")])
    assert manager.list_checkpoints() == ["x"]
    assert contents(outside) == before


def test_a_cache_that_the_user_has_linked_is_a_cache(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "elsewhere")
    for way in WAYS:
        ledger = Ledger(way, tmp_path / "cache" / way, "a link to the cache")
        ledger.ask(ledger.open(), TEXTS)
        assert ledger.audit().good
