"""HFDatasetCheckpointManager: one HuggingFace dataset per checkpoint."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import pyarrow as pa
from pydantic import RootModel

from kura_cache_adapters._disk import atomic, reading, untrusted
from kura_cache_adapters._observe.log import describe
from kura_cache_adapters.checkpoints import columns
from kura_cache_adapters.checkpoints.base import FileCheckpointManager
from kura_cache_adapters.checkpoints.records import to_models
from kura_cache_adapters.errors import CheckpointError, require
from kura_cache_adapters.stores import HFDatasetStore
from kura_cache_adapters.stores.hf_dataset import DATA_FILE, read_dataset_files, write_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kura_cache_adapters.checkpoints.kura_format import Fields
    from kura_cache_adapters.protocols import ModelT

Compression = Literal["gzip", "lz4", "zstd"]

_DIGEST_FILE = "data.sha256"
_LONGEST_INFO = 16 << 20  # bytes
_TRIES = 5  # a save may exchange the directory while it is read


class _Record(RootModel[Any]):
    """A record as it lies in a checkpoint, of whatever class."""


class HFDatasetCheckpointManager(FileCheckpointManager):
    """Keep checkpoints as directories that `datasets.load_from_disk` opens.

    Needs the extra `datasets`. A crash in the middle of a save leaves the checkpoint as it was.
    """

    suffix = ""
    parts: ClassVar[frozenset[str]] = frozenset({"state.json", "dataset_info.json", DATA_FILE, _DIGEST_FILE})

    def __init__(  # noqa: PLR0913 - Kura's options
        self,
        checkpoint_dir: str | Path,
        *,
        enabled: bool = True,
        hub_repo: str | None = None,
        hub_token: str | None = None,
        streaming: bool = False,
        compression: Compression | None = "gzip",
        shared: bool = False,
    ) -> None:
        """Keep checkpoints in a directory.

        Args:
            checkpoint_dir: made at once when enabled; a failure is logged, and raised by the first save.
            enabled: without, nothing is loaded or saved, and a cache on this manager is off.
            hub_repo: Kura's; refused, for checkpoints stay in their directory.
            hub_token: Kura's; refused likewise.
            streaming: Kura's; it changes nothing, as there for checkpoints on disk.
            compression: Kura's; it changes nothing, as there for checkpoints on disk.
            shared: let the umask decide who may read and write what is saved; without, its owner alone may.

        Raises:
            MissingExtraError: `datasets` is not installed.
            NotImplementedError: a `hub_repo` or a `hub_token`.
            ValueError: an unknown compression.

        """
        if hub_repo is not None or hub_token is not None:
            message = (
                "hub_repo and hub_token are not supported: checkpoints stay in their directory. "
                "Push one with datasets.load_from_disk(manager.get_checkpoint_path(name)).push_to_hub(repo)"
            )
            raise NotImplementedError(message)
        if compression not in {None, *get_args(Compression)}:
            message = f"compression must be one of {get_args(Compression)} or None, not {compression!r}"
            raise ValueError(message)
        require("datasets", extra="datasets")
        self.hub_repo: str | None = hub_repo
        self.hub_token: str | None = hub_token
        self.streaming: bool = streaming
        self.compression: Compression | None = compression
        super().__init__(checkpoint_dir, enabled=enabled, shared=shared)

    def open_store(self) -> HFDatasetStore:
        """Open the vector store below this directory."""
        return HFDatasetStore(self.checkpoint_dir, shared=self.shared)

    def filter_checkpoint(
        self,
        filename: str,
        filter_fn: Callable[[Fields], bool],
        model_class: type[ModelT],
        **kwargs: Any,
    ) -> list[ModelT] | None:
        """Load the records for which a function is true.

        Args:
            filename: the checkpoint's name.
            filter_fn: is handed a record's fields in JSON's types; what it raises comes through.
            model_class: the class of the models that are left.
            **kwargs: as `load_checkpoint` takes.

        Returns:
            The models in their order; None when there is no checkpoint or when disabled.

        Raises:
            CheckpointError: as `load_checkpoint` does.
            ValueError: a name that could leave the directory or that some system forbids.

        """
        records = self.load_checkpoint(filename, _Record, **kwargs)
        if records is None:
            return None
        path = self.get_checkpoint_path(filename)
        kept = [json.dumps(record.root) for record in records if filter_fn(record.root)]
        return to_models(kept, model_class, path)

    def get_checkpoint_info(self, filename: str) -> dict[str, Any] | None:
        """Describe a checkpoint.

        Returns:
            `num_rows`, `num_columns`, `column_names`, `size_bytes`, and what `dataset_info.json` says, as
            `features`; None when there is no checkpoint or when disabled.

        Raises:
            CheckpointError: it cannot be read.
            ValueError: a name that could leave the directory or that some system forbids.

        """
        path = self.get_checkpoint_path(filename)
        if not self.enabled or not self._is_checkpoint(path):
            return None
        try:
            batches = [batch for content in self._contents(path) for batch in untrusted.batches_of(content)]
            described = json.loads(reading.read_file(path / "dataset_info.json", most=_LONGEST_INFO))
        except (ValueError, OSError, LookupError, TypeError) as error:
            message = f"{path} cannot be described: {describe(error)}"
            raise CheckpointError(message) from None
        names = batches[0].schema.names if batches else [*described.get("features", {})]
        return {
            "num_rows": sum(map(len, batches)),
            "num_columns": len(names),
            "column_names": names,
            "size_bytes": reading.size(path),
            **described,
        }

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
        with atomic.create(path / _DIGEST_FILE, shared=self.shared) as file:
            file.write(_digest(read_dataset_files(path)))

    def _read(self, path: Path) -> Iterator[str]:
        contents = self._contents(path)
        for content in contents:
            for batch in untrusted.batches_of(content):
                yield from columns.to_texts(pa.Table.from_batches([batch]))

    def _contents(self, path: Path) -> list[bytes]:
        damaged: ValueError | None = None
        for again in range(_TRIES):
            if again or not path.exists():
                self._settle()
            reading.refuse_link(path)
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
            atomic.restore_previous(self.checkpoint_dir)


def _verified(path: Path, contents: list[bytes]) -> list[bytes]:
    """Return the contents of a dataset's files if their digest, which only our datasets have, is right."""
    digest = path / _DIGEST_FILE
    if os.path.lexists(digest) and reading.read_file(digest) != _digest(contents):
        message = "its data is damaged"
        raise ValueError(message)
    return contents


def _digest(contents: list[bytes]) -> bytes:
    return sha256(b"".join(contents)).hexdigest().encode()
