"""Calls of a model that are one to their caller: shown as one, and left as one."""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")
_current: contextvars.ContextVar[Series | None] = contextvars.ContextVar("kura_cache_series", default=None)


@dataclass(slots=True, eq=False)
class Series:
    """Calls of one model, by its name, over so many texts in all, if that is known."""

    model: str
    total: int | None = None
    left: bool = False
    when_over: list[Callable[[], object]] = field(default_factory=list)

    def begin(self, call: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Begin what belongs to the series; the caller's own context is left as it is."""
        context = contextvars.copy_context()
        context.run(_current.set, self)
        return context.run(call, *args, **kwargs)

    def close(self) -> None:
        """Have nothing more asked for, and those told who show it."""
        self.left = True
        for tell in self.when_over:
            tell()


def series_of(model: str) -> Series | None:
    """Return the series that the current call of a model belongs to; what that model calls is in none."""
    series = _current.get()
    return series if series is not None and series.model == model else None


def stop_if_series_is_left(model: str) -> None:
    """Raise CancelledError where the caller of the series has gone: nothing more is to be asked for."""
    if (series := series_of(model)) is not None and series.left:
        raise asyncio.CancelledError
