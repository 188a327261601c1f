"""Files of texts, read some rows at a time with all their columns: Parquet, Arrow, CSV, JSONL, text lines."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)


def read_rows(path: Path, batch: int) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows, at most so many at a time.

    Raises ValueError for a file of another kind, or a line that is none of its format.
    """
    read = _READERS.get(path.suffix)
    if read is None:
        message = f"{path} is of no kind that is read here: {', '.join(_READERS)}"
        raise ValueError(message)
    try:
        for rows in read(path, batch):
            yield from (rows.slice(at, batch) for at in range(0, len(rows), batch))
    except pa.ArrowInvalid as error:
        message = f"{path} cannot be read: {error}"
        raise ValueError(message) from error


def texts_of(rows: pa.RecordBatch, column: str) -> list[str]:
    """Return the texts of some rows."""
    return cast("list[str]", rows.column(column).to_pylist())


def checked(path: Path, column: str, batch: int) -> int:
    """Read a file once, and return how many rows it has.

    Raises ValueError for a column that is not there, or holds something else than texts.
    """
    count = 0
    for rows in read_rows(path, batch):
        if column not in rows.schema.names:
            message = f"{path} has no column {column!r}; there are {', '.join(rows.schema.names)}"
            raise ValueError(message)
        _check(path, rows.column(column), column, count)
        count += len(rows)
    return count


def _check(path: Path, texts: pa.Array, column: str, first: int) -> None:
    kind = texts.type.value_type if pa.types.is_dictionary(texts.type) else texts.type
    if not any(is_string(kind) for is_string in _STRINGS):
        message = f"{path} has {kind} in the column {column!r}, and not texts"
        raise ValueError(message)
    if texts.null_count:
        at = first + texts.is_null().to_pylist().index(True)
        message = f"{path} has no text in the column {column!r} of row {at} (the first is 0)"
        raise ValueError(message)


def _of_parquet(path: Path, batch: int) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - nobody imports it who reads no such file

    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from file.iter_batches(batch)


def _of_arrow(path: Path, _: int) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            yield from map(reader.get_batch, range(reader.num_record_batches))
        else:
            file.seek(0)
            yield from pa.ipc.open_stream(file)


def _of_csv(path: Path, _: int) -> Iterator[pa.RecordBatch]:
    import pyarrow.csv as pc  # noqa: PLC0415 - as above

    with pc.open_csv(path) as reader:
        yield from reader


def _of_lines(path: Path, batch: int) -> Iterator[pa.RecordBatch]:
    with path.open(encoding="utf-8") as lines:
        while some := [line.rstrip("\r\n") for line in islice(lines, batch)]:
            yield pa.record_batch([pa.array(some, pa.string())], names=["text"])


def _of_jsonl(path: Path, batch: int) -> Iterator[pa.RecordBatch]:
    """Read objects; their columns are those of the first batch."""
    schema, start = None, 0
    with path.open("rb") as lines:
        while some := [*islice(lines, batch)]:
            rows = [_object(path, line, start + at) for at, line in enumerate(some)]
            read = pa.RecordBatch.from_pylist(rows, schema=schema)
            schema, start = read.schema, start + len(some)
            yield read


def _object(path: Path, line: bytes, at: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        message = f"{path} has no JSON object in line {at + 1}"
        raise ValueError(message)  # noqa: TRY004 - it is a file that is wrong
    return row


_READERS: dict[str, Callable[[Path, int], Iterator[pa.RecordBatch]]] = {
    ".parquet": _of_parquet,
    ".jsonl": _of_jsonl,
    ".csv": _of_csv,
    ".arrow": _of_arrow,
    ".feather": _of_arrow,
    ".txt": _of_lines,
}
