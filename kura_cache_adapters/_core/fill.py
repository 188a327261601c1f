"""Embed what a look-up missed: each text once, stored as it arrives, shared with whoever waits."""

from __future__ import annotations

import logging
from contextlib import aclosing
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters._core.flights import Flights
from kura_cache_adapters._core.floats import let_go
from kura_cache_adapters._core.room import Room
from kura_cache_adapters._core.vectors import exact_matrix, finite_rows, matrix_or_list
from kura_cache_adapters._observe.events import Embedded
from kura_cache_adapters._runtime.detached import detached
from kura_cache_adapters._runtime.home import inside, when_still
from kura_cache_adapters._runtime.loop import in_thread
from kura_cache_adapters.errors import RefusedTextsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.fail_open import FailOpenSpace
    from kura_cache_adapters._core.lookup import Lookup
    from kura_cache_adapters._core.vectors import Kept, Part
    from kura_cache_adapters._observe.events import Observer
    from kura_cache_adapters.protocols import Vectors

    Finish = Callable[[list[Part]], None]

logger = logging.getLogger("kura_cache_adapters.cache")


class Fill:
    """Fills a space from a source, one flight per key: what a call does about what it missed."""

    def __init__(
        self,
        source: Source,
        space: FailOpenSpace,
        observe: Observer,
        *,
        chunk_size: int,
        unchanged: Callable[[], bool],
    ) -> None:
        """Take where vectors come from and where they go; `unchanged` says that the two still fit."""
        self.chunk_size = chunk_size
        self._unchanged = unchanged
        self._source = source
        self._space = space
        self._observe = observe
        self._flights = Flights()

    async def __call__(
        self,
        missing: dict[bytes, str],
        lookup: Lookup,
        finish: Finish,
    ) -> list[Part]:
        """Embed texts by key, on the background loop; return them in parts, in any order.

        `finish` is called with them where the last of them is stored, if that is in one go. Raises what
        the model raises; what it had returned by then is stored.
        """
        parts: list[Part] = []
        left = missing
        while left:
            self._refuse_to_wait_for_itself(left)
            mine = self._flights.claim(left)
            theirs = left.keys() - mine if len(mine) < len(left) else ()
            others = {key: self._flights.wait(key) for key in theirs}
            if mine:
                owed = {key: left[key] for key in mine} if others else dict(left)
                alone = finish if len(mine) == len(missing) else None
                parts += await detached(self._lead(lookup, owed, alone))
            vectors = {key: await future for key, future in others.items()}
            shared = {key: vector for key, vector in vectors.items() if vector is not None}
            if shared:
                self._tell(lookup, shared=len(shared))
                parts.append(([*shared], matrix_or_list([*shared.values()])))
            left = {key: left[key] for key, vector in vectors.items() if vector is None}
        return parts

    def _refuse_to_wait_for_itself(self, keys: Iterable[bytes]) -> None:
        for flights, owed in inside.get():
            if flights is self._flights and not owed.keys().isdisjoint(keys):
                message = (
                    f"{self._source.name} asked the cache around itself for a text that it is just "
                    "embedding for it; call the model, not its cache."
                )
                raise RuntimeError(message)

    async def _lead(self, lookup: Lookup, owed: dict[bytes, str], finish: Finish | None) -> list[Part]:
        """Embed claimed keys; each leaves `owed` as it lands, and what is left in the end is released."""
        parts: list[Part] = []
        inside.set((*inside.get(), (self._flights, owed)))
        when_still(partial(self._flights.release, owed))  # a waiter takes over
        try:
            if self._space.generation != lookup.generation:
                parts += await self._found_since(lookup, owed)
            if owed:
                parts += await self._embed(lookup, owed, None if parts else finish)
        finally:
            self._flights.release(owed)
            owed.clear()
        return parts

    async def _found_since(self, lookup: Lookup, owed: dict[bytes, str]) -> list[Part]:
        """Look again for what another call may have stored between our look-up and our claim."""
        keys = [*owed]
        hits = await in_thread("store", self._space.load, keys)
        if hits is None or not len(hits.positions):
            return []
        found = [keys[at] for at in hits.positions]
        self._tell(lookup, shared=len(found))
        for key in found:
            del owed[key]
        self._flights.land(found, hits.vectors)
        return [(found, hits.vectors)]

    async def _embed(self, lookup: Lookup, owed: dict[bytes, str], finish: Finish | None) -> list[Part]:
        keys = [*owed]
        try:
            return await self._stream(lookup, keys, owed, finish)
        except RefusedTextsError as error:
            error.keys = [keys[at] for at in error.positions]
            raise

    async def _stream(
        self,
        lookup: Lookup,
        keys: list[bytes],
        owed: dict[bytes, str],
        finish: Finish | None,
    ) -> list[Part]:
        parts: list[Part] = []
        room = Room(len(keys))
        if hasattr(self._source.model, "answers_as"):
            self._source.expect(await in_thread("store", self._space.answerer))
        asked = perf_counter()
        async with aclosing(self._source.ask([*owed.values()], lookup.role, self.chunk_size)) as stream:
            async for positions, vectors in stream:
                self._tell(lookup, texts=len(positions), since=asked)
                here = [keys[at] for at in positions]
                last = finish if len(here) == len(owed) and not self._flights.awaited else None
                kept = await in_thread("store", self._store, here, vectors, parts, last, room)
                self._flights.land(here, kept)
                for key in here:
                    del owed[key]
                asked = perf_counter()
        return parts

    def _store(
        self, keys: list[bytes], vectors: Sequence[Any], parts: list[Part], finish: Finish | None, room: Room
    ) -> Kept:
        """Store a batch, add it to the parts, and finish with them what can be finished here."""
        kept = self._kept(keys, vectors)
        parts.append((keys, room.take(kept)))
        if finish is not None:
            finish(parts)
        return kept

    def _kept(self, keys: list[bytes], vectors: Sequence[Any]) -> Kept:
        """Store what is fit to be stored; return a matrix, or the answer itself if it makes none."""
        matrix = matrix_or_list(vectors)
        if isinstance(matrix, np.ndarray):
            let_go(vectors)
        if not self._unchanged():
            message = "%s was changed while it embedded %d texts; they are not stored"
            logger.warning(message, self._source.name, len(keys))
            return matrix
        if isinstance(matrix, list):
            self._store_fit(keys, matrix)
            return matrix
        finite = finite_rows(matrix)
        if finite.all():
            self._save(keys, matrix)
            return matrix
        self._warn("NaN or infinity", int((~finite).sum()))
        if finite.any():
            self._save([k for k, fit in zip(keys, finite, strict=True) if fit], matrix[finite])
        return matrix

    def _store_fit(self, keys: list[bytes], vectors: Sequence[Any]) -> None:
        """Store those of a batch with holes that are vectors; none if they differ in dimension."""
        rows = [(at, exact_matrix([vector])) for at, vector in enumerate(vectors)]
        fit = [at for at, row in rows if row is not None and finite_rows(row).all()]
        matrix = exact_matrix([vectors[at] for at in fit])
        self._warn(
            "what is no vector, or vectors of several dimensions,",
            len(keys) - len(fit) * (matrix is not None),
        )
        if matrix is not None:
            self._save([keys[at] for at in fit], matrix)

    def _save(self, keys: list[bytes], vectors: Vectors) -> None:
        self._space.save(keys, vectors, answerer=self._source.answers_as)

    def _warn(self, what: str, count: int) -> None:
        logger.warning("%s returned %s for %d texts; not stored", self._source.name, what, count)

    def _tell(self, lookup: Lookup, *, texts: int = 0, shared: int = 0, since: float | None = None) -> None:
        seconds = 0.0 if since is None else perf_counter() - since
        self._observe(Embedded(lookup.call, self._source.name, texts, shared, seconds))
