"""Writes columns to a new file, which appears whole: Parquet, JSONL, npz."""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from kura_cache_adapters._adopt.tables import ABOUT
from kura_cache_adapters._disk import atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

Rows: TypeAlias = "dict[str, Any]"
"""Some rows by column: lists of str, of bytes or of int, and a matrix of vectors, the last."""


def write(path: Path, rows: Callable[[], Iterator[Rows]], about: str) -> int:
    """Write rows, and what they are about, in the format that the name ends in; return how many.

    Raises ValueError for another ending, or no rows; what `rows` raises: then the file is what it was.
    """
    writer = _WRITERS.get(path.suffix)
    if writer is None or path.is_dir():
        message = f"{path} is not written here: give a file that ends in {', '.join(_WRITERS)}"
        raise ValueError(message)
    if next(rows(), None) is None:
        message = f"there is nothing to write to {path}: none of this is in the cache"
        raise ValueError(message)
    with (
        atomic.published(path, durable=True) as temporary,
        atomic.create_over_leftovers(temporary, path) as file,
    ):
        return writer(file, rows, about)


def _to_parquet(file: BinaryIO, rows: Callable[[], Iterator[Rows]], about: str) -> int:
    """Write float32, or, where that turns out to be too narrow, all of it again as float64."""
    count = _parquet(file, rows(), about, np.dtype(np.float32))
    if count is None:
        file.seek(0)
        file.truncate()
        count = _parquet(file, rows(), about, np.dtype(np.float64))
    return count or 0


def _parquet(file: BinaryIO, rows: Iterator[Rows], about: str, dtype: np.dtype[Any]) -> int | None:
    """Write rows with vectors of a type; None if it cannot hold them."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - nobody imports it who writes no such file

    first = _batch(next(rows), about, dtype)
    if first is None:
        return None
    count = 0
    with pq.ParquetWriter(file, first.schema) as writer:
        for batch in chain([first], (_batch(some, about, dtype) for some in rows)):
            if batch is None:
                return None
            writer.write_batch(batch)
            count += len(batch)
    return count


def _batch(rows: Rows, about: str, dtype: np.dtype[Any]) -> pa.RecordBatch | None:
    *names, last = rows
    vectors = rows[last]
    if vectors.dtype.itemsize > dtype.itemsize:
        return None
    flat = pa.array(vectors.astype(dtype, copy=False).ravel())
    columns = [pa.array(rows[name], _type_of(rows[name][0])) for name in names]
    batch = pa.record_batch(
        [*columns, pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])], names=[*rows]
    )
    return batch.replace_schema_metadata({ABOUT: about} if about else None)


def _type_of(value: object) -> pa.DataType:
    if isinstance(value, bytes):
        return pa.binary(len(value))
    return pa.string() if isinstance(value, str) else pa.uint64()


def _to_jsonl(file: BinaryIO, rows: Callable[[], Iterator[Rows]], about: str) -> int:
    """Write an object a line; the first says what the others are about."""
    count = 0
    if about:
        file.write(b'{"%s": %s}\n' % (ABOUT.encode(), json.dumps(json.loads(about)).encode()))
    for some in rows():
        columns = [_plain(values) for values in some.values()]
        lines = [json.dumps(dict(zip(some, row, strict=True))) for row in zip(*columns, strict=True)]
        file.write("".join(f"{line}\n" for line in lines).encode())
        count += len(lines)
    return count


def _plain(values: Any) -> Iterable[Any]:  # noqa: ANN401 - a column
    """Return values as JSON holds them exactly in every language."""
    if isinstance(values, np.ndarray):
        return [*values.tolist()]
    if isinstance(values[0], int):
        return [f"{value:016x}" for value in values]
    return [value.hex() for value in values] if isinstance(values[0], bytes) else values


def _to_npz(file: BinaryIO, rows: Callable[[], Iterator[Rows]], about: str) -> int:
    """Write arrays; they are made in memory."""
    parts = [*rows()]
    arrays: dict[str, Any] = {
        name: np.concatenate([_array(part[name]) for part in parts]) for name in parts[0]
    }
    if about:
        arrays[ABOUT] = np.array(about)
    np.savez(file, **arrays)
    return sum(len(part[name]) for part in parts for name in [*part][:1])


def _array(values: Any) -> Any:  # noqa: ANN401 - a column
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values[0], bytes):
        return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)
    if isinstance(values[0], int):
        return np.array(values, np.uint64)
    if any(value.endswith("\0") for value in values):
        message = "npz does not keep a NUL at the end of a text: write Parquet or JSONL"
        raise ValueError(message)
    return np.array(values)


_WRITERS: dict[str, Callable[[BinaryIO, Callable[[], Iterator[Rows]], str], int]] = {
    ".parquet": _to_parquet,
    ".jsonl": _to_jsonl,
    ".npz": _to_npz,
}
