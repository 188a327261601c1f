"""HFDatasetStore: segments that `datasets.load_from_disk` opens, read here without `datasets`."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

import pyarrow as pa

from kura_cache_adapters.errors import require
from kura_cache_adapters.stores import columns, files
from kura_cache_adapters.stores.directory import SegmentStore

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from kura_cache_adapters.stores.rows import Rows
    from kura_cache_adapters.stores.search import Segment

_DATA_FILE = "data-00000-of-00001.arrow"


class HFDatasetFormat:
    """A directory as `Dataset.save_to_disk` leaves it, its rows in one batch of one Arrow stream."""

    suffix = ".hf"

    def write(self, path: Path, rows: Rows) -> None:
        """Write rows to a new directory; needs the extra `datasets`."""
        write_dataset(path, pa.Table.from_batches([columns.to_batch(rows)]))

    def read(self, path: Path) -> Segment:
        """Map the data file; only its schema is read."""
        return columns.read_segment(files.map_file(path / _DATA_FILE))


class HFDatasetStore(SegmentStore):
    """Keep vectors in a directory as HuggingFace datasets; writing needs the extra `datasets`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name the directory; raise MissingExtraError without `datasets`, which writing needs."""
        require("datasets", extra="datasets")
        super().__init__(path, HFDatasetFormat())


def write_dataset(path: Path, table: pa.Table) -> None:
    """Write a table to a new directory that `datasets.load_from_disk` opens.

    `Dataset.save_to_disk` would cut the rows into batches of 1,000, which cannot be mapped as one.
    """
    datasets = require("datasets", extra="datasets")
    features = datasets.Features.from_arrow_schema(table.schema)
    path.mkdir(mode=0o700)
    schema = table.schema.with_metadata({**(table.schema.metadata or {}), **features.arrow_schema.metadata})
    with files.create(path / _DATA_FILE) as file, pa.ipc.new_stream(file, schema) as writer:
        writer.write_table(table.combine_chunks().replace_schema_metadata(schema.metadata))
    _write_json(path / "dataset_info.json", {"features": features.to_dict()})
    state: dict[str, object] = {
        "_data_files": [{"filename": _DATA_FILE}],
        "_fingerprint": secrets.token_hex(8),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    _write_json(path / "state.json", state)


def _write_json(path: Path, fields: dict[str, object]) -> None:
    with files.create(path) as file:
        file.write(json.dumps(fields, indent=2).encode())
