"""What is forgotten stays so: in other processes, beside merges, and after copies are put back."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, open_store
from kura_cache_adapters._segments.directory import SegmentStore
from kura_cache_adapters._segments.writer import Writer
from kura_cache_adapters.stores import ArrowStore, MemoryStore, TieredStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of

if TYPE_CHECKING:
    from kura_cache_adapters._segments.space import SegmentSpace
    from kura_cache_adapters.protocols import VectorSpace

SCHEMES = ["arrow", "parquet", "jsonl", "hf"]
ROOT = Path(__file__).parent.parent
SOON = 2.0  # seconds


@pytest.fixture(params=SCHEMES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "hf":
        pytest.importorskip("datasets", reason="needs the extra `datasets`")
    return f"{request.param}://{tmp_path}/cache"


def opened(url: str) -> SegmentSpace:
    store = open_store(url)
    assert isinstance(store, SegmentStore)
    return store.space(IDENTITY)


def put(space: VectorSpace, numbers: range) -> None:
    space.put_many(map(key_of, numbers), vectors_of([*numbers]), durable=False)


def found(space: VectorSpace, numbers: range) -> list[int]:
    """Return the numbers whose vectors are there, which must be the right ones."""
    hits = space.get_many(map(key_of, numbers))
    there = [numbers[at] for at in hits.positions]
    assert np.array_equal(hits.vectors, vectors_of(there) if there else hits.vectors)
    return there


def python(code: str, *values: object) -> subprocess.Popen[str]:
    head = "import sys; from tests.test_forgetting import *; "
    command = [sys.executable, "-c", head + code, *map(str, values)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_who_forget_in_one_segment_at_once_both_have_done_it(url: str) -> None:
    for round_ in range(10):
        numbers = range(100 * round_, 100 * round_ + 30)
        put(opened(url), numbers)
        spaces = [opened(url), opened(url)]
        with ThreadPoolExecutor(2) as pool:
            parts = [numbers[:10], numbers[10:20]]
            deleted = pool.map(lambda s, part: s.delete_many(map(key_of, part)), spaces, parts)
            assert [*deleted] == [10, 10]
        for space in [*spaces, opened(url)]:
            assert found(space, numbers) == [*numbers[20:]]


def test_two_processes_that_forget_in_one_segment_at_once_both_have_done_it(tmp_path: Path) -> None:
    url = f"arrow://{tmp_path}/cache"
    put(opened(url), range(30))
    code = "print(opened(sys.argv[1]).delete_many(map(key_of, range(int(sys.argv[2]), int(sys.argv[3])))))"
    processes = [python(code, url, start, start + 10) for start in (0, 10)]
    assert [int(process.communicate(timeout=60)[0]) for process in processes] == [10, 10]
    assert found(opened(url), range(30)) == [*range(20, 30)]


@pytest.mark.parametrize("memories", range(3))
def test_another_process_soon_stops_serving_what_was_forgotten(url: str, memories: int) -> None:
    store = open_store(url)
    for _ in range(memories):
        store = TieredStore(MemoryStore(), store)
    reader = store.space(IDENTITY)
    put(reader, range(20))
    assert found(reader, range(20)) == [*range(20)]
    code = "print(opened(sys.argv[1]).delete_many(map(key_of, range(5))))"
    assert python(code, url).communicate(timeout=60)[0] == "5\n"
    end = time.monotonic() + SOON
    while time.monotonic() < end and found(reader, range(1)):
        time.sleep(0.01)
    assert not found(reader, range(1))
    assert found(reader, range(20)) == [*range(5, 20)]


def test_a_late_filling_of_a_memory_tier_brings_nothing_back(tmp_path: Path) -> None:
    """The disk has answered, and forgets before the memory tier is filled with its answer."""
    disk, memory = ArrowStore(tmp_path), MemoryStore()
    space, behind = TieredStore(memory, disk).space(IDENTITY), disk.space(IDENTITY)
    put(behind, range(10))

    class Slow(type(memory.space(IDENTITY))):  # type: ignore[misc] # a base made at run time
        def put_many(self, *args: Any, **options: Any) -> None:
            behind.delete_many([key_of(3)])
            super().put_many(*args, **options)

    memory.space(IDENTITY).__class__ = Slow
    found(space, range(10))
    assert found(space, range(10)) == [0, 1, 2, *range(4, 10)]
    assert found(memory.space(IDENTITY), range(10)) == [0, 1, 2, *range(4, 10)]


def test_nothing_comes_back_while_others_write_and_merge(url: str) -> None:
    """Two writers merge all the time; what is forgotten meanwhile stays so, for all and for ever."""
    put(opened(url), range(400))
    stop = threading.Event()

    def write(start: int) -> None:
        space = opened(url)
        for at in range(start, start + 200):
            if stop.is_set():
                return
            put(space, range(1000 + at, 1001 + at))

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, start) for start in (0, 1000)]
        space = opened(url)
        for at in range(0, 100, 10):
            assert space.delete_many(map(key_of, range(at, at + 10))) == 10
            assert not found(space, range(at + 10))
        stop.set()
        [writer.result() for writer in writers]
    for each in (space, opened(url)):
        assert not found(each, range(100))
        assert found(each, range(100, 400)) == [*range(100, 400)]


def test_a_merge_that_had_read_the_rows_before_brings_none_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are rewritten with the next one at the latest, and hidden until then."""
    space, other = (ArrowStore(tmp_path).space(IDENTITY) for _ in range(2))
    writer = space._merger._writer
    write = writer.write

    def forget_first(*args: Any, **options: Any) -> str:
        if len(args[0]) > 1:  # the merged one
            monkeypatch.setattr("kura_cache_adapters._disk.locks._TRIES", 1)
            other.delete_many([key_of(3)])
        return write(*args, **options)

    monkeypatch.setattr(writer, "write", forget_first)
    for number in range(8):
        put(space, range(number, number + 1))
    assert len([*space.path.glob("*.arrow")]) < 8
    for each in (space, other, ArrowStore(tmp_path).space(IDENTITY)):
        assert found(each, range(8)) == [0, 1, 2, 4, 5, 6, 7]
        assert key_of(3) not in set(each.keys())


