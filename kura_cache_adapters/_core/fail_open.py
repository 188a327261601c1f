"""Where a store meets the promise that storage trouble is never the caller's trouble."""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np

from kura_cache_adapters._observe.events import Failed, Stored
from kura_cache_adapters._observe.log import describe
from kura_cache_adapters.checks import check_dimension
from kura_cache_adapters.errors import DimensionMismatchError
from kura_cache_adapters.protocols import Hits, NotesAnswerer, OffersClaims

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kura_cache_adapters._observe.events import Observer
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
        self.generation = 0  # changes with every batch that was given to the store
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
            self._report("read", error)
            return None

    def claim(self, keys: Sequence[bytes]) -> Claim | None:
        """Claim those of the keys that nobody else has; None where the store offers no claims, or fails."""
        try:
            space = self._space()
            return space.claim(keys, durable=self._durable) if isinstance(space, OffersClaims) else None
        except Exception:  # noqa: BLE001 - any store's any trouble, of which reading and writing tell
            return None

    def answerer(self) -> str:
        """Return the name under which a server has answered for these vectors before, if it is known."""
        if not self._answerer and isinstance(self._opened, NotesAnswerer):
            with suppress(OSError):
                self._answerer = self._opened.answerer()
        return self._answerer

    def save(
        self, keys: Sequence[bytes], vectors: Vectors, *, answerer: str = "", strict: bool = False
    ) -> bool:
        """Store a batch, if the store can; tell whether it did. `answerer` is kept beside it.

        With strict, raise DimensionMismatchError.
        """
        begun = perf_counter()
        try:
            self._space().put_many(keys, vectors, durable=self._durable)
        except Exception as error:  # any store's any trouble: the caller has the vectors
            self.generation += 1  # a tier may have it all the same
            if strict and isinstance(error, DimensionMismatchError):
                raise
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

    def add(self, keys: Sequence[bytes], vectors: Vectors, *, replace: bool) -> int:
        """Store what is not here yet, or all of it in place of what is; return how many were stored.

        Raises DimensionMismatchError: a cache that holds another dimension is not in trouble, its caller is.
        """
        known = self.load(keys) or Hits.none()
        if len(known.positions):
            check_dimension(known.vectors.shape[1], vectors, repr(self))
        if replace and len(known.positions) and not self._forget([keys[at] for at in known.positions]):
            return 0
        new = np.ones(len(keys), bool)
        new[known.positions] = replace
        fresh = [key for key, wanted in zip(keys, new, strict=True) if wanted]
        return len(fresh) if not fresh or self.save(fresh, vectors[new], strict=True) else 0

    def _forget(self, keys: Sequence[bytes]) -> bool:
        try:
            self._space().delete_many(keys)
        except Exception as error:  # noqa: BLE001 - any store's any trouble: the old vectors stay
            self._report("write", error)
            return False
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
