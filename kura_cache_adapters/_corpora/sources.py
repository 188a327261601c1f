"""Files of texts, read some rows at a time with all their columns: Parquet, Arrow, CSV, JSONL, text lines."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from kura_cache_adapters._disk.filesystems import is_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)


def read_rows(path: Path, batch: int, schema: pa.Schema | None = None) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows, at most so many at a time.

    A file of lines has the columns of `schema`, as `checked` returns it; without, of those seen so far.

    Raises ValueError for a file of another kind, or a line that is none of its format.
    """
    read = _READERS.get(path.suffix)
    if read is None:
        message = f"{path} is of no kind that is read here: {', '.join(_READERS)}"
        raise ValueError(message)
    try:
        for rows in read(path, batch, schema):
            yield from (rows.slice(at, batch) for at in range(0, len(rows), batch))
    except pa.ArrowInvalid as error:
        message = f"{path} cannot be read: {error}"
        raise ValueError(message) from error


def texts_of(rows: pa.RecordBatch, column: str) -> list[str]:
    """Return the texts of some rows."""
    return cast("list[str]", rows.column(column).to_pylist())


def checked(path: Path, column: str, batch: int, taken: str | None) -> tuple[int, pa.Schema | None]:
    """Read a file once; return its number of rows and its columns. `taken` is one that it must not have.

    Raises ValueError for a column that is not there, or holds something else than texts.
    """
    count, schema = 0, None
    for rows in read_rows(path, batch):
        schema = rows.schema
        if column not in rows.schema.names:
            message = f"{path} has no column {column!r}; there are {', '.join(rows.schema.names)}"
            raise ValueError(message)
        if taken in rows.schema.names:
            message = f"{path} has a column {taken!r} already: rename it, or write an .npy file"
            raise ValueError(message)
        _check(path, rows.column(column), column, count)
        count += len(rows)
    return count, schema


def _check(path: Path, texts: pa.Array, column: str, first: int) -> None:
    kind = texts.type.value_type if pa.types.is_dictionary(texts.type) else texts.type
    if not any(is_string(kind) for is_string in _STRINGS):
        message = f"{path} has {kind} in the column {column!r}, and not texts"
        raise ValueError(message)
    if texts.null_count:
        at = first + texts.is_null().to_pylist().index(True)
        message = f"{path} has no text in the column {column!r} of row {at} (the first is 0)"
        raise ValueError(message)


def _of_parquet(path: Path, batch: int, _: object) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - nobody imports it who reads no such file

    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from file.iter_batches(batch)


def _of_arrow(path: Path, *_: object) -> Iterator[pa.RecordBatch]:
    """Read a file mapped where that is safe: a batch may be as large as the file."""
    with path.open("rb") as opened:
        local = is_local(opened.fileno())
    with (pa.memory_map if local else pa.OSFile)(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            yield from map(reader.get_batch, range(reader.num_record_batches))
        else:
            file.seek(0)
            yield from pa.ipc.open_stream(file)


def _of_csv(path: Path, *_: object) -> Iterator[pa.RecordBatch]:
    """Read all columns as they are written: a number with zeros in front, a text of digits."""
    import pyarrow.csv as pc  # noqa: PLC0415 - as above

    with pc.open_csv(path) as reader:
        types = dict.fromkeys(reader.schema.names, pa.string())
    with pc.open_csv(path, convert_options=pc.ConvertOptions(column_types=types)) as reader:
        yield from reader


def _of_lines(path: Path, batch: int, _: object) -> Iterator[pa.RecordBatch]:
    with path.open(encoding="utf-8") as lines:
        while some := [line.rstrip("\r\n") for line in islice(lines, batch)]:
            yield pa.record_batch([pa.array(some, pa.string())], names=["text"])


def _of_jsonl(path: Path, batch: int, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    """Read objects; their columns are those of all lines, of one type each."""
    seen = pa.schema([])
    for rows in _objects(path, batch):
        seen = _unified(path, seen, rows) if schema is None else schema
        yield pa.RecordBatch.from_pylist(rows, schema=seen)


def _objects(path: Path, batch: int) -> Iterator[list[dict[str, Any]]]:
    with path.open("rb") as lines:
        written = ((at, line) for at, line in enumerate(lines, 1) if line.strip())
        while some := [_object(path, line, at) for at, line in islice(written, batch)]:
            yield some


def _object(path: Path, line: bytes, at: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        message = f"{path} has no JSON object in line {at}"
        raise ValueError(message)  # noqa: TRY004 - it is a file that is wrong
    return row


def _unified(path: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Schema:
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        found = pa.schema([(name, pa.infer_type([row.get(name) for row in rows])) for name in names])
        return pa.unify_schemas([schema, found], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        message = f"{path} has values of several types in one column, which no file of columns holds: {error}"
        raise ValueError(message) from error


_READERS: dict[str, Callable[[Path, int, pa.Schema | None], Iterator[pa.RecordBatch]]] = {
    ".parquet": _of_parquet,
    ".jsonl": _of_jsonl,
    ".csv": _of_csv,
    ".arrow": _of_arrow,
    ".feather": _of_arrow,
    ".txt": _of_lines,
}
