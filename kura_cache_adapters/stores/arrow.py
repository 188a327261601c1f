"""ArrowStore: segments as Arrow IPC files, mapped and read in place. The default store."""

from __future__ import annotations

from datetime import timedelta  # noqa: TC003 - read_options reads annotations
from typing import TYPE_CHECKING

import pyarrow as pa

from kura_cache_adapters._disk import atomic, reading
from kura_cache_adapters._segments import columns
from kura_cache_adapters._segments.directory import SegmentStore

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from kura_cache_adapters._segments.format import Segment
    from kura_cache_adapters._segments.rows import Rows


_MAGIC = b"ARROW1"


class ArrowFormat:
    """One record batch per file (Arrow IPC file format), uncompressed."""

    suffix = ".arrow"

    def __init__(self, *, shared: bool = False, mapped: bool | None = None) -> None:
        """Choose who may read files (all that the umask allows, or their owner), and how they are read."""
        self.shared = shared
        self.mapped = mapped

    def write(self, path: Path, rows: Rows) -> None:
        """Write rows to a new file."""
        batch = columns.to_batch(rows)
        with atomic.create(path, shared=self.shared) as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)

    def read(self, path: Path) -> Segment:
        """View a file; of one that is mapped only the schema is read."""
        return columns.read_segment(reading.view_file(path, mapped=self.mapped))

    def flaw(self, path: Path) -> str:
        """Say why other readers of Arrow would not open it; empty where nothing is wrong."""
        view = reading.view_file(path, mapped=False)
        size = len(view.content)
        view.load(max(0, size - len(_MAGIC)), size)
        return "" if view.content[-len(_MAGIC) :] == _MAGIC else "its end is not that of an Arrow file"


class ArrowStore(SegmentStore):
    """Keep vectors in a directory as memory-mapped Arrow IPC files."""

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
            ValueError: a bound that is not positive.

        """
        segments = ArrowFormat(shared=shared, mapped=mapped)
        super().__init__(path, segments, max_bytes=max_bytes, ttl=ttl)
