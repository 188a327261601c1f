"""A cache's directory as other programs meet it: git, backups, pandas, pyarrow, and a plain path."""

from __future__ import annotations

import base64
import logging
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from kura_cache_adapters import CachedEmbeddingModel, JSONLCheckpointManager, open_store
from kura_cache_adapters.stores import ArrowStore, JSONLStore, ParquetStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from kura_cache_adapters.testing.checkpoints import Leaf
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [f"text {at}" for at in range(6)]


def filled(url: str) -> FakeEmbeddingModel:
    model = FakeEmbeddingModel()
    CachedEmbeddingModel(model, url).embed_sync(TEXTS)
    return model


# A plain path


@pytest.mark.parametrize("scheme", ["arrow", "parquet", "jsonl", "hf"])
def test_a_plain_path_opens_the_format_that_is_there(scheme: str, tmp_path: Path, caplog: Any) -> None:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    model = filled(f"{scheme}://{tmp_path}/c")
    again = CachedEmbeddingModel(model, str(tmp_path / "c"))
    assert again.embed_sync([*TEXTS, "new"]) == model.lists([*TEXTS, "new"])
    assert model.calls == [TEXTS, ["new"]]
    assert {path.suffix for path in tmp_path.glob("c/*/[0-9]*")} == {f".{scheme}"}
    assert caplog.records == []


def test_a_path_object_and_one_relative_to_the_home_of_the_process_do_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = filled(f"parquet://{tmp_path}/c")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "c", "c", "./c/"):
        assert CachedEmbeddingModel(model, path).embed_sync(TEXTS) == model.lists(TEXTS)
    assert len(model.calls) == 1


@pytest.mark.parametrize("there", ["nothing", "an empty directory", "files of the user's"])
def test_a_plain_path_without_segments_is_an_arrow_store(there: str, tmp_path: Path) -> None:
    path = tmp_path / "c"
    if there == "an empty directory":
        path.mkdir()
    if there == "files of the user's":
        (path / "data").mkdir(parents=True)
        (path / "data" / "000.parquet").write_text("mine")
        (path / "summaries.jsonl").write_text("{}")
    assert isinstance(open_store(path), ArrowStore)


def test_where_there_are_several_formats_arrow_is_opened_and_a_warning_says_so(
    tmp_path: Path, caplog: Any
) -> None:
    filled(f"parquet://{tmp_path}")
    filled(f"jsonl://{tmp_path}")
    assert isinstance(open_store(tmp_path), ParquetStore)
    filled(f"arrow://{tmp_path}")
    caplog.clear()
    assert isinstance(open_store(tmp_path), ArrowStore)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert all(word in record.getMessage() for word in ("arrow, parquet, jsonl", "parquet://", str(tmp_path)))


def test_a_scheme_opens_its_own_format_whatever_is_there(tmp_path: Path) -> None:
    filled(f"parquet://{tmp_path}")
    assert isinstance(open_store(f"arrow://{tmp_path}"), ArrowStore)
    assert isinstance(open_store(f"jsonl://{tmp_path}"), JSONLStore)


def test_a_space_behind_a_link_says_nothing_about_the_format(tmp_path: Path) -> None:
    filled(f"parquet://{tmp_path}/other")
    (space,) = tmp_path.glob("other/*-*")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / space.name).symlink_to(space)
    assert isinstance(open_store(tmp_path / "c"), ArrowStore)


# Other readers


@pytest.mark.parametrize("scheme", ["parquet", "arrow"])
def test_pyarrow_reads_a_space_as_a_dataset(scheme: str, tmp_path: Path) -> None:
    space = open_store(f"{scheme}://{tmp_path}/c").space(IDENTITY)
    for at in range(3):
        space.put_many([key_of(at)], vectors_of([at]))
    table = ds.dataset(str(space.path), format="ipc" if scheme == "arrow" else scheme).to_table()  # type: ignore[attr-defined]
    assert sorted(table["key"].to_pylist()) == sorted(map(key_of, range(3)))


