"""A progress bar for each call that embeds, and one for all calls of a series."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._observe.events import Embedded, Failed, LookedUp
from kura_cache_adapters._runtime.fork import ForkLock
from kura_cache_adapters._runtime.series import Series, series_of

if TYPE_CHECKING:
    from kura_cache_adapters._observe.events import Event

_AT_ONCE = 0.1  # seconds: what is done by then needs no bar (Nielsen, *Usability Engineering*, 1993)


class Progress:
    """An observer that shows a bar for each call: what was found in front, then what is embedded.

    The calls of a series share one. It is a widget in a notebook. What is done at once shows nothing.
    """

    def __init__(self) -> None:
        """Start with no bar."""
        self._lock = ForkLock()  # around all that a bar does: tqdm's own lock could be left held by a fork
        self._bars: dict[int | Series, Any] = {}
        self._found: dict[Series, int] = {}

    def __call__(self, event: Event) -> None:
        """Open a call's bar, move it, or close it."""
        if (series := series_of(event.model)) is not None:
            with self._lock:
                self._show(series, event)
        elif isinstance(event, LookedUp) and event.missing:
            with self._lock:
                self._bars[event.call] = _bar(event)
        elif isinstance(event, Embedded) and event.call in self._bars:
            with self._lock:
                self._move(event.call, event.texts + event.shared + event.adopted)
        elif isinstance(event, Failed) and event.call in self._bars:
            with self._lock:
                self._bars.pop(event.call).close()

    def _move(self, call: int, texts: int) -> None:
        bar = self._bars[call]
        bar.update(texts)
        if bar.n >= bar.total:
            self._bars.pop(call).close()

    def _show(self, series: Series, event: Event) -> None:
        if series not in self._bars:
            self._bars[series], self._found[series] = _bar_of(event.model, series.total), 0
            series.when_over.append(partial(self._end, series))
        bar = self._bars[series]
        if isinstance(event, Embedded):
            bar.update(event.texts + event.shared)
        elif isinstance(event, LookedUp):
            self._found[series] += event.hits
            bar.set_postfix_str(_from_the_cache(self._found[series]), refresh=False)
            bar.update(event.texts - event.missing)

    def _end(self, series: Series) -> None:
        with self._lock:
            self._bars.pop(series).close()
            del self._found[series]


def _bar(event: LookedUp) -> Any:  # noqa: ANN401 - of tqdm, which has no types
    bar = _bar_of(event.model, event.texts, found=event.texts - event.missing)
    bar.set_postfix_str(_from_the_cache(event.hits), refresh=False)
    return bar


def _bar_of(model: str, total: int | None, *, found: int = 0) -> Any:  # noqa: ANN401 - of tqdm, which has no types
    from tqdm.auto import tqdm  # noqa: PLC0415 - it asks what kind of terminal or notebook this is

    return tqdm(total=total, initial=found, desc=model, unit="text", delay=_AT_ONCE)


def _from_the_cache(texts: int) -> str:
    return f"{texts} from the cache"
