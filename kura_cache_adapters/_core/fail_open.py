"""Where a store meets the promise that storage trouble is never the caller's trouble."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters.protocols import Hits, NotesAnswerer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kura_cache_adapters._observe.counters import Counters
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore, Vectors, VectorSpace

logger = logging.getLogger("kura_cache_adapters.store")

_MESSAGE = "Could not %s the cache %r: %s; going on without"


class FailOpenSpace:
    """A space of any store that never raises: what fails is a miss, or is not stored.

    The first failure of a kind is a warning; its repetitions are not, until it has worked again.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        identity: ModelIdentity,
        counters: Counters,
        *,
        durable: bool,
    ) -> None:
        """Name the space; it is opened by the first use."""
        self.generation = 0  # changes with every batch stored
        self._store = store
        self._identity = identity
        self._counters = counters
        self._durable = durable
        self._opened: VectorSpace | None = None
        self._answerer = ""
        self._log = OnceLog(logger)

    def load(self, keys: Sequence[bytes], *, count: bool = True) -> Hits:
        """Look keys up; nothing is found where the store fails. OnceLog counts in the stats."""
        try:
            hits = self._space().get_many(keys).checked(len(keys))
        except Exception as error:  # any store's any trouble: the model answers instead
            self._counters.add(load_failures=int(count))
            self._log.report("read", _MESSAGE, "read", self._store, describe(error))
            logger.debug("It could not be read because of this", exc_info=error)
            return Hits.none()
        self._log.over("read")
        if hits.invalid and count:
            self._counters.add(invalid_entries=hits.invalid)
        return hits

    def answerer(self) -> str:
        """Return the name under which a server has answered for these vectors before, if it is known."""
        if not self._answerer and isinstance(self._opened, NotesAnswerer):
            with suppress(OSError):
                self._answerer = self._opened.answerer()
        return self._answerer

    def save(self, keys: Sequence[bytes], vectors: Vectors, *, answerer: str = "") -> bool:
        """Store a batch, if the store can; tell whether it did. `answerer` is kept beside it."""
        try:
            self._space().put_many(keys, vectors, durable=self._durable)
        except Exception as error:  # any store's any trouble: the caller has the vectors
            self._counters.add(save_failures=1)
            self._log.report("write", _MESSAGE, "write", self._store, describe(error))
            logger.debug("It could not be written because of this", exc_info=error)
            return False
        self._log.over("write")
        self._counters.add(stored=len(keys))
        self.generation += 1
        if answerer and answerer != self.answerer() and isinstance(self._opened, NotesAnswerer):
            with suppress(OSError):
                self._opened.note_answerer(answerer)
                self._answerer = answerer
        return True

    def _space(self) -> VectorSpace:
        if self._opened is None:
            self._opened = self._store.space(self._identity)
        return self._opened
