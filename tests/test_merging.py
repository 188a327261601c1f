"""What merges write: each row a few times, whatever the dimension, the total and the size of what is put."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters._segments import merge
from kura_cache_adapters._segments.directory import SegmentStore
from kura_cache_adapters._segments.format import row_count
from kura_cache_adapters._segments.merge import MAX_MERGED_BYTES, MAX_MERGED_ROWS, full_rows, segments_due
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.stores import ArrowStore
from kura_cache_adapters.stores.arrow import ArrowFormat
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of

if TYPE_CHECKING:
    from pathlib import Path

WINDOW = 20_480
MILLION = 1_000_000


class Simulation:
    """The names of a space's segments, while rows are put and what is due is merged."""

    def __init__(self, dimension: int, itemsize: int = 8, full: int = 0) -> None:
        self.dimension, self.itemsize = dimension, itemsize
        self.limit = min(MAX_MERGED_ROWS, MAX_MERGED_BYTES // (dimension * itemsize))
        self.names: set[str] = set()
        self.serial = 0
        self.written = [0]
        self.most = 0
        for _ in range(full):
            self.add(self.limit)

    def add(self, rows: int) -> str:
        self.serial += 1
        name = f"{rows:09d}-{self.serial:016x}.arrow"
        self.names.add(name)
        return name

    def put(self, rows: int) -> None:
        self.add(rows)
        due = segments_due(self.names, full_rows(self.dimension, self.itemsize))
        merged = sum(map(row_count, due))
        assert len(due) != 1
        assert merged <= self.limit
        if due:
            self.names -= set(due)
            self.add(merged)
        self.written.append(self.written[-1] + rows + merged)
        self.most = max(self.most, len(self.names))

    def worst(self, chunk: int) -> float:
        """Return how many times its own rows the worst window has written."""
        puts = WINDOW // chunk
        totals = np.array(self.written)
        return float((totals[puts:] - totals[:-puts]).max() / (puts * chunk))


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("chunk", [32, 256, 2048])
@pytest.mark.parametrize("dimension", [384, 768, 1536, 3072])
def test_no_window_writes_more_than_four_times_its_rows(dimension: int, chunk: int, itemsize: int) -> None:
    space = Simulation(dimension, itemsize)
    for _ in range(MILLION // chunk):
        space.put(chunk)
    assert space.worst(chunk) <= 4
    assert space.most <= 22 + 1.25 * MILLION // space.limit


@pytest.mark.parametrize("dimension", [384, 768, 1536, 3072])
def test_row_by_row_no_window_writes_more_than_four_times_its_rows(dimension: int) -> None:
    """Once a full segment is merged, nothing small is left: it begins anew, with more full ones beside it.

    Its rows divide a window, so every later window, wherever it begins, writes as much as the first.
    """
    space = Simulation(dimension)
    for _ in range(space.limit):
        space.put(1)
    assert [*map(row_count, space.names)] == [space.limit]
    for at_the_end in (space, Simulation(dimension, full=MILLION // space.limit)):
        at_the_end.written = [0]
        for _ in range(WINDOW + 1000):
            at_the_end.put(1)
        assert at_the_end.worst(1) <= 4
        assert at_the_end.most <= 63 + MILLION // space.limit + 2


@pytest.mark.parametrize("chunk", [3, 17, 33, 65, 100, 129, 300, 500, 1000, 3000, 10_000, 25_000])
def test_puts_of_any_size_write_each_row_four_times_at_most_in_every_window_and_on_the_whole(
    chunk: int,
) -> None:
    space = Simulation(1536)
    for _ in range(200_000 // chunk):
        space.put(chunk)
    assert space.written[-1] <= 4 * 200_000
    assert chunk > WINDOW or space.worst(chunk) <= 4


@pytest.mark.parametrize("seed", range(4))
def test_a_row_is_rewritten_once_per_factor_of_eight_and_once_more(seed: int) -> None:
    chance = random.Random(seed)
    rewritten: dict[str, int] = {}
    smallest: dict[str, int] = {}
    space = Simulation(1536)
    for _ in range(3000):
        before = set(space.names)
        rows = int(2 ** chance.uniform(0, 12))
        put = f"{rows:09d}-{space.serial + 1:016x}.arrow"
        rewritten[put], smallest[put] = 0, rows
        space.put(rows)
        if gone := (before | {put}) - space.names:
            (merged,) = space.names - before - {put}
            rewritten[merged] = 1 + max(rewritten[name] for name in gone)
            smallest[merged] = min(smallest[name] for name in gone)
            allowed = 1 + math.log(row_count(merged), 8)
            assert rewritten[merged] <= allowed
    small = [name for name in space.names if 2 * row_count(name) <= space.limit]
    assert len(small) < 75


def test_many_large_segments_are_never_due() -> None:
    """Eight of 16,384 rows of 1,536 numbers were due for ever, and merged nothing but what was small."""
    for rows in (MAX_MERGED_ROWS, 16_384, MAX_MERGED_ROWS // 2 + 1):
        names = [f"{rows:09d}-{at:016x}.arrow" for at in range(20)]
        assert segments_due(names, full_rows(1536)) == []
        assert segments_due([*names, f"{1:09d}-{99:016x}.arrow"], full_rows(1536)) == []


def test_rows_wider_than_any_merge_are_never_due() -> None:
    names = [f"{1:09d}-{at:016x}.arrow" for at in range(20)]
    assert segments_due(names, full_rows(MAX_MERGED_BYTES)) == []


class Counting(ArrowFormat):
    """The Arrow format, which counts the bytes that it writes."""

    written = 0

    def write(self, path: Path, rows: Any) -> None:
        super().write(path, rows)
        self.written += path.stat().st_size


def test_a_real_fill_writes_a_few_times_its_vectors_and_one_more_text_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dimension, chunk = 1536, 16
    monkeypatch.setattr(merge, "MAX_MERGED_BYTES", 200 * dimension * 8)
    counting = Counting()
    space = SegmentStore(tmp_path, counting).space(IDENTITY)
    vectors = np.ones((chunk, dimension), np.float32)
    for at in range(150):
        space.put_many(map(key_of, range(chunk * at, chunk * (at + 1))), vectors, durable=False)
        assert counting.written < 4 * (at + 1) * (vectors.nbytes + 4096)
    assert len([*tmp_path.glob("*/*.arrow")]) < 40
    for at in range(20):
        counting.written = 0
        space.put_many([key_of(-1 - at)], vectors[:1], durable=False)
        assert counting.written < 300 * vectors[0].nbytes
    assert len(space.get_many(map(key_of, range(-20, 150 * chunk))).positions) == 150 * chunk + 20


def test_float32_takes_twice_the_rows_of_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "MAX_MERGED_BYTES", 64 * 8 * 8)
    largest = {}
    for dtype in (np.float32, np.float64):
        space = ArrowStore(tmp_path / np.dtype(dtype).name).space(IDENTITY)
        for at in range(60):
            numbers = [*range(8 * at, 8 * at + 8)]
            space.put_many(map(key_of, numbers), vectors_of(numbers, 8, dtype), durable=False)
        largest[dtype] = max(row_count(path.name) for path in space.path.glob("*.arrow"))
    assert largest == {np.float32: 128, np.float64: 64}


@pytest.mark.parametrize("broken", ["link", "damage", "another dimension"])
def test_segments_that_cannot_be_read_make_nobody_rewrite_anything(tmp_path: Path, broken: str) -> None:
    other = ArrowStore(tmp_path / "other").space(ModelIdentity.of("other"))
    for at in range(7):
        other.put_many([key_of(at)], vectors_of([at], 9))
    counting = Counting()
    store = SegmentStore(tmp_path / "cache", counting)
    store.space(IDENTITY).put_many([key_of(100)], vectors_of([100]))
    here = store.space(IDENTITY).path
    for path in other.path.glob("*.arrow"):
        if broken == "link":
            (here / path.name).symlink_to(path)
        elif broken == "damage":
            (here / path.name).write_bytes(path.read_bytes()[:100])
        else:
            path.rename(here / path.name)
    space = SegmentStore(tmp_path / "cache", counting).space(IDENTITY)
    counting.written = 0
    for at in range(101, 107):
        space.put_many([key_of(at)], vectors_of([at]))
        space.get_many([key_of(7)])
    puts = counting.written
    assert len([*here.glob("*.arrow")]) == 14
    space.put_many([key_of(107)], vectors_of([107]))
    assert len([*here.glob("*.arrow")]) == 8
    assert counting.written < 4 * puts
    assert len(space.get_many(map(key_of, range(100, 108))).positions) == 8


class Closed(Counting):
    """The format, where some files are another user's: opening them is refused."""

    others: frozenset[str] = frozenset()

    def read(self, path: Path) -> Any:
        if path.name in self.others:
            raise PermissionError(13, "Permission denied", str(path))
        return super().read(path)


def test_segments_of_another_user_make_nobody_rewrite_anything(tmp_path: Path) -> None:
    closed = Closed()
    first = SegmentStore(tmp_path, closed).space(IDENTITY)
    for at in range(7):
        first.put_many([key_of(at)], vectors_of([at]))
    closed.others = frozenset(path.name for path in first.path.glob("*.arrow"))
    space = SegmentStore(tmp_path, closed).space(IDENTITY)
    for at in range(100, 107):
        space.put_many([key_of(at)], vectors_of([at]))
        space.get_many([key_of(7)])
    assert len([*first.path.glob("*.arrow")]) == 14
    space.put_many([key_of(107)], vectors_of([107]))
    assert {path.name for path in first.path.glob("*.arrow")} > closed.others
    assert len([*first.path.glob("*.arrow")]) == 8


def test_a_batch_far_larger_than_its_segments_finds_what_it_finds_one_by_one(tmp_path: Path) -> None:
    space = ArrowStore(tmp_path).space(IDENTITY)
    for start in range(0, 100, 20):
        numbers = [*range(start, start + 20)]
        space.put_many(map(key_of, numbers), vectors_of(numbers))
    wanted = [number % 130 for number in range(600)]
    hits = space.get_many(map(key_of, wanted))
    expected = [at for at, number in enumerate(wanted) if number < 100]
    assert hits.positions.tolist() == expected
    assert np.array_equal(hits.vectors, vectors_of([wanted[at] for at in expected]))


class Gated(ArrowFormat):
    """The Arrow format, which writes no large segment before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.gate = threading.Event(), threading.Event()

    def write(self, path: Path, rows: Any) -> None:
        if len(rows.keys) > 1:
            self.begun.set()
            assert self.gate.wait(30)
        super().write(path, rows)


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a format, and a space in it whose merges are all large ones; 80 rows are in it."""
    monkeypatch.setattr(merge, "_AT_ONCE", 0)
    chosen = Gated()
    space = SegmentStore(tmp_path, chosen).space(IDENTITY)
    for at in range(80):
        space.put_many([key_of(at)], vectors_of([at]), durable=False)
    yield chosen, space
    chosen.gate.set()
    space.close()


def test_writes_and_reads_go_on_beside_a_large_merge(gated: Any) -> None:
    chosen, space = gated
    assert chosen.begun.wait(30)
    space.put_many([key_of(80)], vectors_of([80]), durable=False)
    assert len(space.get_many(map(key_of, range(81))).positions) == 81
    assert space.stats().parts == 81
    chosen.gate.set()
    space.close()
    assert space.stats().parts < 40
    hits = space.get_many(map(key_of, range(81)))
    assert np.array_equal(hits.vectors, vectors_of([*range(81)]))


def test_what_is_deleted_beside_a_large_merge_stays_so(gated: Any) -> None:
    chosen, space = gated
    assert chosen.begun.wait(30)
    assert space.delete_many([key_of(at) for at in range(10)]) == 10
    chosen.gate.set()
    space.close()
    assert {*space.keys()} == {key_of(at) for at in range(10, 80)}


def test_a_large_merge_that_fails_is_heard_of_and_costs_nothing(
    gated: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chosen, space = gated
    assert chosen.begun.wait(30)
    monkeypatch.setattr(ArrowFormat, "write", lambda *_: np.empty(1 << 60))
    chosen.gate.set()
    space.close()
    assert "Could not merge segments" in caplog.text
    monkeypatch.undo()
    space.put_many([key_of(80)], vectors_of([80]), durable=False)
    assert len(space.get_many(map(key_of, range(81))).positions) == 81


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_merges_by_itself(gated: Any) -> None:
    chosen, space = gated
    assert chosen.begun.wait(30)
    if (child := os.fork()) == 0:
        chosen.gate.set()
        space.put_many([key_of(80)], vectors_of([80]), durable=False)
        space.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert {key_of(at) for at in range(81)} == {*space.keys()}


def test_a_process_that_ends_finishes_its_merges(tmp_path: Path) -> None:
    program = f"""
        import hashlib
        import numpy as np
        from kura_cache_adapters import ArrowStore
        from kura_cache_adapters.identity import ModelIdentity
        space = ArrowStore({str(tmp_path)!r}).space(ModelIdentity.of("ending"))
        for at in range(80):
            keys = [hashlib.sha256(b"%d %d" % (at, row)).digest() for row in range(256)]
            space.put_many(keys, np.ones((256, 384), np.float32), durable=False)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
    rows = [row_count(path.name) for path in tmp_path.glob("*/*.arrow")]
    assert sum(rows) == 80 * 256
    assert len(rows) < 40
    assert not [*tmp_path.glob("*/*.tmp")]
