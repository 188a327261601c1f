"""Where code comes from: a released package, or the user's own project, where it may change at any time."""

from __future__ import annotations

import sys
from functools import cached_property, lru_cache, partial, partialmethod
from pathlib import Path
from types import FunctionType, MethodType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SITES = {"site-packages", "dist-packages"}
_OURS = __name__.partition(".")[0]
_DEPTH = 32  # wrappers around wrappers
_AROUND = (
    ((staticmethod, classmethod, MethodType), "__func__"),
    (property, "fget"),
    ((partial, partialmethod, cached_property), "func"),
)


@lru_cache(maxsize=1024)
def is_installed(module: str) -> bool:
    """Tell whether a module belongs to an installed distribution, the standard library or this package.

    A script, a notebook and a project's own (also an editable) package do not: their code changes
    without a new version.
    """
    top = module.partition(".")[0]
    if top in {"__main__", "__mp_main__"}:  # whatever ran it: `python -m pytest` is installed
        return False
    if top in {_OURS, *sys.stdlib_module_names}:
        return True
    loaded = sys.modules.get(module) or sys.modules.get(top)
    spec = getattr(loaded, "__spec__", None)
    file = getattr(loaded, "__file__", None) or getattr(spec, "origin", None)
    return file is not None and not _SITES.isdisjoint(Path(file).parts)


def own_class(thing: object) -> type | None:
    """Return the first class of the user's own among a thing's, its bases included; None if there is none.

    Also one that has been given a method of the user's own, or was made by calling its metaclass.
    """
    return next((kind for kind in type(thing).__mro__ if _is_own(kind)), None)


def replaced_method(thing: object) -> str | None:
    """Name a method that was replaced on this object alone; None if there is none."""
    mine = getattr(thing, "__dict__", {})
    return next((name for name in mine if callable(getattr(type(thing), name, None))), None)


def class_path(thing: object) -> str:
    """Return module and name of a thing's class, the same in a spawned process."""
    module = type(thing).__module__
    return f"{'__main__' if module == '__mp_main__' else module}.{type(thing).__qualname__}"


def _is_own(kind: type) -> bool:
    return not is_installed(kind.__module__) or not all(map(is_installed, _homes(kind)))


def _homes(kind: type) -> Iterator[str]:
    """Iterate over the modules in which a class's methods were written."""
    for value in vars(kind).values():
        yield from homes_of(value)


def homes_of(code: object) -> Iterator[str]:
    """Iterate over the modules in which a function was written, and all that it wraps; none for data."""
    for _ in range(_DEPTH):
        inside = next((getattr(code, name) for kind, name in _AROUND if isinstance(code, kind)), None)
        if hasattr(type(code), "_self_wrapper"):  # of wrapt: it looks like what it wraps
            yield from homes_of(getattr(code, "_self_wrapper", None))
            inside = getattr(code, "__wrapped__", None)
        elif isinstance(code, FunctionType):
            home, inside = code.__globals__.get("__name__"), getattr(code, "__wrapped__", None)
            if home is not None or inside is None:  # a decorator's own exec has no name
                yield str(home or "__main__")
        if inside is None:
            return
        code = inside
