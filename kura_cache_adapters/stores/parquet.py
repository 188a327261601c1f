"""ParquetStore: segments as Parquet files, mapped in place unless they are compressed."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kura_cache_adapters.errors import DamagedSegmentError
from kura_cache_adapters.stores import columns, files
from kura_cache_adapters.stores.directory import SegmentStore
from kura_cache_adapters.stores.rows import KEY_BYTES, checksums_of
from kura_cache_adapters.stores.search import ArraySegment

if TYPE_CHECKING:
    import mmap
    import os
    from pathlib import Path

    from kura_cache_adapters.protocols import Vectors
    from kura_cache_adapters.stores.rows import Rows
    from kura_cache_adapters.stores.search import Segment

Compression: TypeAlias = Literal["zstd"]

_ONE_PAGE = 1 << 30  # bytes and rows: more than any segment has
_VECTOR = "vector.list.element"
_MAGIC = b"PAR1"
_DIGEST = 16  # bytes of SHA-256


class ParquetFormat:
    """One row group with one data page per column, so that plain values lie together."""

    suffix = ".parquet"

    def __init__(self, compression: Compression | None, *, shared: bool = False) -> None:
        """Choose between mappable files (None) and small ones ("zstd"), and who may read them."""
        self.compression = compression
        self.shared = shared

    def write(self, path: Path, rows: Rows) -> None:
        """Write rows to a new file."""
        batch = columns.to_batch(rows)
        squeeze = {
            "compression": {"vector.list.element": "zstd"},
            "column_encoding": {_VECTOR: "BYTE_STREAM_SPLIT"},
        }
        plain = {"compression": "NONE"}
        with files.create(path, shared=self.shared) as file:
            pq.write_table(
                pa.Table.from_batches([batch]),
                file,
                row_group_size=len(rows),
                use_dictionary=False,
                write_statistics=False,
                data_page_size=_ONE_PAGE,
                max_rows_per_page=_ONE_PAGE,
                **(squeeze if self.compression else plain),
            )
            _seal(path, file)

    def read(self, path: Path) -> Segment:
        """Map a file whose values lie in it as they are; decode any other once."""
        mapped = files.map_file(path)
        _check_seal(mapped)
        try:
            file = pq.ParquetFile(pa.BufferReader(mapped))
            return _mapped(file, mapped) or _decoded(file)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise DamagedSegmentError(str(error)) from error


class ParquetStore(SegmentStore):
    """Keep vectors in a directory as Parquet files, readable by any Parquet reader.

    `compression="zstd"` (with BYTE_STREAM_SPLIT) makes files smaller than the raw vectors; each is
    then decoded into memory once, instead of being mapped.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        compression: Compression | None = None,
        shared: bool = False,
    ) -> None:
        """Name the directory; it is made by the first write.

        With shared, the umask decides who else may read and write what is stored.
        """
        if compression not in {None, "zstd"}:
            message = f"compression must be None or 'zstd', not {compression!r}"
            raise ValueError(message)
        super().__init__(path, ParquetFormat(compression, shared=shared))


def _footer(content: bytes | mmap.mmap) -> tuple[int, bytes]:
    """Return where a file's footer starts, and the footer with its length and the magic number."""
    start = len(content) - int.from_bytes(content[-8:-4], "little") - 8
    if content[-4:] != _MAGIC or start < len(_MAGIC) + _DIGEST:
        message = "it does not end as a Parquet file does"
        raise DamagedSegmentError(message)
    return start, content[start:]


def _seal(path: Path, file: BinaryIO) -> None:
    """Put a digest of the footer before it, where Parquet lets anything be.

    A flipped bit in a footer can make pyarrow end the process; so none is parsed that is not whole.
    """
    file.flush()
    start, footer = _footer(files.map_file(path))
    file.seek(start)
    file.write(sha256(footer).digest()[:_DIGEST] + footer)


def _check_seal(mapped: mmap.mmap) -> None:
    start, footer = _footer(mapped)
    if mapped[start - _DIGEST : start] != sha256(footer).digest()[:_DIGEST]:
        message = "its footer is damaged, or another program has written it"
        raise DamagedSegmentError(message)


def _mapped(file: pq.ParquetFile, mapped: mmap.mmap) -> ArraySegment | None:
    """View the columns in place; None when they are encoded, or do not prove right."""
    metadata = file.metadata
    if metadata.num_row_groups != 1 or not metadata.num_rows:
        return None
    vector = columns.vector_type_of(file.schema_arrow)
    count, dimension = metadata.num_rows, vector.list_size
    dtype = columns.dtype_of(vector)
    chunks = [metadata.row_group(0).column(index) for index in range(4)]
    if any(c.compression != "UNCOMPRESSED" or {*c.encodings} - {"PLAIN", "RLE"} for c in chunks):
        return None
    widths = [8, KEY_BYTES, 8, dimension * dtype.itemsize]
    starts = [_values_start(c, count * width) for c, width in zip(chunks, widths, strict=True)]
    if any(not 0 <= s <= len(mapped) - count * w for s, w in zip(starts, widths, strict=True)):
        return None
    prefix, key, checksum, vectors = (
        np.frombuffer(mapped, np.uint8, count * width, start).reshape(count, width)
        for start, width in zip(starts, widths, strict=True)
    )
    # Numbers must be aligned to be searched, which nothing in a Parquet file is: copy these.
    numbers = [column.copy().view(np.uint64)[:, 0] for column in (prefix, checksum)]
    segment = ArraySegment(numbers[0], key, numbers[1], vectors, dtype, mapped)
    return segment if _proves_right(segment) else None


def _values_start(chunk: pq.ColumnChunkMetaData, size: int) -> int:
    """Return where the plain values of a one-page column chunk start: they are its last bytes."""
    return int(chunk.data_page_offset + chunk.total_compressed_size) - size


def _proves_right(segment: ArraySegment) -> bool:
    """Check the first and the last row: with more than one page, one of them is off."""
    ends = np.array([0, len(segment.prefixes) - 1])
    vectors: Vectors = np.empty((2, segment.dimension), segment.dtype)
    segment.vectors_at(ends, vectors)
    sums = checksums_of(segment.keys_at(ends), vectors)
    return bool((sums == segment.checksums_at(ends)).all())


def _decoded(file: pq.ParquetFile) -> ArraySegment:
    columns.vector_type_of(file.schema_arrow)
    batches = file.read().combine_chunks().to_batches()
    if len(batches) != 1:
        message = f"it has {len(batches)} batches instead of 1"
        raise DamagedSegmentError(message)
    return columns.to_segment(batches[0])
