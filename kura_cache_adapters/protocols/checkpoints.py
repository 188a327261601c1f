"""Kura's checkpoint managers, and what a cache needs of them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kura_cache_adapters.protocols.stores import EmbeddingStore


_logger = logging.getLogger("kura_cache_adapters.checkpoints")

ModelT = TypeVar("ModelT", bound=BaseModel)


@runtime_checkable
class OpensStore(Protocol):
    """A manager that can open a native vector store in its own format."""

    def open_store(self) -> EmbeddingStore:
        """Open the store below the manager's directory."""


@runtime_checkable
class SupportsCheckpoints(Protocol):
    """The part of a checkpoint manager, Kura's or anyone's, that a cache needs."""

    def is_enabled(self) -> bool:
        """Tell whether the manager stores anything."""

    def load_checkpoint(self, filename: str, model_class: type[ModelT]) -> list[ModelT] | None:
        """Load a checkpoint; None when there is none."""

    def save_checkpoint(self, filename: str, data: list[ModelT]) -> None:
        """Save a checkpoint under a name."""


class BaseCheckpointManager(ABC):
    """Kura's checkpoint manager contract (kura 0.5.4, `kura.base_classes.checkpoint`)."""

    checkpoint_dir: Path
    enabled: bool

    def __init__(self, checkpoint_dir: str | Path, *, enabled: bool = True) -> None:
        """Keep checkpoints in a directory, made at once when enabled."""
        self.checkpoint_dir = Path(checkpoint_dir)
        self.enabled = enabled
        if enabled:
            self.setup_checkpoint_dir()

    def setup_checkpoint_dir(self) -> None:
        """Make the directory; a failure is logged here and raised by the first save."""
        try:
            self._make_directory()
        except OSError as error:
            _logger.warning("No checkpoint directory %s: %s", self.checkpoint_dir, error)

    def _make_directory(self) -> None:
        self.checkpoint_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    @abstractmethod
    def load_checkpoint(
        self,
        filename: str,
        model_class: type[ModelT],
        **kwargs: Any,
    ) -> list[ModelT] | None:
        """Load a checkpoint as a list of models; None when there is none or when disabled."""

    @abstractmethod
    def save_checkpoint(self, filename: str, data: Sequence[BaseModel], **kwargs: Any) -> None:
        """Save models under a name, all or nothing."""

    @abstractmethod
    def list_checkpoints(self) -> list[str]:
        """List the saved names, sorted."""

    @abstractmethod
    def delete_checkpoint(self, filename: str) -> bool:
        """Delete a checkpoint; tell whether it was there."""

    @abstractmethod
    def get_checkpoint_path(self, filename: str) -> Path:
        """Return where a checkpoint lies; raise ValueError for a name that is not one."""

    def is_enabled(self) -> bool:
        """Tell whether the manager stores anything."""
        return self.enabled

    def __repr__(self) -> str:
        """Name the class, the directory and whether it is enabled."""
        name = type(self).__name__
        return f"{name}(checkpoint_dir={str(self.checkpoint_dir)!r}, enabled={self.enabled})"
