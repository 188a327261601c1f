"""ParquetStore: segments as Parquet files, mapped in place unless they are compressed."""

from __future__ import annotations

from datetime import timedelta  # noqa: TC003 - read_options reads annotations
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kura_cache_adapters._disk import atomic, reading, untrusted
from kura_cache_adapters._segments import columns
from kura_cache_adapters._segments.directory import SegmentStore
from kura_cache_adapters._segments.read_segment import as_read
from kura_cache_adapters._segments.rows import checksums_of
from kura_cache_adapters._segments.search import ArraySegment
from kura_cache_adapters.checks import KEY_BYTES
from kura_cache_adapters.errors import DamagedSegmentError

if TYPE_CHECKING:
    import mmap
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from kura_cache_adapters._disk.reading import View
    from kura_cache_adapters._segments.format import Segment
    from kura_cache_adapters._segments.rows import Rows
    from kura_cache_adapters.protocols import Vectors

Compression: TypeAlias = Literal["zstd"]

_ONE_PAGE = 1 << 30  # bytes and rows: more than any segment has
_VECTOR = "vector.list.element"


class ParquetFormat:
    """One row group with one data page per column, so that plain values lie together."""

    suffix = ".parquet"

    def __init__(
        self, compression: Compression | None, *, shared: bool = False, mapped: bool | None = None
    ) -> None:
        """Choose between mappable files (None) and small ones ("zstd"), who may read them, and how."""
        self.compression = compression
        self.shared = shared
        self.mapped = mapped

    def write(self, path: Path, rows: Rows) -> None:
        """Write rows to a new file."""
        batch = columns.to_batch(rows)
        compressed = self.compression and 2 * rows.vectors.nbytes < _ONE_PAGE
        squeeze = {"compression": {_VECTOR: "zstd"}, "column_encoding": {_VECTOR: "BYTE_STREAM_SPLIT"}}
        with atomic.create(path, shared=self.shared) as file:
            pq.write_table(
                pa.Table.from_batches([batch]),
                file,
                row_group_size=len(rows),
                use_dictionary=False,
                write_statistics=False,
                data_page_size=_ONE_PAGE,
                max_rows_per_page=_ONE_PAGE,
                **(squeeze if compressed else {"compression": "NONE"}),
            )
            untrusted.seal(path, file)

    def read(self, path: Path) -> Segment:
        """Map a file whose values lie in it as they are; decompress the vectors of any other once."""
        view = reading.view_file(path, mapped=self.mapped)
        untrusted.load_footer(view)
        untrusted.check_seal(view.content)
        try:
            file = pq.ParquetFile(pa.BufferReader(view.content))
            chunks = _chunks(file.metadata)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise DamagedSegmentError(str(error)) from error
        _load(view, chunks)
        try:
            longest = max(chunk.total_uncompressed_size for chunk in chunks)
            return _decoded(file, chunks, view) if longest >= _ONE_PAGE else _segment(file, chunks, view)
        except (pa.ArrowException, ValueError) as error:
            raise DamagedSegmentError(str(error)) from error


class ParquetStore(SegmentStore):
    """Keep vectors in a directory as Parquet files, readable by any Parquet reader.

    `compression="zstd"` (with BYTE_STREAM_SPLIT) makes files smaller than the raw vectors; each is
    then decoded into memory once, instead of being mapped.
    """

    def __init__(  # noqa: PLR0913 - options, by keyword
        self,
        path: str | os.PathLike[str],
        *,
        compression: Compression | None = None,
        shared: bool = False,
        mapped: bool | None = None,
        max_bytes: int | None = None,
        ttl: timedelta | float | None = None,
    ) -> None:
        """Name the directory; it is made by the first write.

        Args:
            path: a directory; each model has one of its own below it.
            compression: None for files that are mapped, "zstd" for small ones.
            shared: let the umask decide who may read and write what is stored; without, its owner alone may.
            mapped: map files into memory, or read from them; None maps on local file systems, and reads on
                those where a failing server would end the process.
            max_bytes: of all models' segments here: at a write, the oldest go until the rest is no more.
            ttl: seconds or a timedelta: at a write, segments go whose newest row was written longer ago. No
                look-up does that, or hides what is older.

        Raises:
            ValueError: another compression; a bound that is not positive.

        """
        if compression not in {None, "zstd"}:
            message = f"compression must be None or 'zstd', not {compression!r}"
            raise ValueError(message)
        segments = ParquetFormat(compression, shared=shared, mapped=mapped)
        super().__init__(path, segments, max_bytes=max_bytes, ttl=ttl)


