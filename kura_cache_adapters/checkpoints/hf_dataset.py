"""HFDatasetCheckpointManager: one HuggingFace dataset per checkpoint."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pyarrow as pa

from kura_cache_adapters.checkpoints import columns
from kura_cache_adapters.checkpoints.files import Fields, FileCheckpointManager
from kura_cache_adapters.errors import require
from kura_cache_adapters.stores import HFDatasetStore, files
from kura_cache_adapters.stores.hf_dataset import write_dataset

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


_TRIES = 5  # a save may exchange the directory while it is read


class HFDatasetCheckpointManager(FileCheckpointManager):
    """Keep checkpoints as directories that `datasets.load_from_disk` opens.

    Needs the extra `datasets`. A crash in the middle of a save leaves the checkpoint as it was.
    """

    suffix = ""

    def __init__(self, checkpoint_dir: str | Path, *, enabled: bool = True) -> None:
        """Keep checkpoints in a directory; raise MissingExtraError without `datasets`."""
        require("datasets", extra="datasets")
        super().__init__(checkpoint_dir, enabled=enabled)

    def open_store(self) -> HFDatasetStore:
        """Open the vector store below this directory."""
        return HFDatasetStore(self.checkpoint_dir)

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
        write_dataset(path, columns.to_table(records))

    def _read(self, path: Path) -> Iterable[str]:
        datasets = require("datasets", extra="datasets")
        try:
            for _ in range(_TRIES):
                if not path.exists():
                    self._settle()
                with suppress(FileNotFoundError):
                    dataset = datasets.load_from_disk(str(path), keep_in_memory=True)
                    return list(columns.to_texts(dataset.with_format("arrow")[:]))
            raise FileNotFoundError(path)
        except (pa.ArrowException, KeyError, TypeError) as error:
            raise ValueError(str(error)) from error

    def _settle(self) -> None:
        """Put back what a killed save had moved aside."""
        if self.checkpoint_dir.is_dir():
            files.restore_previous(self.checkpoint_dir)
