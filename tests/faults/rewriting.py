"""Segments read and written by docs/format.md alone, so that tests can change one and keep it well-formed."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Columns = dict[str, list[Any]]
"""`prefix` and `checksum` as numbers, `key` as bytes, `vector` as lists of float32; one item a row each."""

_VERSION = "kura_cache_adapters.segment"


def rewrite(file: Path, change: Callable[[Columns], object], version: str = "1") -> None:
    """Change the rows of a segment in place, or its version; the file stays a right one of its format."""
    if file.suffix == ".jsonl":
        _rewrite_lines(file, change, version)
        return
    table = _read(file)
    columns: Columns = {name: table[name].to_pylist() for name in table.column_names}
    change(columns)
    dimension = len(columns["vector"][0])
    element = pa.field("element", pa.float32(), nullable=False)
    types = [pa.uint64(), pa.binary(32), pa.uint64(), pa.list_(element, dimension)]
    fields = [pa.field(name, kind, nullable=False) for name, kind in zip(columns, types, strict=True)]
    schema = pa.schema(fields, metadata={**(table.schema.metadata or {}), _VERSION.encode(): version})
    _write(file, pa.table(columns, schema).combine_chunks(), _is_compressed(file))


def seal(content: bytes) -> bytes:
    """Put the digest before the footer of a Parquet file."""
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    return content[:start] + sha256(content[start:]).digest()[:16] + content[start:]


def _read(file: Path) -> pa.Table:
    content = pa.BufferReader(file.read_bytes())
    if file.suffix == ".parquet":
        return pq.read_table(content)
    in_dataset = file.parent.suffix == ".hf"
    return (pa.ipc.open_stream(content) if in_dataset else pa.ipc.open_file(content)).read_all()


def _is_compressed(file: Path) -> bool:
    if file.suffix != ".parquet":
        return False
    return pq.read_metadata(file).row_group(0).column(3).compression == "ZSTD"


def _write(file: Path, table: pa.Table, compressed: bool) -> None:  # noqa: FBT001
    sink = pa.BufferOutputStream()
    if file.suffix == ".parquet":
        vector = "vector.list.element"
        squeeze = {"compression": {vector: "zstd"}, "column_encoding": {vector: "BYTE_STREAM_SPLIT"}}
        how = squeeze if compressed else {"compression": "NONE"}
        pq.write_table(table, sink, use_dictionary=False, write_statistics=False, **how)
        file.write_bytes(seal(sink.getvalue().to_pybytes()))
        return
    new = pa.ipc.new_stream if file.parent.suffix == ".hf" else pa.ipc.new_file
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    file.write_bytes(sink.getvalue().to_pybytes())


def _rewrite_lines(file: Path, change: Callable[[Columns], object], version: str) -> None:
    header, *lines = (json.loads(line) for line in file.read_bytes().splitlines())
    columns: Columns = {
        "prefix": [int(line["key"][:16], 16) for line in lines],
        "key": [bytes.fromhex(line["key"]) for line in lines],
        "checksum": [int(line["checksum"], 16) for line in lines],
        "vector": [np.frombuffer(base64.b64decode(line["vector"]), "<f4").tolist() for line in lines],
    }
    change(columns)
    header |= {
        "version": int(version),
        "rows": len(columns["key"]),
        "dimension": len(columns["vector"][0]),
    }
    written = [json.dumps(header)]
    for key, checksum, vector in zip(columns["key"], columns["checksum"], columns["vector"], strict=True):
        encoded = base64.b64encode(np.array(vector, "<f4").tobytes()).decode()
        written.append(f'{{"key":"{key.hex()}","checksum":"{checksum:016x}","vector":"{encoded}"}}')
    file.write_text("".join(f"{line}\n" for line in written))
