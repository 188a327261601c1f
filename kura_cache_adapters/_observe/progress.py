"""A progress bar for each call that embeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kura_cache_adapters._observe.events import Embedded, Failed, LookedUp
from kura_cache_adapters._runtime.fork import ForkLock

if TYPE_CHECKING:
    from kura_cache_adapters._observe.events import Event

_AT_ONCE = 0.1  # seconds: what is done by then needs no bar (Nielsen, *Usability Engineering*, 1993)


class Progress:
    """An observer that shows a bar for each call: what was found in front, then what is embedded.

    It is a widget in a notebook. What is done at once shows nothing.
    """

    def __init__(self) -> None:
        """Start with no bar."""
        self._lock = ForkLock()  # around all that a bar does: tqdm's own lock could be left held by a fork
        self._bars: dict[int, Any] = {}

    def __call__(self, event: Event) -> None:
        """Open a call's bar, move it, or close it."""
        if isinstance(event, LookedUp) and event.missing:
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


def _bar(event: LookedUp) -> Any:  # noqa: ANN401 - of tqdm, which has no types
    from tqdm.auto import tqdm  # noqa: PLC0415 - it asks what kind of terminal or notebook this is

    found = event.texts - event.missing
    bar = tqdm(total=event.texts, initial=found, desc=event.model, unit="text", delay=_AT_ONCE)
    bar.set_postfix_str(f"{event.hits} from the cache", refresh=False)
    return bar
