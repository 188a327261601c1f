"""Small files that claim to be large: refused before any room is made for them."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from kura_cache_adapters import open_store
from kura_cache_adapters.errors import CheckpointError
from tests.faults.crowd import start
from tests.faults.damage import GROUPS, contents, in_child, segments
from tests.faults.fault_lab import FORMATS, WAYS, Ledger, Outcome
from tests.faults.rewriting import seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FOUR_GB = 4 << 30
LARGE = 100 << 30  # what a file system gives for nothing
ROOM = 256 << 20  # bytes that a process may grow by when it meets a bomb
MAGIC = {"lz4": b"\x04\x22\x4d\x18", "zstd": b"\x28\xb5\x2f\xfd"}


class Record(BaseModel):
    """A checkpoint's record."""

    name: str


def within_bounds(act: Callable[[], Outcome]) -> list[Outcome]:
    """Act in a child; count it as stuck if that took much memory or long."""

    def measured() -> Iterator[Outcome]:
        before, start = peak(), time.monotonic()
        outcome = act()
        outcome.stuck += peak() - before > ROOM or time.monotonic() - start > 20
        yield outcome

    return in_child(measured)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def audited(way: str, path: Path, name: str, plant: Callable[[Path], object]) -> list[Outcome]:
    """Put a bomb in the place of one of two segments; the other's entries must be found."""
    ledger = Ledger(way, path, name, damaging=True)
    ledger.ask(ledger.open(), GROUPS[0])
    (file,) = segments(path)
    ledger.ask(ledger.open(), GROUPS[1])
    plant(contents(file)[0])

    def act() -> Outcome:
        assert ledger.open().missing(GROUPS[1]) == []
        assert len(ledger.open().missing(GROUPS[0])) == 6
        return ledger.audit()

    return within_bounds(act)


@pytest.mark.parametrize("way", FORMATS)
def test_a_sparse_segment_of_a_hundred_gigabytes_is_refused(way: str, tmp_path: Path) -> None:
    (outcome,) = audited(way, tmp_path, "a sparse file", lambda file: os.truncate(file, LARGE))
    assert outcome.good


def test_a_sparse_segment_of_lines_that_is_consistent_is_refused(tmp_path: Path) -> None:
    def plant(file: Path) -> None:
        header, line = file.read_bytes().splitlines(keepends=True)[:2]
        rows = LARGE // len(line)
        fields = {**json.loads(header), "rows": rows}
        file.write_bytes(json.dumps(fields).encode() + b"\n" + line)
        start = file.stat().st_size - len(line)
        os.truncate(file, start + rows * len(line))
        file.rename(file.with_name(f"{rows:09d}{file.name[9:]}"))

    (outcome,) = audited("jsonl", tmp_path, "a sparse file", plant)
    assert outcome.good


def claim(content: bytes, codec: str) -> bytes:
    """Make every compressed buffer claim to be 4 GB: the 8 bytes before it say how long it is."""
    parts = content.split(MAGIC[codec])
    assert len(parts) > 1
    return MAGIC[codec].join([part[:-8] + FOUR_GB.to_bytes(8, "little") for part in parts[:-1]] + parts[-1:])


def compressed(table: pa.Table, codec: str, *, stream: bool) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("codec", MAGIC)
@pytest.mark.parametrize("way", [way for way in ("arrow", "hf") if way in WAYS])
@pytest.mark.parametrize("lies", [False, True])
def test_a_compressed_arrow_segment_is_refused(way: str, codec: str, tmp_path: Path, lies: bool) -> None:  # noqa: FBT001
    def plant(file: Path) -> None:
        source = pa.BufferReader(file.read_bytes())
        table = (pa.ipc.open_stream(source) if way == "hf" else pa.ipc.open_file(source)).read_all()
        content = compressed(pa.concat_tables([table] * 50).combine_chunks(), codec, stream=way == "hf")
        file.write_bytes(claim(content, codec) if lies else content)
        segment = file.parent if way == "hf" else file
        segment.rename(segment.with_name(f"000000300{segment.name[9:]}"))

    (outcome,) = audited(way, tmp_path, "a compressed Arrow file", plant)
    assert outcome.good


@pytest.mark.parametrize("way", [way for way in ("arrow", "hf") if way in WAYS])
def test_an_arrow_segment_of_a_trillion_rows_is_refused(way: str, tmp_path: Path) -> None:
    def plant(file: Path) -> None:
        content = file.read_bytes()
        six, many = (6).to_bytes(8, "little"), (1 << 40).to_bytes(8, "little")
        assert content.count(six) > 1
        file.write_bytes(content.replace(six, many))

    (outcome,) = audited(way, tmp_path, "a claimed length", plant)
    assert outcome.good