def _chunks(metadata: pq.FileMetaData) -> list[pq.ColumnChunkMetaData]:
    if metadata.num_row_groups != 1 or metadata.num_columns != len(columns.COLUMNS):
        message = f"it has {metadata.num_columns} columns in {metadata.num_row_groups} groups of rows"
        raise DamagedSegmentError(message)
    return [metadata.row_group(0).column(index) for index in range(metadata.num_columns)]


def _load(view: View, chunks: list[pq.ColumnChunkMetaData]) -> None:
    """Load all columns of a file that is not mapped, but for vectors that can be read where they lie."""
    for at, chunk in enumerate(chunks):
        start, size = max(0, chunk.data_page_offset), chunk.total_compressed_size
        if at < len(chunks) - 1 or not _is_plain(chunk):
            view.load(start, start + size)


def _is_plain(chunk: pq.ColumnChunkMetaData) -> bool:
    """Tell whether values may lie in one page as they are.

    A chunk's `compression` is not asked: for one that pyarrow does not know, it ends the process.
    """
    size: int = chunk.total_uncompressed_size
    return bool(chunk.total_compressed_size == size < _ONE_PAGE)


def _segment(file: pq.ParquetFile, chunks: list[pq.ColumnChunkMetaData], view: View) -> Segment:
    """View the columns in place, but for vectors that are compressed."""
    vector = columns.vector_type_of(file.schema_arrow)
    count, dtype = file.metadata.num_rows, columns.dtype_of(vector)
    if count < 1:
        message = f"it has {count} rows"
        raise DamagedSegmentError(message)
    prefix, key, checksum = (
        _plain(chunk, view.content, count, width)
        for chunk, width in zip(chunks[:3], (8, KEY_BYTES, 8), strict=True)
    )
    # Numbers must be aligned to be searched, which nothing in a Parquet file is: copy these.
    numbers = [column.copy().view(np.uint64)[:, 0] for column in (prefix, checksum)]
    for vectors in _vectors(chunks[3], view, (count, vector.list_size), dtype.itemsize):
        segment = as_read(ArraySegment(numbers[0], key, numbers[1], vectors, dtype, view.map), view)
        if _proves_right(segment):
            return segment
    message = f"its {count} rows are not where they should be"
    raise DamagedSegmentError(message)


def _vectors(
    chunk: pq.ColumnChunkMetaData, view: View, shape: tuple[int, int], itemsize: int
) -> Iterator[NDArray[np.uint8]]:
    """Read vectors as plain ones, where their size allows it, and then as compressed ones."""
    if _is_plain(chunk):
        yield _plain(chunk, view.content, shape[0], shape[1] * itemsize)
        view.load(max(0, chunk.data_page_offset), chunk.data_page_offset + chunk.total_compressed_size)
    yield _decompressed(chunk, view.content, shape, itemsize)


def _plain(chunk: pq.ColumnChunkMetaData, mapped: mmap.mmap, count: int, width: int) -> NDArray[np.uint8]:
    """View the plain values of a one-page column chunk, shape (count, width): they are its last bytes."""
    start = chunk.data_page_offset + chunk.total_compressed_size - count * width
    return np.frombuffer(mapped, np.uint8, count * width, start).reshape(count, width)


def _decompressed(
    chunk: pq.ColumnChunkMetaData, mapped: mmap.mmap, shape: tuple[int, int], itemsize: int
) -> NDArray[np.uint8]:
    """Decompress the vectors of a one-page column chunk, and put the bytes of each together."""
    page = untrusted.decompressed_page(chunk, mapped)
    count = shape[0] * shape[1] * itemsize
    streams = np.frombuffer(page, np.uint8, count, len(page) - count)
    # BYTE_STREAM_SPLIT: the first bytes of all elements, then the second bytes of all, ...
    return np.ascontiguousarray(streams.reshape(itemsize, -1).T).reshape(shape[0], -1)


def _proves_right(segment: Segment) -> bool:
    """Check the first and the last row: with more than one page, one of them is off."""
    ends = np.array([0, len(segment.prefixes) - 1])
    vectors: Vectors = np.empty((2, segment.dimension), segment.dtype)
    segment.vectors_at(ends, vectors)
    sums = checksums_of(segment.keys_at(ends), vectors)
    return bool((sums == segment.checksums_at(ends)).all())


def _decoded(file: pq.ParquetFile, chunks: list[pq.ColumnChunkMetaData], view: View) -> ArraySegment:
    """Decode what is so large that a column has more than one page."""
    untrusted.check_plain(chunks, len(view.content))
    return columns.to_segment(file.read().combine_chunks().to_batches()[0])