def test_pandas_reads_a_space_in_parquet_also_with_damaged_segments_put_aside(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    space: Any = ParquetStore(tmp_path / "c").space(IDENTITY)
    for at in range(8):
        numbers = [3 * at, 3 * at + 1, 3 * at + 2]
        space.put_many(map(key_of, numbers), vectors_of(numbers))
        if at == 0:
            inner = sorted(numbers, key=key_of)[1]
            (path,) = space.path.glob("*.parquet")
            path.write_bytes(path.read_bytes().replace(vectors_of([inner]).tobytes(), bytes(20)))
    assert len([*space.path.glob("_*.damaged")]) == 1
    frame = pandas.read_parquet(space.path)
    assert len(frame) == 23
    row = frame[frame["key"] == key_of(7)].iloc[0]
    assert np.array_equal(np.array(row["vector"]), vectors_of([7])[0])


def test_pandas_reads_each_segment_in_jsonl(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    space: Any = JSONLStore(tmp_path / "c").space(IDENTITY)
    space.put_many(map(key_of, range(3)), vectors_of([0, 1, 2]))
    (path,) = space.path.glob("[!_.]*")
    frame = pandas.read_json(path, lines=True, dtype=False).dropna(subset=["key"])
    found = {row.key: np.frombuffer(base64.b64decode(row.vector), np.float32) for row in frame.itertuples()}
    assert np.array_equal(found[key_of(1).hex()], vectors_of([1])[0])


def test_all_that_is_no_segment_in_a_space_has_a_name_that_readers_skip(tmp_path: Path) -> None:
    space: Any = ArrowStore(tmp_path / "c").space(IDENTITY)
    for at in range(20):
        space.put_many([key_of(at)], vectors_of([at]))
    names = {path.name for path in space.path.iterdir() if path.suffix != ".arrow"}
    assert names == {"_identity.json"}


def test_a_space_without_its_description_is_found_and_described_again_by_the_next_write(
    tmp_path: Path,
) -> None:
    model = filled(f"arrow://{tmp_path}/c")
    (described,) = tmp_path.glob("c/*/_identity.json")
    described.rename(described.with_name("identity.json"))  # as it was called
    cached = CachedEmbeddingModel(model, tmp_path / "c")
    assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
    assert len(model.calls) == 1
    assert open_store(tmp_path / "c").spaces() == []
    cached.embed_sync(["new"])
    assert open_store(tmp_path / "c").spaces() == [cached.identity()]


# git and backups


def git(directory: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-c", "core.excludesFile=", *words]
    run = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True)
    return run.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    git(tmp_path, "init", "-q")
    (tmp_path / "main.py").write_text("mine")
    return tmp_path


@pytest.mark.parametrize("scheme", ["arrow", "parquet", "jsonl"])
@pytest.mark.parametrize("place", ["cache", "deep/below/cache"])
def test_git_leaves_alone_a_cache_in_a_directory_that_was_made_for_it(
    scheme: str, place: str, repository: Path
) -> None:
    filled(f"{scheme}://{repository}/{place}")
    git(repository, "add", ".")
    assert git(repository, "ls-files").split() == ["main.py"]
    assert git(repository, "status", "--porcelain").split() == ["A", "main.py"]


def test_a_directory_that_was_there_gets_neither_gitignore_nor_tag(repository: Path) -> None:
    (repository / "cache").mkdir()
    filled(f"arrow://{repository}/cache")
    filled(f"arrow://{repository}")
    assert not [*repository.rglob(".gitignore"), *repository.rglob("CACHEDIR.TAG")]


def test_a_gitignore_of_the_users_stays_as_it_is(repository: Path) -> None:
    (repository / "cache").mkdir()
    (repository / "cache" / ".gitignore").write_text("mine\n")
    filled(f"arrow://{repository}/cache")
    assert (repository / "cache" / ".gitignore").read_text() == "mine\n"


def test_what_the_user_puts_beside_the_vectors_is_not_hidden_from_git(repository: Path) -> None:
    filled(f"jsonl://{repository}/cache")
    manager = JSONLCheckpointManager(repository / "cache")
    manager.save_checkpoint("summaries", [Leaf(value=1)])
    (repository / "cache" / "notes").mkdir()
    (repository / "cache" / "notes" / "today-2026.md").write_text("mine")
    git(repository, "add", ".")
    assert git(repository, "ls-files").split() == [
        "cache/notes/today-2026.md",
        "cache/summaries.jsonl",
        "main.py",
    ]


def test_a_gitignore_that_was_deleted_or_changed_is_not_written_again(repository: Path) -> None:
    filled(f"arrow://{repository}/cache")
    (repository / "cache" / ".gitignore").write_text("")
    (repository / "cache" / "CACHEDIR.TAG").unlink()
    CachedEmbeddingModel(FakeEmbeddingModel("another"), repository / "cache").embed_sync(TEXTS)
    assert (repository / "cache" / ".gitignore").read_text() == ""
    assert not (repository / "cache" / "CACHEDIR.TAG").exists()


def test_backups_know_a_cache_by_its_tag(tmp_path: Path) -> None:
    filled(f"arrow://{tmp_path}/cache")
    tag = (tmp_path / "cache" / "CACHEDIR.TAG").read_bytes()
    assert tag.startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")
    if tar := shutil.which("tar"):
        command = [tar, "--exclude-caches-all", "-cf", str(tmp_path / "backup.tar"), "cache"]
        if subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 0:
            listed = subprocess.run([tar, "-tf", "backup.tar"], cwd=tmp_path, check=True, capture_output=True)
            assert b".arrow" not in listed.stdout
