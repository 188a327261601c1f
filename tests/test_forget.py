"""Forgetting to the last byte: in every tier, format and role, beside writers, with a true receipt."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    CacheOptions,
    MemoryStore,
    TieredStore,
    open_cache,
    open_store,
)
from kura_cache_adapters._disk import locks
from kura_cache_adapters._segments import forget as forgetting
from kura_cache_adapters._segments.directory import SegmentStore
from kura_cache_adapters._segments.tombstones import Tombstones
from kura_cache_adapters._segments.writer import Writer
from kura_cache_adapters.stores.checkpoint import CheckpointStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.damage import contents, segments
from tests.faults.fault_lab import FORMATS, STORES
from tests.faults.rewriting import rewrite
from tests.test_forgetting import SOON

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kura_cache_adapters import Receipt

ROOT = Path(__file__).parent.parent
DIMENSION = 24  # of vectors whose bytes no other file has by chance
TEXTS = [f"text {number}" for number in range(20)]


def model_over(cache: Any, name: str = "fake", **options: Any) -> CachedEmbeddingModel:
    fake = FakeEmbeddingModel(name, dimension=DIMENSION, roles=options.pop("roles", ()))
    return CachedEmbeddingModel(fake, cache, **options)


def traces(path: Path, texts: Iterable[str], role: str = "document", **options: Any) -> list[str]:
    """Name the files below a directory that have a vector of the texts in them, as it is or as base64."""
    vectors = FakeEmbeddingModel(dimension=DIMENSION, **options).array(texts, role)
    raw = [vector.tobytes() for vector in vectors]
    sought = [*raw, *(base64.b64encode(each) for each in raw)]
    sought += [each[at : at + 16] for each in raw for at in (0, 32, 80)]
    files = [file for file in path.rglob("*") if file.is_file()]
    return [str(file) for file in files if any(each in file.read_bytes() for each in sought)]


def plain(url: str) -> SegmentStore:
    store = open_store(url)
    assert isinstance(store, SegmentStore)
    return store


WRITER = """
import sys
from tests.test_forget import *
model = model_over(sys.argv[1], options=CacheOptions(durable=False))
model.embed_sync(TEXTS)
print("ready", flush=True)
for number in range(10**6):
    model.embed_sync([f"{sys.argv[2]} {number}"])
