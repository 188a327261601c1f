"""Names of a module that are imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lazy(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's `__getattr__`: `homes` says in which module below it the names of a line are."""
    rooms = {name: room for room, names in homes.items() for name in names.split()}

    def find(name: str) -> Any:  # noqa: ANN401 - of any type
        if name not in rooms:
            message = f"module {module!r} has no attribute {name!r}"
            raise AttributeError(message)
        return getattr(import_module(f"{module}.{rooms[name]}"), name)

    return find
