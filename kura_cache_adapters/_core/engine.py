"""One identity of a model at work: what is found, what the model must embed, and the whole answer."""

from __future__ import annotations

from contextlib import suppress
from itertools import count, islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kura_cache_adapters._core.dimension import changed, embed_again, warn_of_several
from kura_cache_adapters._core.lookup import Lookup, merge
from kura_cache_adapters._core.vectors import as_matrix, finite_rows, matrix_or_list
from kura_cache_adapters._observe.events import Failed, LookedUp
from kura_cache_adapters._observe.log import describe
from kura_cache_adapters._runtime.loop import in_thread
from kura_cache_adapters.errors import DimensionMismatchError, RefusedTextsError
from kura_cache_adapters.protocols import Hits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.fail_open import FailOpenSpace
    from kura_cache_adapters._core.fill import Fill
    from kura_cache_adapters._core.keys import Keys
    from kura_cache_adapters._core.vectors import Kept, Part
    from kura_cache_adapters._observe.events import Observer
    from kura_cache_adapters.identity import Role

_T = TypeVar("_T")
_AT_ONCE = 4_096  # keys of a look-up whose vectors nobody wants
next_call = count(1).__next__


class Engine:
    """One identity of a model over its space."""

    def __init__(
        self,
        keys: Keys,
        source: Source,
        space: FailOpenSpace,
        fill: Fill,
        observe: Observer,
    ) -> None:
        """Take what computes keys, what embeds, where vectors are, how it is filled, and who observes."""
        self.keys = keys
        self._source = source
        self._space = space
        self._fill = fill
        self._observe = observe

    def found(self, texts: list[str], role: Role) -> Lookup:
        """Look texts up, in one batch."""
        begun = perf_counter()
        keys, generation = self.keys(texts, role), self._space.generation
        hits = self._space.load(keys) if keys else Hits.none()
        readable, hits = hits is not None, hits or Hits.none()
        seconds = perf_counter() - begun
        return Lookup(texts, role, keys, hits, generation, next_call(), readable, begun, seconds)

    def share(self, lookup: Lookup) -> Lookup:
        """Claim, here and now, what is to be embedded first; return the look-up, which then has it."""
        missing = dict.fromkeys(lookup.keys[at] for at in lookup.missing)
        lookup.share = self._fill.share(lookup, [*islice(missing, self._fill.window)])
        return lookup

    def glance(self, texts: list[str], role: Role) -> Lookup | None:
        """Look texts up without waiting; None unless all are found."""
        begun = perf_counter()
        keys = self.keys(texts, role)
        hits = self._space.glance(keys)
        if hits is None:
            return None
        generation = self._space.generation
        return Lookup(texts, role, keys, hits, generation, next_call(), True, begun, perf_counter() - begun)  # noqa: FBT003 - readable

    def whole(self, lookup: Lookup, convert: Callable[[Kept], _T]) -> _T:
        """Return what was found; it is all that was asked for."""
        self._tell(lookup, missing=0)
        return convert(lookup.hits.vectors)

    async def rest(self, lookup: Lookup, convert: Callable[[Kept], _T]) -> _T:
        """Embed what was not found, on the background loop; return all of it."""
        missing = {lookup.keys[at]: lookup.texts[at] for at in lookup.missing}
        self._tell(lookup, missing=len(missing))
        wholes: list[_T] = []

        def finish(parts: list[Part]) -> None:
            """Merge and convert in the thread that has stored the last batch: no way there and back."""
            if not changed(lookup, parts):
                with suppress(DimensionMismatchError):  # raised below, when what was stored is announced
                    wholes.append(convert(merge(lookup, lookup.hits.vectors, parts)))

        parts = await self._filled(lookup, missing, finish)
        warn_of_several(self._source.name, parts)
        if wholes:
            return wholes[0]
        found: Kept = lookup.hits.vectors
        if changed(lookup, parts):
            found = await embed_again(self._source, lookup, self._fill.chunk_size, self._space)
        return await in_thread("store", lambda: convert(merge(lookup, found, parts)))

    def missing(self, texts: list[str], role: Role) -> list[int]:
        """Return the positions of the texts that the model would be asked for, each text once."""
        keys = self.keys(texts, role)
        found = self._there(keys)
        return [at for at in first_positions(keys) if at not in found]

    def contains(self, texts: list[str], role: Role) -> list[bool]:
        """Tell of each text whether its vector is found."""
        keys = self.keys(texts, role)
        found = self._there(keys)
        return [at in found for at in range(len(keys))]

    def _there(self, keys: list[bytes]) -> set[int]:
        """Return the positions of the keys that are found; of their vectors a part at a time is held."""
        found: set[int] = set()
        for start in range(0, len(keys), _AT_ONCE):
            hits = self._space.load(keys[start : start + _AT_ONCE])
            found.update(() if hits is None else (hits.positions + start).tolist())
        return found

    def add(self, texts: list[str], answer: Sequence[Any], role: Role, *, replace: bool) -> int:
        """Store vectors from elsewhere; return how many were stored, raise ValueError for unfit ones."""
        keys = self.keys(texts, role)
        if not keys:
            return 0
        matrix = as_matrix(matrix_or_list(answer))
        if not (finite := finite_rows(matrix)).all():
            message = f"the vector of texts[{int(np.argmin(finite))}] has NaN or infinity in it"
            raise ValueError(message)
        if len(at := first_positions(keys)) < len(keys):
            keys, matrix = [keys[each] for each in at], matrix[at]
        return self._space.add(keys, matrix, replace=replace)

    async def _filled(
        self,
        lookup: Lookup,
        missing: dict[bytes, str],
        finish: Callable[[list[Part]], None],
    ) -> list[Part]:
        try:
            return await self._fill(missing, lookup, finish)
        except BaseException as error:  # a call that is cancelled has ended, too
            name = self._source.name
            self._observe(Failed("embed", name, repr(self._space), describe(error), lookup.call, error))
            if isinstance(error, RefusedTextsError):
                refused = [at for at, key in enumerate(lookup.keys) if key in error.keys]
                raise RefusedTextsError(error.model_name, refused, error.message) from error.__cause__
            raise

    def _tell(self, lookup: Lookup, missing: int) -> None:
        texts, hits = len(lookup.texts), lookup.hits
        found = len(hits.positions)
        self._observe(
            LookedUp(
                lookup.call,
                self._source.name,
                texts,
                found,
                missing,
                texts - found - missing,
                hits.invalid,
                hits.tiers,
                lookup.readable,
                lookup.seconds,
            )
        )


def first_positions(keys: Sequence[bytes]) -> list[int]:
    """Return where each distinct key stands first, rising."""
    return sorted({key: at for at, key in reversed([*enumerate(keys)])}.values())
