"""What all managers share: names that stay inside their directory, and whole checkpoints or none."""

from __future__ import annotations

import re
import unicodedata
from abc import abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from kura_cache_adapters._disk import atomic
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters.checkpoints.records import to_fields, to_models
from kura_cache_adapters.errors import CheckpointError
from kura_cache_adapters.protocols import BaseCheckpointManager

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pydantic import BaseModel

    from kura_cache_adapters.checkpoints.kura_format import Fields
    from kura_cache_adapters.protocols import ModelT

_logger = logger_of("checkpoints")

_LONGEST = 200  # bytes; file systems take 255, and temporary files need the rest
_LOOK_ALIKES = r"\u2044\u2215\u2216\u2236\u29f5\u29f8\u29f9\ua789"  # of / \ and : which NFKC leaves alone
_FORBIDDEN = re.compile(rf'[/\\:*?"<>|\x00-\x1f\x7f{_LOOK_ALIKES}]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$)\s*(\..*)?", re.IGNORECASE)
_ENDINGS = re.compile(r"(\.(jsonl|parquet))+$")  # a name may carry its file's


class FileCheckpointManager(BaseCheckpointManager):
    """A manager with one file or directory per checkpoint, `<name><suffix>`."""

    suffix: ClassVar[str]
    parts: ClassVar[frozenset[str]] = frozenset()
    """What is inside a checkpoint that is a directory."""
    shared: bool = False

    def __init__(self, checkpoint_dir: str | Path, *, enabled: bool = True, shared: bool = False) -> None:
        """Keep checkpoints in a directory.

        Args:
            checkpoint_dir: made at once when enabled; a failure is logged, and raised by the first save.
            enabled: without, nothing is loaded or saved, and a cache on this manager is off.
            shared: let the umask decide who may read and write what is saved; without, its owner alone may.

        """
        self.shared = shared
        super().__init__(checkpoint_dir, enabled=enabled)

    def _make_directory(self) -> None:
        atomic.make_directory(self.checkpoint_dir, shared=self.shared)

    def load_checkpoint(
        self,
        filename: str,
        model_class: type[ModelT],
        **kwargs: Any,  # noqa: ARG002 - Kura's signature; nothing here needs more
    ) -> list[ModelT] | None:
        """Load a checkpoint.

        Args:
            filename: its name, with or without the suffix of its file.
            model_class: the class of its models.
            **kwargs: Kura's managers take some; none has a meaning here.

        Returns:
            The models in their order; None when there is no checkpoint or when disabled.

        Raises:
            CheckpointError: what is there is damaged, or no checkpoint of this class.
            ValueError: a name that could leave the directory or that some system forbids.

        """
        path = self.get_checkpoint_path(filename)
        if not self.enabled:
            return None
        try:
            return to_models(self._texts(path), model_class, path)
        except FileNotFoundError:
            return None

    def save_checkpoint(self, filename: str, data: Sequence[BaseModel], **kwargs: Any) -> None:  # noqa: ARG002
        """Save models: the checkpoint is replaced as a whole, or not at all; nothing happens when disabled.

        Args:
            filename: its name, with or without the suffix of its file.
            data: models of any pydantic class.
            **kwargs: Kura's managers take some; none has a meaning here.

        Raises:
            CheckpointError: a model that JSON cannot hold, or a name that is taken by something else.
            OSError: the disk refuses.
            ValueError: a name that could leave the directory or that some system forbids.

        """
        path = self.get_checkpoint_path(filename)
        if not self.enabled:
            return
        records = to_fields(data, path)
        self._refuse_what_is_not_ours(path)
        self._make_directory()
        atomic.anchor(self.checkpoint_dir)
        atomic.remove_stale_temporaries(self.checkpoint_dir)
        try:
            self._publish(path, records)
        except FileNotFoundError:  # somebody has cleaned up under our hands: once more
            self._publish(path, records)
        _logger.info("Saved %d items to %s", len(records), path)

    def _publish(self, path: Path, records: list[Fields]) -> None:
        with atomic.published(path, durable=True) as temporary:
            self._write(temporary, records)

    def list_checkpoints(self) -> list[str]:
        """List the saved names, sorted; load and delete accept them. None when disabled."""
        if not self.enabled or not self.checkpoint_dir.is_dir():
            return []
        paths = (path for path in self.checkpoint_dir.iterdir() if self._is_checkpoint(path))
        return sorted(name for path in paths if (name := self._name_of(path)) is not None)

    def delete_checkpoint(self, filename: str) -> bool:
        """Delete a checkpoint; tell whether it was there. Nothing happens when disabled.

        Raises:
            OSError: the disk refuses.
            ValueError: a name that could leave the directory or that some system forbids.

        """
        path = self.get_checkpoint_path(filename)
        if not self.enabled or not self._is_checkpoint(path):
            return False
        atomic.remove(path)
        return True

    def get_checkpoint_path(self, filename: str) -> Path:
        """Return where a checkpoint lies, or would; the name may carry the suffix.

        Raises:
            ValueError: a name that could leave the directory or that some system forbids.

        """
        name = checked_name(filename)
        while self.suffix and name.endswith(self.suffix):
            name = name.removesuffix(self.suffix)
        return self.checkpoint_dir / f"{name}{self.suffix}"

    def _texts(self, path: Path) -> Iterator[str | bytes]:
        """Read the records; raise ValueError for whatever a damaged file may do to a reader."""
        try:
            yield from self._read(path)
        except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, EOFError) as error:
            raise ValueError(repr(error)) from error

    def _name_of(self, path: Path) -> str | None:
        """Return the name under which a file loads; None where another program's file has none."""
        name = path.name.removesuffix(self.suffix)
        with suppress(ValueError):
            return name if self.get_checkpoint_path(name).name == path.name else None
        return None

    def _refuse_what_is_not_ours(self, path: Path) -> None:
        """Raise CheckpointError where the name is that of a directory of something else, as of vectors."""
        inside = (
            {child.name for child in path.iterdir()} if path.is_dir() and not path.is_symlink() else set()
        )
        if inside and not inside & self.parts:
            message = f"{path} is a directory of something else: give the checkpoint another name"
            raise CheckpointError(message)

    def _is_checkpoint(self, path: Path) -> bool:
        return path.name.endswith(self.suffix) and not path.name.startswith(".") and path.is_file()

    @abstractmethod
    def _write(self, path: Path, records: list[Fields]) -> None:
        """Write records to a new file or directory."""

    @abstractmethod
    def _read(self, path: Path) -> Iterable[str | bytes]:
        """Read the records, as JSON texts; raise FileNotFoundError when there is nothing."""


def checked_name(name: object) -> str:
    """Return a checkpoint's name; raise ValueError unless it is one plain file name everywhere."""
    plain = unicodedata.normalize("NFKC", name) if isinstance(name, str) else ""
    bare = _ENDINGS.sub("", plain)
    if (
        not isinstance(name, str)
        or not bare.strip(". ")
        or bare.startswith(".")
        or plain.endswith((".", " "))
        or bare.endswith((".", " "))
        or _FORBIDDEN.search(plain)
        or _DEVICES.fullmatch(plain)
        or not name.isprintable()
        or not unicodedata.is_normalized("NFC", name)
        or len(name.encode("utf-8", "replace")) > _LONGEST
    ):
        message = (
            f"{name!a:.80} is no name for a checkpoint: use letters, digits, spaces, '-', '_' and "
            f"'.', not at the ends, at most {_LONGEST} bytes"
        )
        raise ValueError(message)
    return name
