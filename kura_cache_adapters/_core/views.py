"""Views: what a model is now, with all that belongs to that: keys, space, and who fills it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._core.fail_open import FailOpenSpace
from kura_cache_adapters._core.fill import Filler
from kura_cache_adapters._identity.keys import TextKeys
from kura_cache_adapters.identity import DOCUMENT, known_role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.vectors import Part
    from kura_cache_adapters._observe.counters import Counters
    from kura_cache_adapters.identity import ModelIdentity, Role
    from kura_cache_adapters.options import CacheOptions
    from kura_cache_adapters.protocols import EmbeddingStore

_KEPT = 16  # identities of one model at hand


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One identity of a model; without a cache it has no space."""

    identity: ModelIdentity
    roles: tuple[Role, ...]
    keys: dict[Role, TextKeys]
    space: FailOpenSpace | None = None
    filler: Filler | None = None

    def keys_of(self, texts: list[str], role: Role) -> list[bytes]:
        """Compute the keys of texts in a role, see `known_role`."""
        return self.keys[known_role(role, self.roles, self.identity.model_name)](texts)

    async def fill(self, missing: dict[bytes, str], role: Role, generation: int) -> list[Part]:
        """Embed texts by key, see `Filler.fill`; there is nothing to fill without a space."""
        return [] if self.filler is None else await self.filler.fill(missing, role, generation)


class Views:
    """The views of one model, which may be another one at the next call: trained, exchanged, loaded."""

    def __init__(
        self,
        source: Source,
        store: EmbeddingStore | None,
        options: CacheOptions,
        counters: Counters,
        parameters: Mapping[str, Any],
    ) -> None:
        """Look at the model for the first time; raise what its identity raises."""
        self._source = source
        self._store = store
        self._options = options
        self._counters = counters
        self._parameters = parameters
        self._known: dict[ModelIdentity, View] = {}
        self._seen = self._look()

    def now(self) -> View:
        """Return what the model is now."""
        state, view = self._seen
        if self._source.state() != state:
            self._seen = _, view = self._look()
        return view

    def settled(self, view: View) -> bool:
        """Load what embeds; tell whether the model is still the one that was looked up."""
        self._source.prepare()
        return self.now() is view

    def _look(self) -> tuple[object, View]:
        state = self._source.state()
        identity = self._source.identity(self._parameters)
        view = self._known.get(identity)
        if view is None:
            if len(self._known) >= _KEPT:
                self._known = {}
            view = self._known.setdefault(identity, self._make(identity))  # one for all threads
        return state, view

    def _make(self, identity: ModelIdentity) -> View:
        roles = self._source.roles
        keys = self._keys_of(identity, roles)
        if self._store is None:
            return View(identity, roles, keys)
        options = self._options
        space = FailOpenSpace(self._store, identity.shared, self._counters, durable=options.durable)
        filler = Filler(
            self._source,
            space,
            self._counters,
            chunk_size=options.chunk_size,
            progress=options.progress,
            unchanged=lambda: self.now().identity == identity,
        )
        return View(identity, roles, keys, space, filler)

    def _keys_of(self, identity: ModelIdentity, roles: tuple[Role, ...]) -> dict[Role, TextKeys]:
        """Make what computes the keys of each role that the model tells apart."""
        remember: int = getattr(self._store, "remembered_characters", 0)

        def keys(role: Role) -> TextKeys:
            return TextKeys(identity.head(role), remember=remember, secret=self._options.secret_bytes)

        return {role: keys(role) for role in (DOCUMENT, *roles)}
