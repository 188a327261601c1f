"""Where a store meets the promise that storage trouble is never the caller's trouble."""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from kura_cache_adapters._observe.events import Failed, Stored
from kura_cache_adapters._observe.log import describe
from kura_cache_adapters._runtime.signals import let_through
from kura_cache_adapters.protocols import Hits, NotesAnswerer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kura_cache_adapters._observe.events import Observer
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore, Vectors, VectorSpace


class FailOpenSpace:
    """A space of any store that never raises: what fails is a miss, or is not stored."""

    def __init__(
        self,
        store: EmbeddingStore,
        identity: ModelIdentity,
        observe: Observer,
        *,
        durable: bool,
    ) -> None:
        """Name the space; it is opened by the first use."""
        self.generation = 0  # changes with every batch stored
        self._store = store
        self._identity = identity
        self._observe = observe
        self._durable = durable
        self._opened: VectorSpace | None = None
        self._answerer = ""

    def load(self, keys: Sequence[bytes]) -> Hits | None:
        """Look keys up; None where the store fails."""
        try:
            return self._space().get_many(keys).checked(len(keys))
        except Exception as error:  # noqa: BLE001 - any store's any trouble: the model answers instead
            let_through(error)
            self._report("read", error)
            return None

    def answerer(self) -> str:
        """Return the name under which a server has answered for these vectors before, if it is known."""
        if not self._answerer and isinstance(self._opened, NotesAnswerer):
            with suppress(OSError):
                self._answerer = self._opened.answerer()
        return self._answerer

    def save(self, keys: Sequence[bytes], vectors: Vectors, *, answerer: str = "") -> bool:
        """Store a batch, if the store can; tell whether it did. `answerer` is kept beside it."""
        begun = perf_counter()
        try:
            self._space().put_many(keys, vectors, durable=self._durable)
        except Exception as error:  # noqa: BLE001 - any store's any trouble: the caller has the vectors
            let_through(error)
            self._report("write", error)
            return False
        name = self._identity.model_name
        self._observe(Stored(name, len(keys), vectors.nbytes, perf_counter() - begun))
        self.generation += 1
        if answerer and answerer != self.answerer() and isinstance(self._opened, NotesAnswerer):
            with suppress(OSError):
                self._opened.note_answerer(answerer)
                self._answerer = answerer
        return True

    def __repr__(self) -> str:
        """Name the store."""
        return repr(self._store)

    def _space(self) -> VectorSpace:
        if self._opened is None:
            self._opened = self._store.space(self._identity)
        return self._opened

    def _report(self, action: Literal["read", "write"], error: Exception) -> None:
        name, reason = self._identity.model_name, describe(error)
        self._observe(Failed(action, name, repr(self), reason, error=error))
