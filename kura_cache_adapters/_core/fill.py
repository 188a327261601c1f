"""Embed what a look-up missed: each text once, stored as it arrives, shared with whoever waits."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters._core.ask import Unpaid
from kura_cache_adapters._core.flights import Flights
from kura_cache_adapters._core.floats import let_go
from kura_cache_adapters._core.room import Room
from kura_cache_adapters._core.sharing import Share, Sharing, Waiting
from kura_cache_adapters._core.vectors import exact_matrix, finite_rows, matrix_or_list
from kura_cache_adapters._observe.billing import bill
from kura_cache_adapters._observe.events import Embedded
from kura_cache_adapters._runtime.detached import detached
from kura_cache_adapters._runtime.home import inside, when_still
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.loop import in_thread
from kura_cache_adapters._runtime.series import stop_if_series_is_left
from kura_cache_adapters._runtime.threads import submit_to_store
from kura_cache_adapters.errors import RefusedTextsError
from kura_cache_adapters.protocols import StreamsBatches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.fail_open import FailOpenSpace
    from kura_cache_adapters._core.lookup import Lookup
    from kura_cache_adapters._core.sharing import Found
    from kura_cache_adapters._core.vectors import Kept, Part
    from kura_cache_adapters._observe.billing import Bill
    from kura_cache_adapters._observe.events import Observer
    from kura_cache_adapters.options import CacheOptions
    from kura_cache_adapters.protocols import Vectors

    Finish = Callable[[list[Part]], None]

logger = logger_of("cache")


@dataclass(slots=True)
class _Work:
    """What one call has taken upon itself: what it owes still, and what has come of it."""

    lookup: Lookup
    owed: dict[bytes, str]
    finish: Finish | None
    parts: list[Part] = field(default_factory=list)
    room: Room = field(init=False)

    def __post_init__(self) -> None:
        self.room = Room(len(self.owed))


class Fill:
    """Fills a space from a source, one flight per key: what a call does about what it missed."""

    def __init__(
        self,
        source: Source,
        space: FailOpenSpace,
        observe: Observer,
        *,
        options: CacheOptions,
        unchanged: Callable[[], bool],
    ) -> None:
        """Take where vectors come from and where they go; `unchanged` says that the two still fit."""
        self.chunk_size = options.chunk_size
        self.window = sys.maxsize if isinstance(source.model, StreamsBatches) else options.chunk_size
        self._unchanged = unchanged
        self._source = source
        self._space = space
        self._observe = observe
        self._flights = Flights()
        self._sharing = Sharing(space, patience=options.wait_for_others)

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

    def share(self, lookup: Lookup, keys: list[bytes]) -> Share:
        """Claim keys before they are paid for: some may be another process's to embed."""
        above = {key for flights, owed in inside.get() if flights is not self._flights for key in [*owed]}
        return self._sharing.take(keys, since=lookup.begun, above=above)

    async def _lead(self, lookup: Lookup, owed: dict[bytes, str], finish: Finish | None) -> list[Part]:
        """Embed claimed keys; each leaves `owed` as it lands, and what is left in the end is given up."""
        work = _Work(lookup, owed, finish)
        inside.set((*inside.get(), (self._flights, owed)))
        when_still(partial(self._give_up, owed))  # a waiter takes over
        try:
            if self._space.generation != lookup.generation:
                self._land_found(work, await in_thread("store", self._found_since, [*owed]))
            await self._embed(work)
            await self._wait_for_others(work)
        finally:
            self._give_up(owed)
            owed.clear()
        return work.parts

    def _give_up(self, owed: dict[bytes, str]) -> None:
        self._flights.release(owed)
        if owed:
            submit_to_store(partial(self._sharing.release, [*owed]))

    def _found_since(self, keys: list[bytes]) -> Found | None:
        """Look again for what another call may have stored between our look-up and our flight."""
        hits = self._space.load(keys)
        if hits is None or not len(hits.positions):
            return None
        found = [keys[at] for at in hits.positions]
        self._sharing.release(found)
        return found, hits.vectors

    def _land_found(self, work: _Work, found: Found | None) -> None:
        keys, vectors = found or ((), np.empty((0, 0), np.float32))
        here = [at for at, key in enumerate(keys) if key in work.owed]
        if here:
            self._tell(work.lookup, shared=len(here))
            work.parts.append(([keys[at] for at in here], vectors[here]))
            self._land(work, *work.parts[-1])

    def _land(self, work: _Work, keys: Sequence[bytes], vectors: Kept) -> None:
        self._flights.land(keys, vectors)
        for key in keys:
            del work.owed[key]

    async def _embed(self, work: _Work) -> None:
        """Embed window by window what no other process does: two that fill one cache divide it like this."""
        order, size = [*work.owed], self.window
        windows = [order[at : at + size] for at in range(0, len(order), size)]
        share = work.lookup.share
        for window, ahead in pairwise([*windows, []]):
            if share is None or not share.covers(window):
                share = await in_thread("store", self.share, work.lookup, window)
            share = await self._embed_ours(work, window, share, ahead)

    async def _wait_for_others(self, work: _Work) -> None:
        """Wait for what other processes embed; what they do not bring, or not in time, is embedded here."""
        waiting = Waiting(self._sharing.patience)
        while work.owed:
            stop_if_series_is_left(self._source.name)
            left = [*work.owed]
            if pause := waiting.pause(len(left)):
                await asyncio.sleep(pause)
                share = await in_thread("store", self.share, work.lookup, left)
            else:
                self._sharing.lose_patience()
                share = Share(left)
            await self._embed_ours(work, left, share, [])

    async def _embed_ours(
        self, work: _Work, keys: list[bytes], share: Share, ahead: list[bytes]
    ) -> Share | None:
        """Embed those of the keys that no other process does; return the share of those ahead, if taken."""
        self._land_found(work, share.found)
        ours = [key for key in keys if key in work.owed and key not in share.theirs]
        if not ours:
            return None
        with bill() as billed:
            try:
                return await self._stream(work, ours, ahead, billed)
            except RefusedTextsError as error:
                error.keys = [ours[at] for at in error.positions]
                raise
            finally:
                if tokens := billed.take():  # for an answer that was refused
                    self._tell(work.lookup, tokens=tokens)

    async def _stream(self, work: _Work, keys: list[bytes], ahead: list[bytes], billed: Bill) -> Share | None:
        share, left = None, len(keys)
        if hasattr(self._source.model, "answers_as"):
            self._source.expect(await in_thread("store", self._space.answerer))
        asked, texts = perf_counter(), [work.owed[key] for key in keys]
        async with aclosing(self._source.ask(texts, work.lookup.role, self.chunk_size)) as stream:
            async for positions, vectors in stream:
                adopted = len(positions) if isinstance(positions, Unpaid) else 0
                paid = len(positions) - adopted
                self._tell(work.lookup, texts=paid, adopted=adopted, since=asked, tokens=billed.take())
                here, left = [keys[at] for at in positions], left - len(positions)
                last = work.finish if len(here) == len(work.owed) and not self._flights.awaited else None
                then = [] if left else ahead
                kept, share = await in_thread("store", self._store, work, here, vectors, last, then)
                self._land(work, here, kept)
                asked = perf_counter()
        return share

    def _store(
        self,
        work: _Work,
        keys: list[bytes],
        vectors: Sequence[Any],
        finish: Finish | None,
        ahead: list[bytes],
    ) -> tuple[Kept, Share | None]:
        """Store a batch and add it to the parts; finish with these what can be; claim those ahead."""
        kept = self._kept(keys, vectors)
        self._sharing.release(keys)
        work.parts.append((keys, work.room.take(kept)))
        if finish is not None:
            finish(work.parts)
        return kept, self.share(work.lookup, ahead) if ahead else None

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

    def _tell(  # noqa: PLR0913 - what an event tells
        self,
        lookup: Lookup,
        *,
        texts: int = 0,
        shared: int = 0,
        adopted: int = 0,
        since: float | None = None,
        tokens: int | None = None,
    ) -> None:
        seconds = 0.0 if since is None else perf_counter() - since
        event = Embedded(lookup.call, self._source.name, texts, shared, seconds, tokens, adopted)
        self._observe(event)