def test_what_is_stored_anew_while_others_sweep_is_there(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space = opened(url)
    put(space, range(4))
    space.delete_many([key_of(1)])
    swept = threading.Event()

    def write(*args: Any, **options: Any) -> str:
        name = real(*args, **options)
        sweeping.start()
        swept.wait(0.3)  # it has been written, and the tombstone still stands
        return name

    def sweep() -> None:
        opened(url).sweep()
        swept.set()

    real, sweeping = Writer.write, threading.Thread(target=sweep)
    monkeypatch.setattr(Writer, "write", write)
    put(space, range(1, 2))
    monkeypatch.undo()
    sweeping.join()
    assert found(opened(url), range(4)) == [0, 1, 2, 3]


def test_what_a_backup_brings_back_stays_forgotten_until_it_is_stored_anew(url: str, tmp_path: Path) -> None:
    space = opened(url)
    put(space, range(10))
    shutil.copytree(space.path, tmp_path / "backup")
    assert space.delete_many(map(key_of, range(5))) == 5
    shutil.copytree(tmp_path / "backup", space.path, dirs_exist_ok=True)
    late = opened(url)
    for each in (space, late):
        assert found(each, range(10)) == [*range(5, 10)]
        assert len([*each.keys()]) == 5
    put(space, range(3))
    for each in (space, late, opened(url)):
        assert found(each, range(10)) == [0, 1, 2, *range(5, 10)]
    assert space.delete_many(map(key_of, range(10))) == 8
    assert not found(late, range(10))


def test_rows_are_gone_from_the_files_at_once(url: str) -> None:
    space = opened(url)
    put(space, range(10))
    put(space, range(10, 20))
    space.delete_many(map(key_of, range(5, 15)))
    space.delete_many([key_of(99)])
    assert space.stats().rows == 10


def test_a_tombstone_is_kept_for_as_long_as_it_shall(tmp_path: Path) -> None:
    space = ArrowStore(tmp_path).space(IDENTITY)
    put(space, range(30))
    for number in range(10):
        space.delete_many([key_of(number)], days=-1 if number % 2 else 1)
    space.delete_many([key_of(10)])
    assert len([*space.path.glob("_forgotten-*")]) < 8
    assert space.forgotten() >= {key_of(number) for number in (0, 2, 4, 6, 8, 10)}
    assert key_of(1) not in space.forgotten()
    assert found(space, range(30)) == [*range(11, 30)]


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"kura_cache_adapters forgotten 2\n" + bytes(72)])
def test_a_damaged_tombstone_forgets_nothing_and_breaks_nothing(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space = ArrowStore(tmp_path).space(IDENTITY)
    put(space, range(10))
    space.delete_many([key_of(3)])
    (tombstone,) = space.path.glob("_forgotten-*")
    tombstone.write_bytes(damage)
    again = ArrowStore(tmp_path).space(IDENTITY)
    assert found(again, range(10)) == [0, 1, 2, *range(4, 10)]
    assert "Ignored the tombstone" in caplog.text
    put(again, range(3, 4))
    assert again.delete_many([key_of(4)]) == 1
    assert found(again, range(10)) == [0, 1, 2, 3, *range(5, 10)]


def test_a_tier_that_cannot_forget_keeps_no_other_from_it(tmp_path: Path) -> None:
    class Stubborn(MemoryStore):
        def space(self, identity: Any) -> Any:
            space = super().space(identity)
            space.delete_many = self.refuse  # type: ignore[method-assign]
            return space

        def refuse(self, keys: Any) -> int:
            message = f"refused {len([*keys])}"
            raise OSError(message)

    first, second = ArrowStore(tmp_path / "first"), ArrowStore(tmp_path / "second")
    space = TieredStore(first, Stubborn(), second).space(IDENTITY)
    put(space, range(10))
    with pytest.raises(OSError, match="refused 2"):
        space.delete_many([key_of(1), key_of(2)])
    for store in (first, second):
        assert found(store.space(IDENTITY), range(10)) == [0, *range(3, 10)]


def test_a_model_that_embeds_a_forgotten_text_anew_finds_it_then(tmp_path: Path) -> None:
    fake = FakeEmbeddingModel()
    stores = [TieredStore(MemoryStore(), ArrowStore(tmp_path)) for _ in range(2)]
    ours, theirs = (CachedEmbeddingModel(fake, store) for store in stores)
    ours.embed_sync(["a", "b"])
    theirs.embed_sync(["a", "b"])
    assert ours.cache is not None
    ours.cache.store.space(ours.identity().shared).delete_many([bytes.fromhex(ours.cache_key("a"))])
    time.sleep(1)
    assert theirs.missing(["a", "b"]) == [0]
    ours.embed_sync(["a", "b"])
    theirs.embed_sync(["a", "b"])
    assert fake.calls == [["a", "b"], ["a"]]
