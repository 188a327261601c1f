"""Files of rows with their vectors, written batch by batch: Parquet, JSONL, and npy for a matrix alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from kura_cache_adapters.protocols import Vectors


class Target(Protocol):
    """A file that is being written."""

    has_columns: ClassVar[bool]
    """Whether it takes the columns of the source, too."""

    def write(self, rows: pa.RecordBatch, vectors: Vectors) -> None:
        """Add rows and their vectors, shape (n, D)."""

    def close(self) -> None:
        """Write what ends it."""


class ParquetTarget:
    """All columns, and `embedding`: a fixed-size list of floats."""

    has_columns: ClassVar[bool] = True

    def __init__(self, file: BinaryIO, column: str) -> None:
        self._file, self._column = file, column
        self._writer: Any = None

    def write(self, rows: pa.RecordBatch, vectors: Vectors) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415 - nobody imports it who writes no such file

        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        rows = rows.append_column(self._column, column)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, rows.schema)
        self._writer.write_batch(rows)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class JSONLTarget:
    """An object a line, with the vector as `embedding`."""

    has_columns: ClassVar[bool] = True

    def __init__(self, file: BinaryIO, column: str) -> None:
        self._file, self._column = file, column

    def write(self, rows: pa.RecordBatch, vectors: Vectors) -> None:
        for row, vector in zip(rows.to_pylist(), vectors.tolist(), strict=True):
            line = json.dumps({**row, self._column: vector}, ensure_ascii=False, default=str)
            self._file.write(line.encode() + b"\n")

    def close(self) -> None:
        """Do nothing: the last line is written."""


class NpyTarget:
    """The matrix, shape (N, D); numpy leaves room in its header for N to grow."""

    has_columns: ClassVar[bool] = False

    def __init__(self, file: BinaryIO, column: str) -> None:  # noqa: ARG002 - it has no columns
        self._file = file
        self._header: dict[str, Any] | None = None
        self._count = 0

    def write(self, rows: pa.RecordBatch, vectors: Vectors) -> None:  # noqa: ARG002 - as above
        if self._header is None:
            self._header = np.lib.format.header_data_from_array_1_0(vectors)
            np.lib.format.write_array_header_1_0(self._file, self._header)
        self._file.write(vectors.tobytes())
        self._count += len(vectors)

    def close(self) -> None:
        if self._header is not None:
            self._file.seek(0)
            shape = (self._count, *self._header["shape"][1:])
            np.lib.format.write_array_header_1_0(self._file, {**self._header, "shape": shape})


_TARGETS: dict[str, type[ParquetTarget | JSONLTarget | NpyTarget]] = {
    ".parquet": ParquetTarget,
    ".jsonl": JSONLTarget,
    ".npy": NpyTarget,
}


def refuse_present(path: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError for a target that is there already, unless it may be replaced."""
    if path.exists() and not overwrite:
        message = f"{path} is there already: pass overwrite=True, or another name"
        raise FileExistsError(message)


def target_class(path: Path) -> type[ParquetTarget | JSONLTarget | NpyTarget]:
    """Return what writes a file of its ending; raise ValueError for another one."""
    if path.suffix not in _TARGETS:
        message = f"{path} is of no kind that is written here: {', '.join(_TARGETS)}"
        raise ValueError(message)
    return _TARGETS[path.suffix]
