"""Files of texts become files with vectors: some rows at a time, whole or not at all, and paid for once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kura_cache_adapters import CachedEmbeddingModel, CallableEmbeddingModel
from kura_cache_adapters._corpora import sources
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = [f"text {at}" for at in range(90)] + ["text 1", "text 2", "a, \u00fc"]


def to_csv(table: pa.Table, path: Path) -> None:
    import pyarrow.csv as pc

    pc.write_csv(table, path)


def to_arrow(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def to_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def to_jsonl(table: pa.Table, path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")


def to_lines(table: pa.Table, path: Path) -> None:
    path.write_text("".join(f"{text}\n" for text in table["text"].to_pylist()), encoding="utf-8")


SOURCES: dict[str, Callable[[pa.Table, Path], object]] = {
    "in.parquet": pq.write_table,
    "in.csv": to_csv,
    "in.arrow": to_arrow,
    "in.feather": to_stream,
    "in.jsonl": to_jsonl,
    "in.txt": to_lines,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table_of(texts: list[Any]) -> pa.Table:
    return pa.table({"number": range(len(texts)), "text": texts})


def cached(**keywords: Any) -> tuple[CachedEmbeddingModel, FakeEmbeddingModel]:
    model = FakeEmbeddingModel(dimension=5, **keywords)
    return CachedEmbeddingModel(model, "./cache"), model


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("target", ["out.parquet", "out.jsonl", "out.npy"])
def test_each_row_gets_its_vector_in_order(name: str, target: str) -> None:
    SOURCES[name](table_of(TEXTS), Path(name))
    model, fake = cached()
    assert model.embed_file_sync(name, target, batch=40) == len(TEXTS)
    assert sorted(fake.texts) == sorted({*TEXTS})
    expected = FakeEmbeddingModel(dimension=5).array(TEXTS)
    if target == "out.npy":
        assert np.array_equal(np.load(target), expected)
        return
    rows = pq.read_table(target).to_pylist() if target == "out.parquet" else read_lines(target)
    assert np.array_equal([row["embedding"] for row in rows], expected)
    assert [row["text"] for row in rows] == TEXTS
    if name != "in.txt":
        assert [int(row["number"]) for row in rows] == [*range(len(TEXTS))]


def read_lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_vectors_are_a_fixed_size_list_of_the_narrowest_floats_that_hold_them() -> None:
    pq.write_table(table_of(TEXTS), "in.parquet")
    cached()[0].embed_file_sync("in.parquet", "narrow.parquet")
    assert pq.read_schema("narrow.parquet").field("embedding").type == pa.list_(pa.float32(), 5)

    def embed(texts: list[str]) -> list[list[float]]:
        return [[0.1 if text == TEXTS[60] else 0.5, 1.0] for text in texts]

    model, asked = CallableEmbeddingModel(embed, model_name="mixed"), 0
    mixed = CachedEmbeddingModel(model, "./cache")
    mixed.embed_file_sync("in.parquet", "wide.parquet", batch=30)
    asked = mixed.stats.misses
    assert asked == len({*TEXTS})
    assert pq.read_schema("wide.parquet").field("embedding").type == pa.list_(pa.float64(), 2)
    assert pq.read_table("wide.parquet")["embedding"][60].as_py() == [0.1, 1.0]


def test_a_second_file_pays_for_what_is_new_alone() -> None:
    pq.write_table(table_of(TEXTS[:50]), "first.parquet")
    pq.write_table(table_of(TEXTS), "second.parquet")
    model, fake = cached()
    model.embed_file_sync("first.parquet", "one.npy")
    model.embed_file_sync("second.parquet", "two.npy")
    assert len(fake.texts) == len({*TEXTS})
    assert np.array_equal(np.load("two.npy")[:50], np.load("one.npy"))


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "in.xls": (lambda: Path("in.xls").touch(), "is of no kind that is read here"),
    "column.parquet": (lambda: pq.write_table(pa.table({"body": ["a"]}), "column.parquet"), "there are body"),
    "null.parquet": (
        lambda: pq.write_table(table_of([*TEXTS, None, "b"]), "null.parquet"),
        f"of row {len(TEXTS)}",
    ),
    "number.parquet": (lambda: pq.write_table(table_of([1, 2]), "number.parquet"), "int64"),
    "empty.parquet": (lambda: pq.write_table(table_of(TEXTS[:0]), "empty.parquet"), "has no"),
    "taken.parquet": (
        lambda: pq.write_table(pa.table({"text": ["a"], "embedding": [1]}), "taken.parquet"),
        "has a column 'embedding' already",
    ),
    "mixed.jsonl": (
        lambda: Path("mixed.jsonl").write_text('{"text": "a", "n": 1}\n{"text": "b", "n": "x"}'),
        "cannot be read: .*'x'",
    ),
    "torn.jsonl": (lambda: Path("torn.jsonl").write_text('{"text": "a"}\n{"te'), "in line 2"),
    "list.jsonl": (lambda: Path("list.jsonl").write_text("[1]\n"), "in line 1"),
    "torn.parquet": (lambda: Path("torn.parquet").write_bytes(b"PAR1"), "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused_before_anything_is_spent(name: str) -> None:
    make, says = WRONG[name]
    make()
    model, fake = cached()
    with pytest.raises(ValueError, match=says):
        model.embed_file_sync(name, "out.parquet", batch=16)
    assert fake.texts == []
    assert not Path("out.parquet").exists()


def test_each_line_may_have_columns_of_its_own() -> None:
    lines = ['{"text": "a", "n": null}', "", '{"text": "b", "id": 7}', '{"text": "c", "n": 0.5}', " "]
    Path("in.jsonl").write_text("\n".join(lines))
    cached()[0].embed_file_sync("in.jsonl", "out.jsonl", batch=1)
    rows = [{name: row[name] for name in ("text", "n", "id")} for row in read_lines("out.jsonl")]
    assert rows == [
        {"text": "a", "n": None, "id": None},
        {"text": "b", "n": None, "id": 7},
        {"text": "c", "n": 0.5, "id": None},
    ]


def test_what_is_written_in_a_csv_file_stays_as_it_is_written() -> None:
    Path("in.csv").write_text('text,zip\n"12, 13",007\n14,x\n,\n')
    cached()[0].embed_file_sync("in.csv", "out.jsonl")
    rows = [(row["text"], row["zip"]) for row in read_lines("out.jsonl")]
    assert rows == [("12, 13", "007"), ("14", "x"), ("", "")]


async def test_an_awaited_file_asks_an_async_model_on_the_callers_loop() -> None:
    pq.write_table(table_of(TEXTS), "in.parquet")
    asked: list[object] = []
    beats = 0

    async def embed(texts: list[str]) -> list[list[float]]:
        asked.append(asyncio.get_running_loop())
        await asyncio.sleep(0.01)
        return [[float(len(text))] for text in texts]

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.001)

    model = CachedEmbeddingModel(CallableEmbeddingModel(embed, model_name="async"), "./cache")
    beating = asyncio.ensure_future(beat())
    assert await model.embed_file("in.parquet", "out.npy", batch=20) == len(TEXTS)
    beating.cancel()
    assert set(asked) == {asyncio.get_running_loop()}
    assert beats > 5
    assert np.load("out.npy")[:, 0].tolist() == [len(text) for text in TEXTS]


async def test_who_is_cancelled_leaves_no_target_and_pays_for_the_rest_alone() -> None:
    pq.write_table(table_of(TEXTS), "in.parquet")
    asked: list[str] = []
    third = asyncio.Event()

    async def embed(texts: list[str]) -> list[list[float]]:
        if len(asked) >= 40 and not third.is_set():
            third.set()
            await asyncio.sleep(60)
        asked.extend(texts)
        return [[1.0] for _ in texts]

    model = CachedEmbeddingModel(CallableEmbeddingModel(embed, model_name="async"), "./cache")
    running = asyncio.ensure_future(model.embed_file("in.parquet", "out.npy", batch=20))
    await third.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [*Path().glob("*out*")] == []
    assert await model.embed_file("in.parquet", "out.npy", batch=20) == len(TEXTS)
    assert sorted(asked) == sorted({*TEXTS})


def test_files_beside_the_target_are_left_alone() -> None:
    Path(".mine.tmp").write_text("mine")
    os.utime(".mine.tmp", (0, 0))
    pq.write_table(table_of(TEXTS), "in.parquet")

    def failing(_: list[str]) -> list[list[float]]:
        raise ConnectionError

    model = CachedEmbeddingModel(CallableEmbeddingModel(failing, model_name="m"))
    with pytest.raises(ConnectionError):
        model.embed_file_sync("in.parquet", "out.npy")
    assert Path(".mine.tmp").read_text() == "mine"


def test_a_target_is_not_overwritten_unless_told() -> None:
    pq.write_table(table_of(TEXTS), "in.parquet")
    Path("out.npy").write_text("mine")
    model, fake = cached()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.embed_file_sync("in.parquet", "out.npy")
    with pytest.raises(ValueError, match="is of no kind that is written here"):
        model.embed_file_sync("in.parquet", "out.xls")
    assert fake.texts == []
    assert Path("out.npy").read_text() == "mine"
    model.embed_file_sync("in.parquet", "out.npy", overwrite=True)
    assert len(np.load("out.npy")) == len(TEXTS)


def test_a_model_that_fails_leaves_no_target_and_what_it_answered() -> None:
    pq.write_table(table_of(TEXTS), "in.parquet")
    calls = []

    def embed(texts: list[str]) -> list[list[float]]:
        calls.append(texts)
        if len(calls) == 3:
            message = "the server is gone"
            raise ConnectionError(message)
        return [[1.0, 2.0] for _ in texts]

    model = CachedEmbeddingModel(CallableEmbeddingModel(embed, model_name="failing"), "./cache")
    with pytest.raises(ConnectionError):
        model.embed_file_sync("in.parquet", "out.parquet", batch=20)
    assert [*Path().glob("*out*")] == []
    assert model.embed_file_sync("in.parquet", "out.parquet", batch=20) == len(TEXTS)
    assert sum(len(texts) for at, texts in enumerate(calls) if at != 2) == len({*TEXTS})


PROGRAM = """
    import os, sys
    import numpy as np
    from kura_cache_adapters import CachedEmbeddingModel, CallableEmbeddingModel

    def embed(texts):
        with open("asked.txt", "a") as file:
            file.writelines(text + "\\n" for text in texts)
        if len(open("asked.txt").readlines()) == int(sys.argv[1]):
            print("there", flush=True)
            sys.stdin.read()
        return np.ones((len(texts), 8), np.float32) * np.array([[float(text.split()[1])] for text in texts])

    model = CachedEmbeddingModel(CallableEmbeddingModel(embed, model_name="m"), "./cache")
    print(model.embed_file_sync("in.parquet", "out.npy", batch=512))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_a_killed_run_goes_on_where_it_was() -> None:
    pq.write_table(table_of([f"text {at}" for at in range(5120)]), "in.parquet")
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    first = subprocess.Popen([*command, "2560"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "there\n"
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert not Path("out.npy").exists()
    (left,) = Path().glob(".out.npy.*")
    subprocess.run([*command, "0"], check=True, capture_output=True)
    asked = Path("asked.txt").read_text().splitlines()
    assert len({*asked}) == 5120
    assert len(asked) <= 5120 + 512  # those that were not answered when it was killed
    assert np.array_equal(np.load("out.npy")[:, 0], np.arange(5120))
    assert not left.exists()


def test_two_runs_of_one_target_leave_each_others_file_alone() -> None:
    pq.write_table(table_of(TEXTS), "in.parquet")
    others: list[int] = []

    def embed(texts: list[str]) -> list[list[float]]:
        if not others:
            others.append(len([*Path().glob(".out.npy.*")]))
            others.append(cached()[0].embed_file_sync("in.parquet", "out.npy"))
        return [[1.0, 2.0] for _ in texts]

    model = CachedEmbeddingModel(CallableEmbeddingModel(embed, model_name="first"), "./cache")
    model.embed_file_sync("in.parquet", "out.npy")
    assert others == [1, len(TEXTS)]
    assert np.load("out.npy").shape == (len(TEXTS), 2)


def test_a_batch_as_large_as_its_file_is_not_held_in_memory() -> None:
    with pa.OSFile("in.arrow", "wb") as file:
        schema = pa.schema([("text", pa.string())])
        texts = pa.array([f"{at}{'.' * 1000}" for at in range(20_000)])
        with pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(pa.record_batch([texts], schema=schema))
    del texts
    before = pa.total_allocated_bytes()
    allocated: list[int] = []

    def embed(texts: list[str]) -> list[list[float]]:
        allocated.append(pa.total_allocated_bytes() - before)
        return [[1.0] for _ in texts]

    model = CachedEmbeddingModel(CallableEmbeddingModel(embed, model_name="ones"))
    assert model.embed_file_sync("in.arrow", "out.npy", batch=500) == 20_000
    assert max(allocated) < 5_000_000  # of 20 MB


def test_lines_are_parsed_twice_to_be_checked_and_to_be_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    to_jsonl(table_of(TEXTS), Path("in.jsonl"))
    parsed: list[bytes] = []
    parse = sources._object

    def counting(path: Path, line: bytes, at: int) -> dict[str, Any]:
        parsed.append(line)
        return parse(path, line, at)

    monkeypatch.setattr(sources, "_object", counting)
    cached()[0].embed_file_sync("in.jsonl", "out.npy", batch=40)
    assert len(parsed) == 2 * len(TEXTS)


MILLION = """
    import sys
    import numpy as np
    from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel

    asked = 0

    def embed(texts):
        global asked
        asked += len(texts)
        if asked == int(sys.argv[1]):
            print("there", flush=True)
            sys.stdin.read()
        numbers = np.array([float(text.split()[1]) for text in texts], np.float32)
        return np.repeat(numbers[:, None], 32, axis=1)

    options = CacheOptions(chunk_size=2000, durable=False)
    model = CachedEmbeddingModel(CallableEmbeddingModel(embed, model_name="m"), "./cache", options=options)
    model.embed_file_sync("in.parquet", "out.npy", batch=10_000)
    status = open("/proc/self/status").read()  # getrusage tells of the process that has started this one, too
    print(asked, status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux counts it")
def test_a_million_rows_take_less_than_500_megabytes_and_go_on_after_a_kill() -> None:
    texts = [f"text {at}" for at in range(1_000_000)]
    pq.write_table(pa.table({"text": texts}), "in.parquet", row_group_size=100_000)
    command = [sys.executable, "-c", textwrap.dedent(MILLION)]
    first = subprocess.Popen([*command, "500000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "there\n"
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    ended = subprocess.run([*command, "0"], check=True, capture_output=True, text=True)
    asked, kilobytes = map(int, ended.stdout.split())
    assert 500_000 <= asked <= 500_000 + 2 * 10_000
    assert kilobytes < 500_000
    assert np.array_equal(np.load("out.npy", mmap_mode="r")[:, 0], np.arange(1_000_000, dtype=np.float32))
