"""ParquetCheckpointManager: one Parquet file per checkpoint, one column per field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from kura_cache_adapters._disk import atomic, reading, untrusted
from kura_cache_adapters.checkpoints import columns
from kura_cache_adapters.checkpoints.base import FileCheckpointManager
from kura_cache_adapters.stores import ParquetStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kura_cache_adapters.checkpoints.kura_format import Fields

_MARK = b"kura_cache_adapters.checkpoint"
_BATCH = 1024  # rows
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
        """Keep checkpoints in a directory.

        Args:
            checkpoint_dir: made at once when enabled; a failure is logged, and raised by the first save.
            enabled: without, nothing is loaded or saved, and a cache on this manager is off.
            compression: of checkpoints; of vectors too if it is "zstd".
            shared: let the umask decide who may read and write what is saved; without, its owner alone may.

        Raises:
            ValueError: an unknown compression.

        """
        if compression not in get_args(Compression):
            message = f"compression must be one of {get_args(Compression)}, not {compression!r}"
            raise ValueError(message)
        self.compression = compression
        super().__init__(checkpoint_dir, enabled=enabled, shared=shared)

    def open_store(self) -> ParquetStore:
        """Open the vector store below this directory."""
        compression: Literal["zstd"] | None = "zstd" if self.compression == "zstd" else None
        return ParquetStore(self.checkpoint_dir, compression=compression, shared=self.shared)

    def get_file_size(self, filename: str) -> int:
        """Return the size of a checkpoint's file in bytes; 0 when there is none.

        Raises:
            ValueError: a name that could leave the directory or that some system forbids.

        """
        path = self.get_checkpoint_path(filename)
        return reading.size(path) if self._is_checkpoint(path) else 0

    def _write(self, path: Path, records: list[Fields]) -> None:
        table = columns.to_table(records).replace_schema_metadata({_MARK: b"1"})
        with atomic.create(path, shared=self.shared) as file:
            pq.write_table(table, file, compression=self.compression, write_page_checksum=True)
            untrusted.seal(path, file)

    def _read(self, path: Path) -> Iterator[str]:
        content = reading.read_file(path)
        if _MARK in untrusted.footer_of(content)[1]:  # a footer that is ours, as Kura's are not
            untrusted.check_seal(content)
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        untrusted.check_claims(file.metadata, len(content))
        read = 0
        for batch in file.iter_batches(_BATCH):
            read += batch.nbytes  # a dictionary may hide more than the footer claims
            reading.check_size(read, len(content))
            yield from columns.to_texts(pa.Table.from_batches([batch]))
