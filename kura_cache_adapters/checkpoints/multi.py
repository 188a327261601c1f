"""MultiCheckpointManager: several managers that act as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from kura_cache_adapters.checkpoints.base import FileCheckpointManager, checked_name
from kura_cache_adapters.errors import CheckpointError
from kura_cache_adapters.protocols import BaseCheckpointManager
from kura_cache_adapters.stores import TieredStore, as_store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydantic import BaseModel

    from kura_cache_adapters.protocols import ModelT

SaveStrategy = Literal["all_enabled", "primary_only"]
LoadStrategy = Literal["first_found", "priority"]
_Word = TypeVar("_Word", bound=str)


class _OneOf(Generic[_Word]):
    """An attribute that takes a few words only, whenever it is set."""

    def __init__(self, *words: _Word) -> None:
        self._words = words

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> _Word:
        word: _Word = self._words[0] if instance is None else vars(instance)[self._name]
        return word

    def __set__(self, instance: object, word: _Word) -> None:
        if word not in self._words:
            message = f"{self._name} must be {' or '.join(map(repr, self._words))}, not {word!r}"
            raise ValueError(message)
        vars(instance)[self._name] = word


class MultiCheckpointManager(BaseCheckpointManager):
    """Save to several managers and load from the first that has it.

    Both strategies may be set later; anything but their words is a ValueError. As a cache the managers'
    stores are tiers, first to last, and every vector is written to all of them.
    """

    save_strategy: _OneOf[SaveStrategy] = _OneOf("all_enabled", "primary_only")
    load_strategy: _OneOf[LoadStrategy] = _OneOf("first_found", "priority")

    def __init__(
        self,
        managers: Sequence[BaseCheckpointManager],
        *,
        save_strategy: SaveStrategy = "all_enabled",
        load_strategy: LoadStrategy = "first_found",
    ) -> None:
        """Order managers.

        Args:
            managers: of any origin; the disabled ones are left out.
            save_strategy: "all_enabled", or "primary_only" for the first enabled one.
            load_strategy: "first_found", or "priority" for the first enabled one only.

        Raises:
            ValueError: no manager, or an unknown strategy.

        """
        if not managers:
            message = "a MultiCheckpointManager needs at least one manager"
            raise ValueError(message)
        self.managers: list[BaseCheckpointManager] = list(managers)
        self.save_strategy = save_strategy
        self.load_strategy = load_strategy
        self.checkpoint_dir: Path = self.managers[0].checkpoint_dir
        self.enabled: bool = bool(self._enabled())

    def setup_checkpoint_dir(self) -> None:
        """Make the directories of the enabled managers."""
        for manager in self._enabled():
            manager.setup_checkpoint_dir()

    def open_store(self) -> TieredStore:
        """Open the enabled managers' stores as tiers."""
        stores = [as_store(manager) for manager in self._enabled()]
        return TieredStore(*[store for store in stores if store is not None])

    def load_checkpoint(
        self,
        filename: str,
        model_class: type[ModelT],
        **kwargs: Any,
    ) -> list[ModelT] | None:
        """Load from the first manager that has it undamaged, by the load strategy.

        Args:
            filename: the checkpoint's name.
            model_class: the class of its models.
            **kwargs: handed on to the managers.

        Returns:
            The models in their order; None when no manager has the checkpoint.

        Raises:
            CheckpointError: it is damaged wherever it is.
            ValueError: a name that one of this package's managers refuses.

        """
        self._check(filename)
        managers = self._enabled()
        damaged: CheckpointError | None = None
        for manager in managers[:1] if self.load_strategy == "priority" else managers:
            try:
                found = manager.load_checkpoint(filename, model_class, **kwargs)
            except CheckpointError as error:  # another may have a sound copy
                damaged = error
                continue
            if found is not None:
                return found
        if damaged is not None:
            raise damaged
        return None

    def save_checkpoint(self, filename: str, data: Sequence[BaseModel], **kwargs: Any) -> None:
        """Save to the managers that the save strategy names, in their order.

        Args:
            filename: the checkpoint's name.
            data: models of any pydantic class.
            **kwargs: handed on to the managers.

        Raises:
            ValueError: a name that one of this package's managers refuses. What a manager raises comes
                through, and the ones after it are not asked.

        """
        self._check(filename)
        managers = self._enabled()
        for manager in managers[:1] if self.save_strategy == "primary_only" else managers:
            manager.save_checkpoint(filename, data, **kwargs)

    def list_checkpoints(self) -> list[str]:
        """List the names that any enabled manager has, sorted."""
        return sorted({name for manager in self._enabled() for name in manager.list_checkpoints()})

    def delete_checkpoint(self, filename: str) -> bool:
        """Delete from all enabled managers; tell whether any had it."""
        self._check(filename)
        deleted = [manager.delete_checkpoint(filename) for manager in self._enabled()]
        return any(deleted)

    def get_checkpoint_path(self, filename: str) -> Path:
        """Return where the first manager keeps a checkpoint; raise ValueError for a name it refuses."""
        self._check(filename)
        return self.managers[0].get_checkpoint_path(filename)

    def get_stats(self) -> dict[str, Any]:
        """Describe the managers: their types, directories and numbers of checkpoints."""
        return {
            "enabled": self.enabled,
            "save_strategy": self.save_strategy,
            "load_strategy": self.load_strategy,
            "num_managers": len(self.managers),
            "enabled_managers": len(self._enabled()),
            "managers": [
                {
                    "type": type(manager).__name__,
                    "enabled": manager.enabled,
                    "checkpoint_dir": manager.checkpoint_dir,
                    "checkpoint_count": len(manager.list_checkpoints()),
                }
                for manager in self.managers
            ],
        }

    def _check(self, filename: str) -> None:
        """Refuse what our managers refuse, if one of them is there, whether or not it is asked."""
        if any(isinstance(manager, FileCheckpointManager) for manager in self.managers):
            checked_name(filename)

    def _enabled(self) -> list[BaseCheckpointManager]:
        return [manager for manager in self.managers if manager.is_enabled()]