"""


LONG = [pytest.param(way, marks=pytest.mark.long) for way in ("parquet", "hf")]


@pytest.mark.parametrize("way", ["arrow", "jsonl", *LONG])
def test_under_four_writers_no_byte_of_a_forgotten_vector_is_left_on_disk(way: str, tmp_path: Path) -> None:
    if way not in FORMATS:
        pytest.skip("needs the extra `datasets`")
    url = f"{way}://{tmp_path}/cache"
    mine, other = model_over(url), model_over(url)
    mine.embed_sync(TEXTS)
    other.embed_sync(TEXTS)
    command = [sys.executable, "-c", WRITER, url]
    writers = [
        subprocess.Popen([*command, str(number)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for at in range(0, 15, 5):
            receipt = mine.forget(TEXTS[at : at + 5])
            assert receipt.complete
            assert receipt.there == 5
            assert mine.missing(TEXTS) == [*range(at + 5)]
        end = time.monotonic() + SOON
        while other.missing(TEXTS) != [*range(15)]:
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert traces(tmp_path, TEXTS[:15]) == []
    assert len(traces(tmp_path, TEXTS[15:])) > 0
    assert model_over(url).missing(TEXTS) == [*range(15)]


@pytest.mark.parametrize("way", FORMATS)
def test_what_was_set_aside_and_what_was_left_behind_goes_too(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "_WRITING", 0.01)
    model = model_over(STORES[way](tmp_path))
    model.embed_sync(TEXTS)
    (segment,) = segments(tmp_path)
    copy: Any = shutil.copytree if segment.is_dir() else shutil.copy
    copy(segment, segment.with_name(f"_{segment.name}.damaged"))
    copy(segment, segment.with_name(f".{segment.name}.99-01234567.tmp"))
    receipt = model.forget(TEXTS[:3])
    assert receipt.complete
    assert len(receipt.spaces[0].removed) == 3
    assert [name for name in segment.parent.iterdir() if "tmp" in name.name or "damaged" in name.name] == []
    assert way == "parquet-zstd" or traces(tmp_path, TEXTS[:3]) == []
    assert model.missing(TEXTS) == [0, 1, 2]


def test_a_writer_whose_file_is_removed_writes_it_once_more(tmp_path: Path) -> None:
    space = plain(f"arrow://{tmp_path}").space(model_over(None).identity())
    key = bytes(32)
    write = space._writer._format.write

    def remove_once(path: Path, rows: Any) -> None:
        write(path, rows)
        if not hasattr(remove_once, "done"):
            remove_once.done = True  # type: ignore[attr-defined]
            path.unlink()

    space._writer._format.write = remove_once  # type: ignore[method-assign]
    space.put_many([key], np.ones((1, 3), np.float32))
    assert len(space.get_many([key]).positions) == 1


def test_what_is_being_written_as_it_is_forgotten_goes_too(tmp_path: Path) -> None:
    space = plain(f"arrow://{tmp_path}").space(model_over(None).identity())
    model = model_over(tmp_path)
    model.embed_sync(TEXTS[2:])
    written, go_on = threading.Event(), threading.Event()
    write = space._writer._format.write

    def write_slowly(path: Path, rows: Any) -> None:
        write(path, rows)
        written.set()
        go_on.wait()

    space._writer._format.write = write_slowly  # type: ignore[method-assign]
    vectors = FakeEmbeddingModel(dimension=DIMENSION).array(TEXTS[:2])
    keys = [bytes.fromhex(model.cache_key(text)) for text in TEXTS[:2]]
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(space.put_many, keys, vectors)
        written.wait()
        forgetting = pool.submit(model.forget, TEXTS[:2])
        time.sleep(0.1)
        go_on.set()
        writing.result()
        assert forgetting.result().complete
    assert traces(tmp_path, TEXTS[:2]) == []


KILLED = """
import os, sys
from tests.test_forget import *
from kura_cache_adapters._segments.merge import Merger
Merger._retire = lambda *_, **__: os._exit(9)
model_over(sys.argv[1]).forget(TEXTS[:3])
"""


def test_who_is_killed_while_it_forgets_has_hidden_them_and_may_forget_again(tmp_path: Path) -> None:
    model_over(tmp_path).embed_sync(TEXTS)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=60).returncode == 9
    model = model_over(tmp_path)
    assert model.missing(TEXTS) == [0, 1, 2]
    assert traces(tmp_path, TEXTS[:3])
    assert model.forget(TEXTS[:3]).complete
    assert traces(tmp_path, TEXTS[:3]) == []


@pytest.mark.parametrize("way", FORMATS)
def test_a_damaged_row_of_a_forgotten_key_goes_with_its_file(way: str, tmp_path: Path) -> None:
    model = model_over(STORES[way](tmp_path))
    model.embed_sync(TEXTS)
    rewrite(contents(segments(tmp_path)[0])[0], lambda columns: columns["checksum"].__setitem__(3, 1))
    keys = {model.cache_key(text): text for text in TEXTS}
    (damaged,) = model.missing(TEXTS)
    receipt = model.forget([TEXTS[damaged]])
    assert receipt.complete
    assert len(receipt.keys) == 1
    assert receipt.keys[0] in keys
    assert [*tmp_path.rglob("*.damaged")] == []
    assert way == "parquet-zstd" or traces(tmp_path, [TEXTS[damaged]]) == []
    assert model.missing(TEXTS) == [damaged]


def test_a_model_forgets_for_every_role_and_parameter_and_no_other_model(tmp_path: Path) -> None:
    roles: dict[str, Any] = {"roles": ("query",)}
    variants = [model_over(tmp_path, **roles, temperature=at) for at in (0, 1)]
    other = model_over(tmp_path, "other")
    for each in [*variants, other]:
        each.embed_sync(TEXTS[:4])
    variants[1].embed_sync(TEXTS[:4], role="query")
    receipt = model_over(tmp_path, **roles, temperature=0).forget(TEXTS[:2])
    assert receipt.there == 2 * 3
    assert receipt.complete
    variants = [model_over(tmp_path, **roles, temperature=at) for at in (0, 1)]
    for each in variants:
        assert each.missing(TEXTS[:4]) == [0, 1]
    assert variants[1].missing(TEXTS[:4], role="query") == [0, 1]
    assert other.missing(TEXTS[:4]) == []
    for role in ("document", "query"):
        assert traces(tmp_path, TEXTS[:2], role, **roles) == []


def test_what_decides_one_role_only_is_in_the_keys_that_are_forgotten(tmp_path: Path) -> None:
    class Prefixed(FakeEmbeddingModel):
        def identity(self) -> dict[str, Any]:
            return {"prefix": "", "roles": {"query": {"prefix": "query: "}}}

    def opened() -> CachedEmbeddingModel:
        return CachedEmbeddingModel(Prefixed(roles=("query", "other")), tmp_path)

    for role in ("document", "query", "other"):
        opened().embed_sync(TEXTS[:3], role=role)
    assert opened().forget(TEXTS[:1]).there == 3
    for role in ("document", "query", "other"):
        assert opened().missing(TEXTS[:3], role=role) == [0]


def test_a_cache_forgets_keys_of_any_model_and_refuses_what_is_none(tmp_path: Path) -> None:
    models = [model_over(tmp_path, name) for name in ("fake", "other")]
    for each in models:
        each.embed_sync(TEXTS)
    keys: list[Any] = [models[0].cache_key(TEXTS[0]), bytes.fromhex(models[1].cache_key(TEXTS[1])), bytes(32)]
    with open_cache(tmp_path) as cache:
        receipt = cache.forget([*keys, keys[0]])
        for wrong in ("ab", b"ab", "x" * 64, 32):
            with pytest.raises(ValueError, match="a key has 32 bytes"):
                cache.forget([cast("str", wrong)])
        assert cache.forget([]).spaces == ()
    assert (receipt.there, len(receipt.keys), receipt.complete) == (2, 3, True)
    assert [each.missing(TEXTS) for each in models] == [[0], [1]]


def test_a_space_that_does_not_say_whose_it_is_is_forgotten_in_by_keys_and_named_otherwise(
    tmp_path: Path,
) -> None:
    one, two = (model_over(tmp_path, at=at) for at in (1, 2))
    for each in (one, two):
        each.embed_sync(TEXTS)
    (tmp_path / two.identity().directory / "_identity.json").write_bytes(b"x" * 5000)
    receipt = one.forget(TEXTS[:2])
    assert (receipt.there, receipt.complete) == (2, False)
    assert two.identity().directory in receipt.unreachable[0].where
    assert open_cache(tmp_path).forget([two.cache_key(text) for text in TEXTS[:2]]).complete
    assert traces(tmp_path, TEXTS[:2]) == []
    assert model_over(tmp_path, at=2).missing(TEXTS) == [0, 1]


def test_what_another_format_has_left_in_the_directory_is_reached(tmp_path: Path) -> None:
    for scheme in ("parquet", "jsonl", "arrow"):
        model_over(f"{scheme}://{tmp_path}").embed_sync(TEXTS)
    receipt = model_over(f"arrow://{tmp_path}").forget(TEXTS[:2])
    assert {space.store.partition("(")[0] for space in receipt.spaces} == {
        "ArrowStore",
        "ParquetStore",
        "JSONLStore",
    }
    assert receipt.complete
    assert traces(tmp_path, TEXTS[:2]) == []
    assert len(traces(tmp_path, TEXTS[2:])) == 3


def test_a_file_that_cannot_be_read_is_in_the_receipt_until_a_repair(tmp_path: Path) -> None:
    model = model_over(tmp_path)
    model.embed_sync(TEXTS[:3])
    model.embed_sync(TEXTS[3:])
    path = min(segments(tmp_path))
    content = path.read_bytes()
    path.write_bytes(content[:50] + bytes(50) + content[100:])
    receipt = model.forget(TEXTS)
    assert not receipt.complete
    assert str(path) in [trouble.where for trouble in receipt.unreachable]
    assert "repair=True" in receipt.unreachable[0].why
    assert len(traces(tmp_path, TEXTS)) == 1
    assert model.cache is not None
    assert model.cache.verify(repair=True).sound
    assert model.forget(TEXTS).complete
    assert traces(tmp_path, TEXTS) == []


def test_rows_that_cannot_be_rewritten_are_hidden_and_in_the_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_over(tmp_path)
    model.embed_sync(TEXTS)

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "write", full)
        receipt = model.forget(TEXTS[:2])
    assert (receipt.there, receipt.complete) == (2, False)
    assert "the rows of 2 keys" in receipt.unreachable[0].why
    assert model.missing(TEXTS) == [0, 1]
    with monkeypatch.context() as patched:
        patched.setattr(Tombstones, "add", full)
        assert "No space left" in model.forget(TEXTS[2:4]).unreachable[0].why
    assert model.missing(TEXTS) == [0, 1]
    assert model.forget(TEXTS[:2]).complete
    assert traces(tmp_path, TEXTS[:2]) == []


def test_a_lock_that_somebody_keeps_is_in_the_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_TRIES", 1)
    model = model_over(tmp_path)
    model.embed_sync(TEXTS)
    space = tmp_path / model.identity().directory
    with locks.try_lock(space) as alone:
        assert alone
        receipt = model.forget(TEXTS[:2])
        assert model.cache is not None
        segments(tmp_path)[0].rename(space / f"000000009-{'0' * 16}.arrow")
        assert not model.cache.verify(repair=True).sound
    assert "held its lock" in receipt.unreachable[0].why
    assert model.cache.verify(repair=True).sound
    assert model.forget(TEXTS[:2]).complete


@pytest.mark.parametrize("order", ["front", "middle", "back"])
def test_a_tier_that_fails_keeps_no_other_from_it_and_brings_nothing_back(
    order: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Foreign:
        """A foreign store over an ArrowStore: what it has is served, and cannot be deleted."""

        def __init__(self) -> None:
            self._inside = MemoryStore()

        def space(self, identity: Any) -> Any:
            space: Any = self._inside.space(identity)
            space.delete_many = self.refuse
            return space

        def spaces(self) -> list[Any]:
            return self._inside.spaces()

        def close(self) -> None:
            pass

        def refuse(self, *_: object) -> int:
            raise OSError(5, "the server is away", "far")

    memory, disk, foreign = MemoryStore(), ArrowStore(tmp_path), Foreign()
    stores: dict[str, list[Any]] = {
        "front": [foreign, memory, disk],
        "middle": [memory, foreign, disk],
        "back": [memory, disk, foreign],
    }
    tiers = TieredStore(*stores[order])
    model = model_over(tiers)
    model.embed_sync(TEXTS)
    receipt = model.forget(TEXTS[:4])
    assert (receipt.there, receipt.complete) == (4, False)
    assert [trouble.where for trouble in receipt.unreachable] == [repr(foreign)]
    assert "away" in receipt.unreachable[0].why
    assert traces(tmp_path, TEXTS[:4]) == []
    for each in (model, model_over(TieredStore(*stores[order]))):
        assert each.missing(TEXTS) == [0, 1, 2, 3]
    assert traces(tmp_path, TEXTS[:4]) == []
    asked = model.embedding_model
    assert isinstance(asked, FakeEmbeddingModel)
    model.embed_sync(TEXTS)
    model.embed_sync(TEXTS)
    assert asked.calls == [TEXTS, TEXTS[:4]]


def test_keys_owed_to_a_tier_are_not_paid_after_they_are_forgotten(tmp_path: Path) -> None:
    one, two = ArrowStore(tmp_path / "one"), ArrowStore(tmp_path / "two")
    model = model_over(TieredStore(one, two))
    space = one.space(model.identity().shared)
    put, space.put_many = space.put_many, None  # type: ignore[method-assign,assignment] # it fails
    model.embed_sync(TEXTS[:4])
    space.put_many = put  # type: ignore[method-assign]
    assert model.forget(TEXTS[:2]).there == 2
    model.embed_sync(TEXTS[4:])
    assert traces(tmp_path, TEXTS[:2]) == []
    assert len(traces(tmp_path / "one", TEXTS[2:4])) == 1


class Manager:
    """A checkpoint manager that is nobody's we know."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def is_enabled(self) -> bool:
        return True

    def load_checkpoint(self, filename: str, _: Any) -> Any:
        return self.kept.get(filename)

    def save_checkpoint(self, filename: str, data: Any) -> None:
        self.kept[filename] = data


