"""The engines of one model, which may be another one at the next call: trained, exchanged, loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters.identity import ModelIdentity

_E = TypeVar("_E")
_KEPT = 16  # identities of one model at hand


class Engines(Generic[_E]):
    """What works for each identity of a model: the one of now is made, or found again, at a glance."""

    def __init__(
        self,
        source: Source,
        parameters: Mapping[str, Any],
        make: Callable[[ModelIdentity], _E],
    ) -> None:
        """Look at the model for the first time; raise what its identity raises."""
        self._source = source
        self._parameters = parameters
        self._make = make
        self._known: dict[ModelIdentity, _E] = {}
        self._seen = self._look()

    def now(self) -> _E:
        """Return what works for the model as it is now."""
        state, engine = self._seen
        if self._source.state() != state:
            self._seen = _, engine = self._look()
        return engine

    def unchanged(self) -> _E | None:
        """Return what works for the model if it is the one that was seen last; it is not looked at anew."""
        state, engine = self._seen
        return engine if self._source.state() == state else None

    def settled(self, engine: _E) -> bool:
        """Load what embeds; tell whether the model is still the one that was looked up."""
        self._source.prepare()
        return self.now() is engine

    def _look(self) -> tuple[object, _E]:
        state = self._source.state()
        identity = self._source.identity(self._parameters)
        engine = self._known.get(identity)
        if engine is None:
            if len(self._known) >= _KEPT:
                self._known = {}
            engine = self._known.setdefault(identity, self._make(identity))  # one for all threads
        return state, engine
