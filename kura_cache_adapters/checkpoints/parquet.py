"""ParquetCheckpointManager: one Parquet file per checkpoint, one column per field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from kura_cache_adapters.checkpoints import columns
from kura_cache_adapters.checkpoints.files import Fields, FileCheckpointManager
from kura_cache_adapters.stores import ParquetStore, files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Compression = Literal["none", "snappy", "gzip", "brotli", "lz4", "zstd"]


class ParquetCheckpointManager(FileCheckpointManager):
    """Keep checkpoints as `<name>.parquet`.

    As a cache, vectors are written uncompressed, so that they can be mapped; with
    `compression="zstd"` they are compressed too.
    """

    suffix = ".parquet"

    def __init__(
        self,
        checkpoint_dir: str | Path,
        *,
        enabled: bool = True,
        compression: Compression = "snappy",
        shared: bool = False,
    ) -> None:
        """Choose a compression; raise ValueError for an unknown one."""
        if compression not in get_args(Compression):
            message = f"compression must be one of {get_args(Compression)}, not {compression!r}"
            raise ValueError(message)
        self.compression = compression
        super().__init__(checkpoint_dir, enabled=enabled, shared=shared)

    def open_store(self) -> ParquetStore:
        """Open the vector store below this directory."""
        compression: Literal["zstd"] | None = "zstd" if self.compression == "zstd" else None
        return ParquetStore(self.checkpoint_dir, compression=compression, shared=self.shared)

    def _write(self, path: Path, records: list[Fields]) -> None:
        with files.create(path, shared=self.shared) as file:
            pq.write_table(columns.to_table(records), file, compression=self.compression)

    def _read(self, path: Path) -> Iterable[str]:
        try:
            return list(columns.to_texts(pq.read_table(pa.BufferReader(path.read_bytes()))))
        except pa.ArrowException as error:
            raise ValueError(str(error)) from error