def zeros(dimension: int) -> bytes:
    """Write a Parquet segment with one huge vector of zeros, compressed to next to nothing."""
    element = pa.field("element", pa.float32(), nullable=False)
    values = pa.array(np.zeros(dimension, np.float32))
    vector = pa.FixedSizeListArray.from_arrays(values, type=pa.list_(element, dimension))
    key = pa.array([bytes(32)], pa.binary(32))
    number = pa.array([0], pa.uint64())
    columns = {"prefix": number, "key": key, "checksum": number, "vector": vector}
    schema = pa.schema([pa.field(name, column.type, nullable=False) for name, column in columns.items()])
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table(columns, schema),
        sink,
        use_dictionary=False,
        write_statistics=False,
        data_page_size=1 << 30,
        max_rows_per_page=1 << 30,
        compression={"vector.list.element": "zstd"},
        column_encoding={"vector.list.element": "BYTE_STREAM_SPLIT"},
    )
    return seal(sink.getvalue().to_pybytes())


def write_zeros(path: Path, dimension: int) -> None:
    path.write_bytes(zeros(dimension))


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("dimension", [(1 << 28) + 1024, 3 << 27])
def test_a_parquet_segment_that_expands_beyond_a_gigabyte_is_refused(dimension: int, tmp_path: Path) -> None:
    made = tmp_path / "bomb"
    start(write_zeros, made, dimension).join()  # elsewhere: making it takes gigabytes
    assert 0 < made.stat().st_size < 1 << 20

    def plant(file: Path) -> None:
        shutil.copy(made, file.with_name(f"000000001{file.name[9:]}"))
        file.unlink()

    (outcome,) = audited("parquet-zstd", tmp_path / "cache", "a Parquet bomb", plant)
    assert outcome.good


def rows_of_nothing(path: Path) -> None:
    """Write a Parquet checkpoint of 168 million rows of false, in row groups of a few kilobytes."""
    table = pa.table({"name": pa.array(np.zeros(1 << 22, bool))})
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(40):
            writer.write_table(table)
    assert path.stat().st_size < 8 << 20


def nulls(path: Path, count: int = (1 << 31) - 1) -> None:
    table = pa.table({"name": pa.nulls(count)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def names(count: int) -> pa.Table:
    return pa.table({"name": ["a" * 100] * count})


BOMBS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "sparse lines": ("JSONL manager", "one.jsonl", lambda file: os.truncate(file, LARGE)),
    "a sparse Parquet file": ("Parquet manager", "one.parquet", lambda file: os.truncate(file, LARGE)),
    "rows of false": ("Parquet manager", "one.parquet", rows_of_nothing),
    "a sparse dataset": (
        "HF manager",
        "one/data-00000-of-00001.arrow",
        lambda file: os.truncate(file, LARGE),
    ),
    "a sparse state": ("HF manager", "one/state.json", lambda file: os.truncate(file, 1 << 30)),
    "rows of nothing": ("HF manager", "one/data-00000-of-00001.arrow", nulls),
    "a compressed dataset": (
        "HF manager",
        "one/data-00000-of-00001.arrow",
        lambda file: file.write_bytes(claim(compressed(names(999), "zstd", stream=True), "zstd")),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_checkpoint_that_is_a_bomb_is_refused(name: str, tmp_path: Path) -> None:
    way, file, plant = BOMBS[name]
    if way not in WAYS:
        pytest.skip("needs the extra `datasets`")
    manager = WAYS[way](tmp_path)
    manager.save_checkpoint("one", [Record(name="a")])
    (tmp_path / "one" / "data.sha256").unlink(missing_ok=True)
    plant(tmp_path / file)

    def act() -> Outcome:
        with pytest.raises(CheckpointError):
            manager.load_checkpoint("one", Record)
        return Outcome(f"checkpoint bomb: {name}", way, rounds=1)

    (outcome,) = within_bounds(act)
    assert outcome.good


def test_a_checkpoint_that_compresses_well_is_no_bomb(tmp_path: Path) -> None:
    for way in ("Parquet manager", "HF manager"):
        if way in WAYS:
            records = [Record(name="a" * 2000)] * 5000
            WAYS[way](tmp_path).save_checkpoint("one", records)
            assert WAYS[way](tmp_path).load_checkpoint("one", Record) == records


@pytest.mark.parametrize("start", [b"", b'{"version":1,"model_name":"', b"[" * (64 << 20)])
def test_an_identity_of_a_gigabyte_is_not_read(start: bytes, tmp_path: Path, caplog: Any) -> None:
    ledger = Ledger("arrow", tmp_path, "an identity of a gigabyte")
    ledger.ask(ledger.open(), GROUPS[0])
    (file,) = tmp_path.rglob("_identity.json")
    file.write_bytes(start)
    os.truncate(file, 1 << 30)

    def act() -> Outcome:
        assert open_store(tmp_path).spaces() == []
        return ledger.audit()

    (outcome,) = within_bounds(act)
    assert outcome.good
