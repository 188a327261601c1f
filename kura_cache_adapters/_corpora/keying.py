"""Writes a file's rows with the keys of their texts, to be joined with segments elsewhere."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kura_cache_adapters._corpora.sources import checked, read_rows, texts_of
from kura_cache_adapters._corpora.targets import refuse_present
from kura_cache_adapters._disk import atomic
from kura_cache_adapters.checks import KEY_BYTES

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

KEY = "key"
"""The column of the keys, as segments call it: 32 bytes."""


def keys_file(  # noqa: PLR0913 - each may matter
    keys_of: Callable[[list[str]], list[bytes]],
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    column: str,
    batch: int,
    overwrite: bool,
) -> int:
    """Write all columns of a file, and the keys of its texts; return how many rows."""
    source, target = Path(source), Path(target)
    if target.suffix != ".parquet":
        message = f"{target} is no .parquet file, in which keys are joined"
        raise ValueError(message)
    refuse_present(target, overwrite=overwrite)
    count, schema = checked(source, column, batch, KEY)
    keyed = (_with_keys(rows, keys_of(texts_of(rows, column))) for rows in read_rows(source, batch, schema))
    with (
        atomic.published(target, durable=True) as temporary,
        atomic.create_over_leftovers(temporary, target) as file,
    ):
        _write(keyed, file)
    return count


def _with_keys(rows: pa.RecordBatch, keys: list[bytes]) -> pa.RecordBatch:
    return rows.append_column(KEY, pa.array(keys, pa.binary(KEY_BYTES)))


def _write(batches: Iterator[pa.RecordBatch], file: BinaryIO) -> None:
    import pyarrow.parquet as pq  # noqa: PLC0415 - nobody imports it who writes no such file

    first: Any = next(batches)
    with closing(pq.ParquetWriter(file, first.schema)) as writer:
        writer.write_batch(first)
        for rows in batches:
            writer.write_batch(rows)