class Deleting(Manager):
    def list_checkpoints(self) -> list[str]:
        return [*self.kept]

    def delete_checkpoint(self, filename: str) -> bool:
        return self.kept.pop(filename, None) is not None


def test_a_checkpoint_manager_forgets_where_it_can_and_says_where_it_cannot() -> None:
    for manager, able in ((Deleting(), True), (Manager(), False)):
        model = model_over(manager)
        model.embed_sync(TEXTS)
        receipt = open_cache(manager).forget([model.cache_key(text) for text in TEXTS[:3]])  # a new process
        assert (receipt.complete, receipt.there) == (able, 3 * able)
        assert model.missing(TEXTS) == ([0, 1, 2] if able else [])


def test_kuras_own_manager_forgets(tmp_path: Path) -> None:
    checkpoints = pytest.importorskip("kura.checkpoints", reason="needs the extra `kura`")
    manager = checkpoints.JSONLCheckpointManager(str(tmp_path))
    model = model_over(manager)
    model.embed_sync(TEXTS)
    receipt = model.forget(TEXTS[:3])
    assert (receipt.complete, receipt.there, len(receipt.spaces[0].removed)) == (True, 3, 3)
    assert traces(tmp_path, TEXTS[:3]) == []
    assert model.missing(TEXTS) == [0, 1, 2]


