"""The Arrow columns of a segment, shared by every format that keeps segments in Arrow's memory.

`prefix` (uint64), `key` (fixed_size_binary[32]), `checksum` (uint64) and `vector`
(fixed_size_list<float32 or float64>[D]); none has nulls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kura_cache_adapters._disk import untrusted
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters._segments.read_segment import as_read
from kura_cache_adapters._segments.search import ArraySegment
from kura_cache_adapters.checks import KEY_BYTES
from kura_cache_adapters.errors import DamagedSegmentError, OtherVersionError

if TYPE_CHECKING:
    import mmap

    from numpy.typing import NDArray

    from kura_cache_adapters._disk.reading import View
    from kura_cache_adapters._segments.format import Segment
    from kura_cache_adapters._segments.rows import Rows

COLUMNS = ("prefix", "key", "checksum", "vector")

_VERSION_KEY, _VERSION = b"kura_cache_adapters.segment", b"1"
_DTYPES: dict[pa.DataType, np.dtype[np.float32] | np.dtype[np.float64]] = {
    pa.float32(): np.dtype(np.float32),
    pa.float64(): np.dtype(np.float64),
}


def to_batch(rows: Rows) -> pa.RecordBatch:
    """Wrap rows as one record batch, without a copy."""
    count, dimension = rows.vectors.shape
    element = pa.float32() if rows.vectors.dtype == np.float32 else pa.float64()
    vector = pa.list_(pa.field("element", element, nullable=False), dimension)
    types = [pa.uint64(), pa.binary(KEY_BYTES), pa.uint64(), vector]
    fields = [pa.field(name, type_, nullable=False) for name, type_ in zip(COLUMNS, types, strict=True)]
    values = _array(element, count * dimension, rows.vectors)
    columns = [
        _array(pa.uint64(), count, rows.prefixes),
        _array(pa.binary(KEY_BYTES), count, rows.keys),
        _array(pa.uint64(), count, rows.checksums),
        pa.Array.from_buffers(vector, count, [None], children=[values]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, metadata={_VERSION_KEY: _VERSION}))


def _array(type_: pa.DataType, count: int, numbers: NDArray[Any]) -> pa.Array:
    """Wrap an array's memory; `pa.array` would import pandas, where it is installed."""
    return pa.Array.from_buffers(type_, count, [None, pa.py_buffer(np.ascontiguousarray(numbers))])


def read_segment(view: View) -> Segment:
    """View the first record batch of an Arrow file or stream as a segment, without a copy of its vectors.

    Raises DamagedSegmentError if it is none, OSError where the file cannot be read.
    """
    try:
        segment = to_segment(untrusted.first_batch(view), view.map)
    except OtherVersionError:
        raise
    except (pa.ArrowException, EOFError, ValueError) as error:
        raise DamagedSegmentError(str(error)) from error
    except OSError as error:
        pass_on_signals(error)
        if error.errno is not None:
            raise
        raise DamagedSegmentError(str(error)) from error  # pyarrow's word for a body that is too short
    return as_read(segment, view)


def to_segment(batch: pa.RecordBatch, mapped: mmap.mmap | None = None) -> ArraySegment:
    """View a record batch as a segment, without a copy; raise DamagedSegmentError if it is none."""
    type_ = vector_type_of(batch.schema)
    batch.validate()
    if not len(batch):
        message = "it has no rows"
        raise DamagedSegmentError(message)
    prefix, key, checksum, vector = (_column_bytes(batch.column(name)) for name in COLUMNS)
    return ArraySegment(
        prefix.view(np.uint64)[:, 0],
        key,
        checksum.view(np.uint64)[:, 0],
        vector,
        dtype_of(type_),
        mapped,
    )


def vector_type_of(schema: pa.Schema) -> pa.FixedSizeListType:
    """Return the type of the vectors; raise DamagedSegmentError for a schema of something else."""
    version = (schema.metadata or {}).get(_VERSION_KEY, _VERSION)
    if version != _VERSION:
        message = f"its format has the version {version!r:.20}; this release reads {_VERSION!r}"
        raise OtherVersionError(message)
    types = [schema.field(name).type for name in COLUMNS] if schema.names == list(COLUMNS) else []
    if types[:3] != [pa.uint64(), pa.binary(KEY_BYTES), pa.uint64()]:
        message = f"its columns are not those of a segment: {schema.names}"
        raise DamagedSegmentError(message)
    vector = types[3]
    if not pa.types.is_fixed_size_list(vector) or vector.value_type not in _DTYPES or not vector.list_size:
        message = f"its vectors have the type {vector}"
        raise DamagedSegmentError(message)
    return vector


def dtype_of(vector: pa.FixedSizeListType) -> np.dtype[np.float32] | np.dtype[np.float64]:
    """Return the numpy dtype of the vectors' elements."""
    return _DTYPES[vector.value_type]


def _column_bytes(array: pa.Array) -> NDArray[np.uint8]:
    """View a column of N fixed-size values as bytes, shape (N, size)."""
    values = array.values if pa.types.is_fixed_size_list(array.type) else array
    if array.null_count or values.null_count:
        message = "a column has nulls"
        raise DamagedSegmentError(message)
    per_row = array.type.list_size if values is not array else 1
    size = per_row * values.type.bit_width // 8
    data = np.frombuffer(values.buffers()[1], np.uint8, len(array) * size, array.offset * size)
    return data.reshape(len(array), size)
