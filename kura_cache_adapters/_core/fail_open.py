"""Where a store meets the promise that storage trouble is never the caller's trouble."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np

from kura_cache_adapters._core.glance import glance_of
from kura_cache_adapters._observe.events import Failed, Stored, Watched
from kura_cache_adapters._observe.log import describe
from kura_cache_adapters._observe.uses import record_of
from kura_cache_adapters._runtime.signals import pass_on_signals, suppressed
from kura_cache_adapters.checks import check_dimension
from kura_cache_adapters.errors import DimensionMismatchError
from kura_cache_adapters.protocols import Hits, NotesAnswerer, OffersClaims, TellsUnwritten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kura_cache_adapters._observe.events import Event, Observer
    from kura_cache_adapters._observe.uses import UseRecord
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import Claim, EmbeddingStore, Vectors, VectorSpace


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
        self._record: UseRecord | None = None
        self._answerer = ""

    def tell(self, event: Event) -> None:
        """Tell the space's own record of an event, where it keeps one, and all who observe."""
        if self._record is not None:
            self._record(event)
        self._observe(event)

    def load(self, keys: Sequence[bytes]) -> Hits | None:
        """Look keys up; None where the store fails."""
        try:
            return self._space().get_many(keys).checked(len(keys))
        except Exception as error:  # noqa: BLE001 - any store's any trouble: the model answers instead
            pass_on_signals(error)
            self._report("read", error)
            return None

    def glance(self, keys: list[bytes]) -> Hits | None:
        """Find all keys without waiting; None where that cannot be, or fails: `load` will tell why."""
        try:
            glance = None if self._opened is None else glance_of(self._opened)
            hits = None if glance is None else glance(keys)
            return None if hits is None or len(hits.positions) < len(keys) else hits.checked(len(keys))
        except Exception as error:  # noqa: BLE001 - any store's any trouble: it is looked up, and told, in a thread
            pass_on_signals(error)
            return None

    def claim(self, keys: Sequence[bytes]) -> Claim | None:
        """Claim those of the keys that nobody else has; None where the store offers no claims, or fails."""
        try:
            space = self._space()
            return space.claim(keys, durable=self._durable) if isinstance(space, OffersClaims) else None
        except Exception as error:  # noqa: BLE001 - any store's any trouble, of which reading and writing tell
            pass_on_signals(error)
            return None

    def answerer(self) -> str:
        """Return the name under which a server has answered for these vectors before, if it is known."""
        if not self._answerer and isinstance(self._opened, NotesAnswerer):
            with suppressed(OSError):
                self._answerer = self._opened.answerer()
        return self._answerer

    def add(self, keys: Sequence[bytes], vectors: Vectors, *, replace: bool, answerer: str = "") -> int:
        """Store vectors of distinct keys, of known ones only to replace them; return how many.

        `answerer` is kept beside them.

        Raises DimensionMismatchError for another dimension than the stored vectors have.
        """
        hits = self.load(keys)
        if hits is None:
            return 0
        known = hits.positions
        if len(known):
            check_dimension(hits.vectors.shape[1], vectors, repr(self))
        if len(known) and replace and not self._forget([keys[at] for at in known]):
            return 0
        if len(known) and not replace:
            fresh = np.setdiff1d(np.arange(len(keys)), known, assume_unique=True)
            keys, vectors = [keys[at] for at in fresh], vectors[fresh]
        return self.save(keys, vectors, answerer=answerer, passing=DimensionMismatchError) if keys else 0

    def save(
        self,
        keys: Sequence[bytes],
        vectors: Vectors,
        *,
        answerer: str = "",
        passing: type[Exception] | tuple[()] = (),
    ) -> int:
        """Store a batch, if the store can; return how many it has now. `answerer` is kept beside them.

        An error of the type `passing` is raised.
        """
        begun = perf_counter()
        try:
            space = self._space()
            space.put_many(keys, vectors, durable=self._durable)
            waits = len(space.unwritten(keys, self._wrote)) if isinstance(space, TellsUnwritten) else 0
        except passing:
            raise
        except Exception as error:  # noqa: BLE001 - any store's any trouble: the caller has the vectors
            pass_on_signals(error)
            self._report("write", error)
            self.generation += 1  # a tier may have taken it
            return 0
        stored = len(keys) - waits
        self._wrote(stored, vectors[:stored].nbytes, perf_counter() - begun, waits)
        self.generation += 1
        if answerer and answerer != self.answerer() and isinstance(self._opened, NotesAnswerer):
            with suppressed(OSError):
                self._opened.note_answerer(answerer)
                self._answerer = answerer
        return stored

    def _wrote(self, entries: int, nbytes: int, seconds: float = 0.0, unwritten: int = 0) -> None:
        self.tell(Stored(self._identity.model_name, entries, nbytes, seconds, unwritten))

    def _forget(self, keys: list[bytes]) -> bool:
        try:
            self._space().delete_many(keys)
        except Exception as error:  # noqa: BLE001 - any store's any trouble: the old vectors stay
            pass_on_signals(error)
            self._report("write", error)
            return False
        return True

    def __repr__(self) -> str:
        """Name the store."""
        return repr(self._store)

    def _space(self) -> VectorSpace:
        if self._opened is None:
            self._opened = self._open()
            self._record = record_of(self._opened)
            if isinstance(self._opened, Watched):
                self._opened.watch(self._observe)
        return self._opened

    def _open(self) -> VectorSpace:
        return self._store.space(self._identity)

    def _report(self, action: Literal["read", "write"], error: Exception) -> None:
        name, reason = self._identity.model_name, describe(error)
        self.tell(Failed(action, name, repr(self), reason, error=error))