def test_a_text_is_forgotten_as_it_is_and_as_the_model_edits_it(tmp_path: Path) -> None:
    class Editing(FakeEmbeddingModel):
        def asked_for(self, text: str) -> str:
            return text.strip()

    plain_model = model_over(tmp_path, at=1)
    editing = CachedEmbeddingModel(Editing(dimension=DIMENSION), tmp_path, at=2)
    for each in (plain_model, editing):
        each.embed_sync([" a ", "b"])
    receipt = editing.forget([" a "])
    assert receipt.there == 2
    assert model_over(tmp_path, at=1).missing([" a ", "b"]) == [0]
    assert editing.missing([" a ", "b"]) == [0]


def test_a_manager_that_keeps_what_it_was_to_delete_is_named() -> None:
    class Stubborn(Deleting):
        def delete_checkpoint(self, filename: str) -> bool:
            return filename in self.kept

    manager = Stubborn()
    model = model_over(manager)
    model.embed_sync(TEXTS[:2])
    receipt = model.forget(TEXTS[:1])
    assert receipt.unreachable[0].why == "the manager has not deleted it"
    assert CheckpointStore(manager).forget([], days=1, within=None)[0].keys == ()


def test_a_key_made_with_another_secret_is_not_reached_and_none_is_made_without_one(tmp_path: Path) -> None:
    secrets = [CacheOptions(key_secret=letter * 16) for letter in "ab"]
    one, two = (model_over(tmp_path, options=options) for options in secrets)
    bare = model_over(tmp_path)
    for each in (one, two, bare):
        each.embed_sync(TEXTS)
    receipt = one.forget(TEXTS[:1])
    assert receipt.keys == (one.cache_key(TEXTS[0]),)
    assert [each.missing(TEXTS) for each in (one, two, bare)] == [[0], [], []]
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("_forgotten-*"))
    assert bytes.fromhex(bare.cache_key(TEXTS[0])) not in content


