"""What all managers share: names that stay inside their directory, and whole checkpoints or none."""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from abc import abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from kura_cache_adapters.checkpoints import kura_layout
from kura_cache_adapters.errors import CheckpointError
from kura_cache_adapters.protocols import BaseCheckpointManager
from kura_cache_adapters.stores import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from kura_cache_adapters.protocols import ModelT

logger = logging.getLogger(__name__)

Fields = dict[str, Any]
"""One record in JSON's types."""

_LONGEST = 200  # bytes; file systems take 255, and temporary files need the rest
_FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class FileCheckpointManager(BaseCheckpointManager):
    """A manager with one file or directory per checkpoint, `<name><suffix>`."""

    suffix: ClassVar[str]

    def load_checkpoint(
        self,
        filename: str,
        model_class: type[ModelT],
        **kwargs: Any,  # noqa: ARG002 - Kura's signature; nothing here needs more
    ) -> list[ModelT] | None:
        """Load a checkpoint; None when there is none or when disabled.

        Raises CheckpointError when what is there is no checkpoint of this class.
        """
        path = self.get_checkpoint_path(filename)
        if not self.enabled:
            return None
        try:
            texts = self._read(path)
            return [_validated(model_class, text) for text in texts]
        except FileNotFoundError:
            return None
        except (ValidationError, ValueError, OSError) as error:
            message = f"{path} holds no checkpoint of {model_class.__name__}: {error}"
            raise CheckpointError(message) from error

    def save_checkpoint(self, filename: str, data: Sequence[BaseModel], **kwargs: Any) -> None:  # noqa: ARG002
        """Save models: the checkpoint is replaced as a whole, or not at all.

        Raises CheckpointError for a model that JSON cannot hold, OSError when the disk refuses.
        """
        path = self.get_checkpoint_path(filename)
        if not self.enabled:
            return
        records = [_dumped(item, at, path) for at, item in enumerate(data)]
        files.make_directory(self.checkpoint_dir)
        files.anchor(self.checkpoint_dir)
        files.remove_stale_temporaries(self.checkpoint_dir)
        with files.published(path, durable=True) as temporary:
            self._write(temporary, records)
        logger.info("Saved %d items to %s", len(records), path)

    def list_checkpoints(self) -> list[str]:
        """List the saved names, sorted; load and delete accept them."""
        if not self.enabled or not self.checkpoint_dir.is_dir():
            return []
        names = (path.name for path in self.checkpoint_dir.iterdir() if self._is_checkpoint(path))
        return sorted(name.removesuffix(self.suffix) for name in names)

    def delete_checkpoint(self, filename: str) -> bool:
        """Delete a checkpoint; tell whether it was there."""
        path = self.get_checkpoint_path(filename)
        if not self.enabled or not self._is_checkpoint(path):
            return False
        files.remove(path)
        return True

    def get_checkpoint_path(self, filename: str) -> Path:
        """Return where a checkpoint lies; the name may carry the suffix.

        Raises ValueError for a name that could leave the directory or that some system forbids.
        """
        name = _checked(filename)
        while self.suffix and name.endswith(self.suffix):
            name = _checked(name.removesuffix(self.suffix))
        return self.checkpoint_dir / f"{name}{self.suffix}"

    def _is_checkpoint(self, path: Path) -> bool:
        return path.name.endswith(self.suffix) and not path.name.startswith(".") and path.is_file()

    @abstractmethod
    def _write(self, path: Path, records: list[Fields]) -> None:
        """Write records to a new file or directory."""

    @abstractmethod
    def _read(self, path: Path) -> Iterable[str | bytes]:
        """Read the records, as JSON texts; raise FileNotFoundError when there is nothing."""


def _dumped(item: BaseModel, at: int, path: Path) -> Fields:
    try:
        fields: Fields = item.model_dump(mode="json", by_alias=False, round_trip=True)
        json.dumps(fields, ensure_ascii=False).encode()
    except (PydanticSerializationError, ValueError, TypeError) as error:
        message = f"item {at} ({type(item).__name__}) cannot be saved to {path}: {error}"
        raise CheckpointError(message) from error
    return fields


def _validated(model_class: type[ModelT], text: str | bytes) -> ModelT:
    """Read a record as it was written, by name; then as others write: by alias, or packed by Kura."""
    try:
        return model_class.model_validate_json(text, by_alias=False, by_name=True)
    except ValidationError as error:
        failed = {location[0] for each in error.errors() if (location := each["loc"])}
    with suppress(ValidationError):
        return model_class.model_validate_json(text, by_alias=True, by_name=True)
    return model_class.model_validate_json(kura_layout.unpacked(text, failed), by_alias=False, by_name=True)


def _checked(name: object) -> str:
    """Return a checkpoint's name; raise ValueError unless it is one plain file name everywhere."""
    plain = unicodedata.normalize("NFKC", name) if isinstance(name, str) else ""
    if (
        not plain.strip(". ")
        or plain.startswith(".")
        or plain.endswith((".", " "))
        or _FORBIDDEN.search(plain)
        or _DEVICES.fullmatch(plain)
        or not isinstance(name, str)
        or not name.isprintable()
        or len(name.encode("utf-8", "replace")) > _LONGEST
    ):
        message = (
            f"{name!r:.80} is no name for a checkpoint: use letters, digits, spaces, '-', '_' and "
            f"'.', not at the ends, at most {_LONGEST} bytes"
        )
        raise ValueError(message)
    return name
