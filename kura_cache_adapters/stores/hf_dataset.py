"""HFDatasetStore: segments that `datasets.load_from_disk` opens, read here without `datasets`."""

from __future__ import annotations

import json
import secrets
from datetime import timedelta  # noqa: TC003 - read_options reads annotations
from pathlib import PurePath
from typing import TYPE_CHECKING

import pyarrow as pa

from kura_cache_adapters._disk import atomic, reading
from kura_cache_adapters._observe.log import describe
from kura_cache_adapters._segments import columns
from kura_cache_adapters._segments.directory import SegmentStore
from kura_cache_adapters.errors import require

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from kura_cache_adapters._segments.format import Segment
    from kura_cache_adapters._segments.rows import Rows

DATA_FILE = "data-00000-of-00001.arrow"
_LONGEST_STATE = 16 << 20  # bytes


class HFDatasetFormat:
    """A directory as `Dataset.save_to_disk` leaves it, its rows in one batch of one Arrow stream."""

    suffix = ".hf"

    def __init__(self, *, shared: bool = False, mapped: bool | None = None) -> None:
        """Choose who may read files (all that the umask allows, or their owner), and how they are read."""
        self.shared = shared
        self.mapped = mapped

    def write(self, path: Path, rows: Rows) -> None:
        """Write rows to a new directory; needs the extra `datasets`."""
        write_dataset(path, pa.Table.from_batches([columns.to_batch(rows)]), shared=self.shared)

    def read(self, path: Path) -> Segment:
        """View the data file; of one that is mapped only the schema is read."""
        reading.refuse_link(path)
        return columns.read_segment(reading.view_file(path / DATA_FILE, mapped=self.mapped))

    def flaw(self, path: Path) -> str:
        """Say why `datasets` would not load it; empty where nothing is wrong."""
        try:
            json.loads(reading.read_file(path / "dataset_info.json", most=_LONGEST_STATE))["features"]
            read_dataset_files(path)
        except (OSError, ValueError, LookupError, TypeError) as error:
            return f"`datasets` does not load it: {describe(error)}"
        return ""


class HFDatasetStore(SegmentStore):
    """Keep vectors in a directory as HuggingFace datasets; writing needs the extra `datasets`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        shared: bool = False,
        mapped: bool | None = None,
        max_bytes: int | None = None,
        ttl: timedelta | float | None = None,
    ) -> None:
        """Name the directory; it is made by the first write.

        Args:
            path: a directory; each model has one of its own below it.
            shared: let the umask decide who may read and write what is stored; without, its owner alone may.
            mapped: map files into memory, or read from them; None maps on local file systems, and reads on
                those where a failing server would end the process.
            max_bytes: of all models' segments here: at a write, the oldest go until the rest is no more.
            ttl: seconds or a timedelta: at a write, segments go whose newest row was written longer ago. No
                look-up does that, or hides what is older.

        Raises:
            MissingExtraError: `datasets`, which writing needs, is not installed.
            ValueError: a bound that is not positive.

        """
        require("datasets", extra="datasets")
        segments = HFDatasetFormat(shared=shared, mapped=mapped)
        super().__init__(path, segments, max_bytes=max_bytes, ttl=ttl)


def write_dataset(path: Path, table: pa.Table, *, shared: bool) -> None:
    """Write a table to a new directory that `datasets.load_from_disk` opens.

    `Dataset.save_to_disk` would cut the rows into batches of 1,000, which cannot be mapped as one.
    """
    datasets = require("datasets", extra="datasets")
    features = datasets.Features.from_arrow_schema(table.schema)
    path.mkdir(mode=0o777 if shared else 0o700)
    schema = table.schema.with_metadata({**(table.schema.metadata or {}), **features.arrow_schema.metadata})
    with atomic.create(path / DATA_FILE, shared=shared) as file, pa.ipc.new_stream(file, schema) as writer:
        writer.write_table(table.combine_chunks().replace_schema_metadata(schema.metadata))
    _write_json(path / "dataset_info.json", {"features": features.to_dict()}, shared=shared)
    state: dict[str, object] = {
        "_data_files": [{"filename": DATA_FILE}],
        "_fingerprint": secrets.token_hex(8),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    _write_json(path / "state.json", state, shared=shared)


def read_dataset_files(path: Path) -> list[bytes]:
    """Read the data files of a dataset on disk, in their order; raise ValueError for names of others.

    `datasets.load_from_disk` would open what the dataset names, wherever it is.
    """
    state = json.loads(reading.read_file(path / "state.json", most=_LONGEST_STATE))
    names = [entry["filename"] for entry in state["_data_files"]]
    if any(name != PurePath(name).name for name in names):
        message = f"its data is elsewhere: {names!r:.80}"
        raise ValueError(message)
    return [reading.read_file(path / name) for name in names]


def _write_json(path: Path, fields: dict[str, object], *, shared: bool) -> None:
    with atomic.create(path, shared=shared) as file:
        file.write(json.dumps(fields, indent=2).encode())
