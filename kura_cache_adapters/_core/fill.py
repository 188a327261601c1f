"""Embed what a look-up missed: each text once, stored as it arrives, shared with whoever waits."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import aclosing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from kura_cache_adapters._core.flights import Flights
from kura_cache_adapters._core.vectors import exact_matrix, finite_rows, matrix_or_list
from kura_cache_adapters._runtime.detached import detached
from kura_cache_adapters._runtime.home import inside, when_still
from kura_cache_adapters._runtime.loop import in_thread
from kura_cache_adapters.errors import RefusedTextsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.fail_open import FailOpenSpace
    from kura_cache_adapters._core.vectors import Kept, Part
    from kura_cache_adapters._observe.counters import Counters
    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.protocols import Vectors

logger = logging.getLogger("kura_cache_adapters.cache")


class _Bar(tqdm):  # type: ignore[misc]
    """A progress bar with a lock of its own: the one that all bars share could be held in a fork."""

    monitor_interval = 0  # no thread that watches the bar


def _renew_bar_lock() -> None:
    _Bar.set_lock(threading.RLock())


_renew_bar_lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_bar_lock)


class Filler:
    """Fills a space from a source, one flight per key."""

    def __init__(  # noqa: PLR0913 - each is a room of its own
        self,
        source: Source,
        space: FailOpenSpace,
        counters: Counters,
        *,
        chunk_size: int,
        progress: bool,
        unchanged: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take where vectors come from and where they go; `unchanged` says that the two still fit."""
        self._unchanged = unchanged
        self._source = source
        self._space = space
        self._counters = counters
        self._chunk_size = chunk_size
        self._progress = progress
        self._flights = Flights()

    async def fill(self, missing: dict[bytes, str], role: Role, generation: int) -> list[Part]:
        """Embed texts by key, on the background loop; return them in parts, in any order.

        `generation` is the space's from before the look-up that missed them. Raises what the model
        raises; what it had returned by then is stored.
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
                parts += await detached(self._lead(owed, role, generation))
            vectors = {key: await future for key, future in others.items()}
            shared = {key: vector for key, vector in vectors.items() if vector is not None}
            if shared:
                self._counters.add(duplicates=len(shared))
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

    async def _lead(self, owed: dict[bytes, str], role: Role, generation: int) -> list[Part]:
        """Embed claimed keys; each leaves `owed` as it lands, and what is left in the end is released."""
        parts: list[Part] = []
        inside.set((*inside.get(), (self._flights, owed)))
        when_still(partial(self._flights.release, owed))  # a waiter takes over
        try:
            if self._space.generation != generation:
                parts += await self._found_since(owed)
            if owed:
                parts += await self._embed(owed, role)
        finally:
            self._flights.release(owed)
            owed.clear()
        return parts

    async def _found_since(self, owed: dict[bytes, str]) -> list[Part]:
        """Look again for what another call may have stored between our look-up and our claim."""
        keys = [*owed]
        hits = await in_thread("store", self._space.load, keys)
        found = [keys[at] for at in hits.positions]
        self._counters.add(duplicates=len(found))
        for key in found:
            del owed[key]
        self._flights.land(found, hits.vectors)
        return [(found, hits.vectors)] if found else []

    async def _embed(self, owed: dict[bytes, str], role: Role) -> list[Part]:
        keys = [*owed]
        try:
            return await self._stream(keys, owed, role)
        except RefusedTextsError as error:
            error.keys = [keys[at] for at in error.positions]
            raise

    async def _stream(self, keys: list[bytes], owed: dict[bytes, str], role: Role) -> list[Part]:
        parts: list[Part] = []
        if hasattr(self._source.model, "answers_as"):
            self._source.expect(await in_thread("store", self._space.answerer))
        answers = self._source.ask([*owed.values()], role, self._chunk_size)
        with self._bar(len(keys)) as bar:
            async with aclosing(answers) as stream:
                async for positions, vectors in stream:
                    here = [keys[at] for at in positions]
                    kept = await in_thread("store", self._store, here, vectors)
                    self._flights.land(here, kept)
                    for key in here:
                        del owed[key]
                    parts.append((here, kept))
                    if bar is not None:
                        bar.update(len(here))
        return parts

    def _store(self, keys: list[bytes], vectors: Sequence[Any]) -> Kept:
        """Store what is fit to be stored; return a matrix, or the answer itself if it makes none."""
        self._counters.add(misses=len(keys))
        matrix = matrix_or_list(vectors)
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

    def _bar(self, total: int) -> _Bar | nullcontext[None]:
        return _Bar(total=total, desc=self._source.name, unit="text") if self._progress else nullcontext()
