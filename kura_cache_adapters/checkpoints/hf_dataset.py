"""HFDatasetCheckpointManager: one HuggingFace dataset per checkpoint."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pyarrow as pa

from kura_cache_adapters.checkpoints import columns
from kura_cache_adapters.checkpoints.files import Fields, FileCheckpointManager
from kura_cache_adapters.errors import require
from kura_cache_adapters.stores import HFDatasetStore, files
from kura_cache_adapters.stores.hf_dataset import DATA_FILE, batches_of, read_dataset_files, write_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_DIGEST_FILE = "data.sha256"
_TRIES = 5  # a save may exchange the directory while it is read


class HFDatasetCheckpointManager(FileCheckpointManager):
    """Keep checkpoints as directories that `datasets.load_from_disk` opens.

    Needs the extra `datasets`. A crash in the middle of a save leaves the checkpoint as it was.
    """

    suffix = ""
    parts = frozenset({"state.json", "dataset_info.json", DATA_FILE, _DIGEST_FILE})

    def __init__(self, checkpoint_dir: str | Path, *, enabled: bool = True, shared: bool = False) -> None:
        """Keep checkpoints in a directory; raise MissingExtraError without `datasets`."""
        require("datasets", extra="datasets")
        super().__init__(checkpoint_dir, enabled=enabled, shared=shared)

    def open_store(self) -> HFDatasetStore:
        """Open the vector store below this directory."""
        return HFDatasetStore(self.checkpoint_dir, shared=self.shared)

    def list_checkpoints(self) -> list[str]:
        """List the saved names, sorted; load and delete accept them."""
        self._settle()
        return super().list_checkpoints()

    def delete_checkpoint(self, filename: str) -> bool:
        """Delete a checkpoint; tell whether it was there."""
        self._settle()
        return super().delete_checkpoint(filename)

    def _is_checkpoint(self, path: Path) -> bool:
        return not path.name.startswith(".") and (path / "state.json").is_file()

    def _write(self, path: Path, records: list[Fields]) -> None:
        write_dataset(path, columns.to_table(records), shared=self.shared)
        with files.create(path / _DIGEST_FILE, shared=self.shared) as file:
            file.write(_digest(read_dataset_files(path)))

    def _read(self, path: Path) -> Iterator[str]:
        contents = self._contents(path)
        for content in contents:
            for batch in batches_of(content):
                yield from columns.to_texts(pa.Table.from_batches([batch]))

    def _contents(self, path: Path) -> list[bytes]:
        damaged: ValueError | None = None
        for _ in range(_TRIES):
            if not path.exists():
                self._settle()
            files.refuse_link(path)
            try:
                return _verified(path, read_dataset_files(path))
            except FileNotFoundError:
                damaged = None
            except ValueError as error:  # half of an older one, perhaps
                damaged = error
        if damaged is None and not self._is_checkpoint(path):
            raise FileNotFoundError(path)
        raise damaged or ValueError("its data is gone")

    def _settle(self) -> None:
        """Put back what a killed save had moved aside."""
        if self.checkpoint_dir.is_dir():
            files.restore_previous(self.checkpoint_dir)


def _verified(path: Path, contents: list[bytes]) -> list[bytes]:
    """Return the contents of a dataset's files if their digest, which only our datasets have, is right."""
    digest = path / _DIGEST_FILE
    if os.path.lexists(digest) and files.read_file(digest) != _digest(contents):
        message = "its data is damaged"
        raise ValueError(message)
    return contents


def _digest(contents: list[bytes]) -> bytes:
    return sha256(b"".join(contents)).hexdigest().encode()