def test_a_text_is_forgotten_in_memory_with_its_remembered_key() -> None:
    store = MemoryStore()
    model = model_over(store)
    model.embed_sync(TEXTS)
    assert model.forget(TEXTS[:1]).there == 1
    assert not any(store.remembered_keys._known.values())
    assert model.missing(TEXTS) == [0]


def test_a_receipt_is_json_and_says_what_was_done(tmp_path: Path) -> None:
    model = model_over(tmp_path)
    model.embed_sync(TEXTS)
    receipt: Receipt = model.forget(TEXTS[:1], days=7)
    said = json.loads(receipt.to_json())
    assert said["version"] == 1
    assert said["keys"] == [model.cache_key(TEXTS[0])]
    assert (said["there"], said["complete"], said["days"]) == (1, True, 7)
    assert said["spaces"][0]["space"] == model.identity().directory
    assert said["at"].endswith("+00:00")
    assert model_over(None).forget(TEXTS).there == 0


def test_it_holds_against_a_backup_for_as_long_as_was_said(tmp_path: Path) -> None:
    model = model_over(tmp_path / "cache")
    model.embed_sync(TEXTS)
    shutil.copytree(tmp_path / "cache", tmp_path / "backup")
    model.forget(TEXTS[:2])
    shutil.copytree(tmp_path / "backup", tmp_path / "cache", dirs_exist_ok=True)
    assert model_over(tmp_path / "cache").missing(TEXTS) == [0, 1]
    assert model.forget(TEXTS[:2]).there == 0
    assert traces(tmp_path / "cache", TEXTS[:2]) == []
