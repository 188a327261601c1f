"""What must not be asked of pyarrow with a hostile file, and is looked up in its bytes instead.

pyarrow makes room for whatever a file claims, and ends the process for some of what is wrong in one.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from kura_cache_adapters._disk.reading import View, check_size
from kura_cache_adapters.errors import DamagedSegmentError

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import pyarrow.parquet as pq

_ARROW_MAGIC = b"ARROW1\0\0"  # what an Arrow file begins with; a stream follows
_PARQUET_MAGIC = b"PAR1"
_LONGEST_FOOTER = 1 << 16  # bytes
_LONGEST_SCHEMA = 1 << 16  # bytes of a schema and of what a batch says of itself: ours have some hundreds
_DIGEST = 16  # bytes of SHA-256
_PAGE_HEADER = re.compile(rb"\x15\0" + 2 * rb"\x15([\x80-\xff]{0,4}[\0-\x7f])")


def first_batch(view: View) -> pa.RecordBatch:
    """View the first record batch of an Arrow file or stream, without a copy; its columns are not loaded.

    Raises ValueError, EOFError or what pyarrow raises, if it is none.
    """
    view.load(0, min(len(view.content), _LONGEST_SCHEMA))
    source = pa.BufferReader(view.content)
    if view.content[: len(_ARROW_MAGIC)] == _ARROW_MAGIC:
        source.seek(len(_ARROW_MAGIC))
    schema = _read_schema(source)
    return _read_batch(pa.ipc.read_message(source), schema)


def batches_of(content: bytes) -> Iterator[pa.RecordBatch]:
    """Read the record batches of an Arrow stream.

    Raises ValueError for another, DamagedSegmentError where they are much longer than the stream.
    """
    source, values = pa.BufferReader(content), 0
    schema = _read_schema(source)
    for message in pa.ipc.MessageReader.open_stream(source):
        batch = _read_batch(message, schema)
        batch.validate(full=True)
        values += len(batch) * max(1, batch.num_columns)
        check_size(8 * values, len(content))
        yield batch


def footer_of(content: bytes | mmap.mmap) -> tuple[int, bytes]:
    """Return where a Parquet file's footer starts, and the footer with its length and the magic number."""
    start = len(content) - int.from_bytes(content[-8:-4], "little") - 8
    if content[-4:] != _PARQUET_MAGIC or start < len(_PARQUET_MAGIC):
        message = "it does not end as a Parquet file does"
        raise DamagedSegmentError(message)
    return start, content[start:]


def seal(path: Path, file: BinaryIO) -> None:
    """Put a digest of the footer before it, where Parquet lets anything be.

    A flipped bit in a footer can make pyarrow end the process; so none is parsed that is not whole.
    """
    file.flush()
    end = file.tell()
    with path.open("rb") as written:
        written.seek(end - 8)
        start = end - 8 - int.from_bytes(written.read(4), "little")
        written.seek(start)
        footer = written.read()
    file.seek(start)
    file.write(sha256(footer).digest()[:_DIGEST] + footer)


def load_footer(view: View) -> None:
    """Load what a Parquet file of ours says of itself; a longer footer is not whole then."""
    view.load(max(0, len(view.content) - _LONGEST_FOOTER), len(view.content))


def check_seal(content: bytes | mmap.mmap) -> None:
    """Raise DamagedSegmentError unless the footer is as `seal` found it."""
    start, footer = footer_of(content)
    if start < _DIGEST or content[start - _DIGEST : start] != sha256(footer).digest()[:_DIGEST]:
        message = "its footer is damaged, or another program has written it"
        raise DamagedSegmentError(message)


def check_claims(metadata: pq.FileMetaData, stored: int) -> None:
    """Refuse a Parquet file that is a bomb by its footer: by its bytes, and by its rows.

    Columns are not asked: for what is wrong there, pyarrow ends the process.
    """
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    claimed = sum(group.total_byte_size + 8 * group.num_rows * group.num_columns for group in groups)
    check_size(claimed + 8 * metadata.num_rows, stored)


def check_plain(chunks: Iterable[pq.ColumnChunkMetaData], stored: int) -> None:
    """Raise DamagedSegmentError unless column chunks hold all that they claim, which is made room for."""
    sizes = [(chunk.total_uncompressed_size, chunk.total_compressed_size) for chunk in chunks]
    if any(size != packed or size > stored for size, packed in sizes):
        message = "it claims to be larger than it is"
        raise DamagedSegmentError(message)


def decompressed_page(chunk: pq.ColumnChunkMetaData, mapped: mmap.mmap) -> bytes:
    """Decompress the only page, zstd, of a column chunk.

    Not by pyarrow's reader, which makes room for whatever the page says of itself.
    """
    start, end = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size
    size, packed = _page_sizes(mapped[start : start + 16])
    check_size(size, packed)
    page: bytes = pa.Codec("zstd").decompress(mapped[end - packed : end], size, asbytes=True)
    return page


def _page_sizes(header: bytes) -> tuple[int, int]:
    """Return a page's size before and after compression, the second and third field of its header.

    Thrift's compact protocol: each is a byte 0x15 and a zigzag varint, seven bits a byte.
    """
    if not (sizes := _PAGE_HEADER.match(header)):
        message = "its page does not begin as a page does"
        raise DamagedSegmentError(message)
    before, after = (
        sum((byte & 127) << 7 * place for place, byte in enumerate(size)) // 2 for size in sizes.groups()
    )
    return before, after


def _read_schema(source: pa.BufferReader) -> pa.Schema:
    """Read the schema that a stream begins with; raise ValueError for anything else."""
    message = pa.ipc.read_message(source)
    _check_type(message, "schema")
    return pa.ipc.read_schema(message)


def _read_batch(message: pa.ipc.Message, schema: pa.Schema) -> pa.RecordBatch:
    """View a message as a record batch; raise ValueError for another, and for one that is compressed.

    Compressed columns are as long as they claim to be. pyarrow does not tell, so this looks up the
    field `compression` in the message's FlatBuffer (Message.fbs in Arrow's format directory: the
    fourth field of `RecordBatch`, which is the third of `Message`).
    """
    _check_type(message, "record batch")
    content = message.metadata.to_pybytes()
    header = _field(content, _offset(content, 0), 2)
    if header and _field(content, header + _offset(content, header), 3):
        text = "its columns are compressed"
        raise ValueError(text)
    return pa.ipc.read_record_batch(message, schema)


def _check_type(message: pa.ipc.Message, expected: str) -> None:
    """Check what pyarrow does not: reading a message as what it is not can end the process."""
    if message.type != expected:
        text = f"it has a message of type {message.type} for a {expected}"
        raise ValueError(text)


def _field(content: bytes, table: int, number: int) -> int:
    """Return where a field of a FlatBuffer's table is; 0 where the table lacks it."""
    vtable = table - int.from_bytes(content[table : table + 4], "little", signed=True)
    slot = 4 + 2 * number
    if slot >= int.from_bytes(content[vtable : vtable + 2], "little"):
        return 0
    offset = int.from_bytes(content[vtable + slot : vtable + slot + 2], "little")
    return table + offset if offset else 0


def _offset(content: bytes, at: int) -> int:
    return int.from_bytes(content[at : at + 4], "little")
