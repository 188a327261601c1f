"""Reads columns of files, some rows at a time: Parquet, JSONL, npz, Arrow, HuggingFace's datasets."""

from __future__ import annotations

import json
import zipfile
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import pyarrow as pa

from kura_cache_adapters._adopt.adopting import BATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    Columns: TypeAlias = "list[Sequence[Any]]"
    """Some rows, column by column."""

ABOUT = "kura_cache_adapters"
"""Where a file of ours says what it holds."""

_BUFFER = 1 << 20  # bytes of a column that are read ahead
_MOST = 64 << 20  # bytes of an array that are read at a time: numpy pads texts to the longest


def read_columns(path: Path, names: Sequence[str]) -> Iterator[Columns]:
    """Yield columns of a file, at most `BATCH` rows at a time; a value that cannot be read is None.

    Raises ValueError, with what there is, for a file of another kind and a column that is not there.
    """
    read = _of_dataset if path.is_dir() else _READERS.get(path.suffix)
    if read is None:
        message = f"{path} is of no kind that is read here: {', '.join(_READERS)}, or a dataset's directory"
        raise ValueError(message)
    yield from read(path, names)


def about(path: Path) -> str:
    """Return what a file of ours says of what it holds; empty for any other."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq  # noqa: PLC0415 - nobody imports it who reads no such file

        return str((pq.read_schema(path).metadata or {}).get(ABOUT.encode(), b"").decode())
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            first = _row(file.readline())
        return json.dumps(first[ABOUT]) if ABOUT in first else ""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return str(file[ABOUT]) if ABOUT in file else ""
    return ""


def _of_parquet(path: Path, names: Sequence[str]) -> Iterator[Columns]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        _check(path, names, file.schema_arrow.names)
        yield from map(_arrays, _named(file.iter_batches(BATCH, columns=[*names]), names))


def _of_arrow(path: Path, names: Sequence[str]) -> Iterator[Columns]:
    with pa.OSFile(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        else:
            file.seek(0)
            reader = batches = pa.ipc.open_stream(file)
        _check(path, names, reader.schema.names)
        for batch in _named(batches, names):
            yield from (_arrays(batch.slice(at, BATCH)) for at in range(0, len(batch), BATCH))


def _of_dataset(path: Path, names: Sequence[str]) -> Iterator[Columns]:
    """Read the files that `Dataset.save_to_disk` has named, and no others."""
    if not (path / "state.json").exists():
        message = f"{path} is no dataset that was saved to disk; of several, name one: {path / 'train'}"
        raise ValueError(message)
    state = json.loads((path / "state.json").read_bytes())
    for name in [str(entry["filename"]) for entry in state["_data_files"]]:
        if name != PurePath(name).name:
            message = f"the data of {path} is elsewhere: {name!r:.80}"
            raise ValueError(message)
        yield from _of_arrow(path / name, names)


def _of_jsonl(path: Path, names: Sequence[str]) -> Iterator[Columns]:
    with path.open("rb") as file:
        lines = (line for line in file if line.strip())
        whole: dict[str, Any] = {}
        while some := [*map(_row, islice(lines, BATCH))]:
            rows = [row for row in some if ABOUT not in row]
            whole = whole or next(filter(None, rows), {})
            _check(path, names, [*whole] or names)
            yield [[row.get(name) for row in rows] for name in names]


def _row(line: bytes) -> dict[str, Any]:
    """Read a line; what is no object has no columns."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _of_npz(path: Path, names: Sequence[str]) -> Iterator[Columns]:
    with zipfile.ZipFile(path) as archive:
        _check(path, names, [name.removesuffix(".npy") for name in archive.namelist()])
        files = [cast("BinaryIO", archive.open(f"{name}.npy")) for name in names]
        kinds = [_kind(path, file) for file in files]
        rows = min([BATCH, *(max(1, _MOST // _row_bytes(*kind)) for kind in kinds)])
        columns = (_of_npy(file, *kind, rows) for file, kind in zip(files, kinds, strict=True))
        yield from map(list, zip(*columns, strict=True))


def _kind(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the shape and the dtype of an array in a stream, which no map would reach in an archive."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read(file)
    if dtype.hasobject or (by_column and len(shape) > 1) or not shape:
        message = f"{path} has an array of {dtype} that is not read here: save rows of str, bytes or numbers"
        raise ValueError(message)
    return shape, dtype


def _row_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return max(1, dtype.itemsize * int(np.prod(shape[1:])))


def _of_npy(
    file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any], step: int
) -> Iterator[Sequence[Any]]:
    for start in range(0, shape[0], step):
        count = min(step, shape[0] - start)
        content = file.read(count * _row_bytes(shape, dtype))
        rows = np.frombuffer(content, dtype).reshape(count, *shape[1:])
        yield cast("Sequence[Any]", rows if len(shape) > 1 else rows.tolist())


def _check(path: Path, names: Sequence[str], there: Sequence[str]) -> None:
    if left := [name for name in names if name not in there]:
        message = f"{path} has no column {left[0]!r}; it has {', '.join(map(repr, there))}"
        raise ValueError(message)


def _named(batches: Iterable[pa.RecordBatch], names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    return (batch.select([*names]) for batch in batches)


def _arrays(batch: pa.RecordBatch) -> Columns:
    return [_values(column) for column in batch.columns]


def _values(column: pa.Array) -> Sequence[Any]:
    """Return a column's values: lists of one length as a matrix."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    kind = column.type
    fixed = pa.types.is_fixed_size_list(kind)
    lists = fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists or column.null_count or not len(column):
        return cast("Sequence[Any]", column.to_pylist())
    flat = column.flatten()
    if flat.null_count or not (fixed or np.ptp(column.value_lengths().to_numpy()) == 0):
        return cast("Sequence[Any]", column.to_pylist())
    return cast("Sequence[Any]", flat.to_numpy(zero_copy_only=False).reshape(len(column), -1))


_READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[Columns]]] = {
    ".parquet": _of_parquet,
    ".jsonl": _of_jsonl,
    ".npz": _of_npz,
    ".arrow": _of_arrow,
    ".feather": _of_arrow,
}
