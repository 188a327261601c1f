"""TieredSpace: the vectors of one model in several stores, and what each of them is owed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._core.glance import glance_of
from kura_cache_adapters._core.modes import quiet
from kura_cache_adapters._observe.events import Watched
from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters._observe.uses import record_of
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters.errors import DimensionMismatchError
from kura_cache_adapters.protocols import (
    Hits,
    NotesAnswerer,
    OffersClaims,
    SpaceStats,
    TellsForgotten,
    TellsUnwritten,
    WritesBehind,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from kura_cache_adapters._observe.events import Observer
    from kura_cache_adapters._observe.uses import UseRecord
    from kura_cache_adapters.protocols import Claim, Vectors, VectorSpace

_logger = logger_of("store")

_MOST_OWED = 1_000_000  # keys remembered for a tier that refuses them
_AT_ONCE = 1024  # of them are written at a time


class TieredSpace:
    """The same model's spaces in several stores."""

    def __init__(self, tiers: list[VectorSpace], *, filled: bool = True) -> None:
        """Order spaces from fast to slow; without `filled`, look-ups fill those in memory alone."""
        self.tiers: Sequence[VectorSpace] = tuple(tiers)
        local = [at for at, tier in enumerate(tiers) if not getattr(tier, "remote", False)]
        self._slowest = max(local, default=len(tiers) - 1)  # it gets everything
        self._filled = [filled or getattr(tier, "volatile", False) for tier in tiers]
        self._owed: list[set[bytes]] = [set() for _ in tiers]
        self._forgetting = [(at, tier) for at, tier in enumerate(tiers) if isinstance(tier, TellsForgotten)]
        self._forgotten: dict[int, frozenset[bytes]] = {at: frozenset() for at, _ in self._forgetting}
        self._hidden: frozenset[bytes] = frozenset()  # of any tier: one behind it may not have heard of it
        self._claims = next((tier for tier in reversed(tiers) if isinstance(tier, OffersClaims)), None)
        self.volatile: bool = all(getattr(tier, "volatile", False) for tier in tiers)
        lasting = [at for at, tier in enumerate(tiers) if not getattr(tier, "volatile", False)]
        self._lasting = {*lasting}.intersection(local) or {*lasting} or {len(tiers) - 1}
        self._behind = {at: tier for at, tier in enumerate(tiers) if isinstance(tier, WritesBehind)}
        self._log = OnceLog(_logger)
        self.use_record: UseRecord | None = next(filter(None, map(record_of, reversed(tiers))), None)
        self._quiet: TieredSpace | None = None

    def quiet(self) -> TieredSpace:
        """Return a space whose look-ups fill the tiers in memory alone."""
        if self._quiet is None:
            self._quiet = TieredSpace([*map(quiet, self.tiers)], filled=False)
        return self._quiet

    def watch(self, observer: Observer) -> None:
        """Tell an observer, for as long as it lives, what happens to tiers on servers."""
        for tier in self.tiers:
            if isinstance(tier, Watched):
                tier.watch(observer)

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Look in each tier for what those before it did not have."""
        wanted = list(keys)
        self._heed()
        if self._hidden and not self._hidden.isdisjoint(wanted):
            return self._past_hidden(wanted)
        hits = self._ask(self.tiers[0], wanted)
        if len(hits.positions) == len(wanted):  # without dataclasses.replace: it takes as long as finding one
            return Hits(hits.positions, hits.vectors, hits.invalid, (len(wanted),))
        tiers = [len(hits.positions)]
        for index, tier in enumerate(self.tiers[1:], 1):
            if len(hits.positions) == len(wanted):
                break
            missing = np.setdiff1d(np.arange(len(wanted)), hits.positions, assume_unique=True)
            found = self._ask(tier, [wanted[at] for at in missing])
            filled = [wanted[missing[at]] for at in found.positions]
            if filled and not self._fill(index, filled, found.vectors):
                found = Hits.none(found.invalid + len(filled))
            hits = _joined(hits, Hits(missing[found.positions], found.vectors, found.invalid))
            tiers.append(len(hits.positions) - sum(tiers))
        return replace(hits, tiers=tuple(tiers))

    def glance(self, keys: list[bytes]) -> Hits | None:
        """Find all keys in the first tier, if that one answers at once; None otherwise."""
        for index, teller in self._forgetting:
            if not teller.fresh or teller.forgotten() is not self._forgotten[index]:
                return None
        if self._hidden and not self._hidden.isdisjoint(keys):
            return None
        glance = None if self._log.known else glance_of(self.tiers[0])
        hits = None if glance is None else glance(keys)
        return None if hits is None else Hits(hits.positions, hits.vectors, hits.invalid, (len(keys),))

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:
        """Write to every tier, slowest first and servers last; one that fails does not keep others from it.

        It is stored once it outlives this process: when a tier on this machine has it that is not volatile
        or, where there is none, the slowest. Raises what that one has raised; what another raises is a
        warning. What a tier has refused, and another one still has, is written with its next batch, or by
        `catch_up`: once a fast tier has it, nobody would bring it again.

        Raises DimensionMismatchError for another dimension than the slowest has, and no tier gets it.
        """
        wanted = list(keys)
        refused: dict[int, Exception] = {}
        backwards = reversed(range(len(self.tiers)))
        for index in sorted(backwards, key=lambda at: getattr(self.tiers[at], "remote", False)):
            if error := self._put(index, wanted, vectors, durable=durable):
                refused[index] = error
            if index == self._slowest and isinstance(error, DimensionMismatchError):
                raise error
        if refused.keys() >= self._lasting:
            raise refused[max(self._lasting)]
        for index, error in refused.items():
            self._report_write(index, error)

    def unwritten(self, keys: Collection[bytes], tell: Callable[[int, int], object]) -> set[bytes]:
        """Return those of the keys, just put, that do not outlive this process; see `TellsUnwritten`."""
        last = max(self._lasting)
        if not isinstance(tier := self.tiers[last], TellsUnwritten):
            return set()
        return tier.unwritten(keys, tell) | self._owed[last].intersection(keys)

    def answerer(self) -> str:
        """Return the name under which a server has answered, from the first tier that has noted one."""
        noted = (tier.answerer() for tier in self.tiers if isinstance(tier, NotesAnswerer))
        return next(filter(None, noted), "")

    def note_answerer(self, name: str) -> None:
        """Note under which name a server answers, in each tier that can."""
        for tier in self.tiers:
            if isinstance(tier, NotesAnswerer):
                tier.note_answerer(name)

    def claim(self, keys: Collection[bytes], *, durable: bool = True) -> Claim | None:
        """Claim keys in the slowest tier that has claims; None where none has."""
        return None if self._claims is None else self._claims.claim(keys, durable=durable)

    def catch_up(self) -> None:
        """Try again to write what tiers have refused."""
        for index in range(len(self.tiers)):
            self._catch_up(index, durable=True)

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Delete from every tier, slowest first; return how many the fullest had.

        One that fails does not keep the others from it. Raises what a tier has raised.
        """
        wanted, counts = list(keys), [0]
        for owed in self._owed:
            owed.difference_update(wanted)
        with ExitStack() as stack:
            for tier in self.tiers:
                stack.callback(_delete, tier, wanted, counts)
        return max(counts)

    def keys(self) -> Iterator[bytes]:
        """Iterate over the distinct keys of all tiers."""
        return iter(set().union(*(tier.keys() for tier in self.tiers)))

    def stats(self) -> SpaceStats:
        """Count what the slowest tier on this machine holds: it gets everything and evicts last."""
        return self.tiers[self._slowest].stats()

    def _put(self, index: int, keys: list[bytes], vectors: Vectors, *, durable: bool) -> Exception | None:
        """Write to a tier; return what it raised. Then it is owed, but for what it will never take."""
        owed = self._owed[index]
        try:
            self.tiers[index].put_many(keys, vectors, durable=durable)
        except DimensionMismatchError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a foreign store's any trouble: others may have it
            pass_on_signals(error)
            owed.update(keys[: max(0, _MOST_OWED - len(owed))])
            return error
        self._catch_up(index, durable=durable)
        return None

    def _catch_up(self, index: int, *, durable: bool) -> None:
        if not self._owes(index):
            return
        try:
            self._heed()
            owed = list(self._owed[index])
            for start in range(0, len(owed), _AT_ONCE):
                if self._owes(index):
                    self._pay(index, owed[start : start + _AT_ONCE], durable=durable)
        except Exception as error:  # noqa: BLE001 - a foreign store that fails again; the rest is still owed
            pass_on_signals(error)
            self._report_write(index, error)

    def _owes(self, index: int) -> bool:
        """Tell whether a tier is owed something that it takes now."""
        owed, behind = self._owed[index], self._behind.get(index)
        if behind is not None:
            owed.update(behind.dropped())
        return bool(owed) and (behind is None or behind.ready)

    def _report_write(self, index: int, error: Exception) -> None:
        tier = self.tiers[index]
        self._log.report(f"write {index}", "Could not write to %r: %s", tier, describe(error))

    def _pay(self, index: int, keys: list[bytes], *, durable: bool) -> None:
        """Write to a tier what the others have; what none has any more is forgotten."""
        for other in [*self.tiers[:index], *self.tiers[index + 1 :]]:
            hits = other.get_many(keys).checked(len(keys))
            if len(hits.positions):
                found = [keys[at] for at in hits.positions]
                self.tiers[index].put_many(found, hits.vectors, durable=durable)
        self._owed[index].difference_update(keys)

    def _heed(self) -> None:
        """Take in what any process has forgotten since."""
        for index, teller in self._forgetting:
            if (forgotten := teller.forgotten()) is not self._forgotten[index]:
                self._forget(index, forgotten)
                self._hidden = frozenset().union(*self._forgotten.values())

    def _past_hidden(self, wanted: list[bytes]) -> Hits:
        """Look up all but what is forgotten, which a tier that could not forget would bring back."""
        for _, teller in self._forgetting:  # who looks in vain sees what was stored anew
            self._ask(teller, [key for key in wanted if key in self._hidden])
        self._heed()
        at = [place for place, key in enumerate(wanted) if key not in self._hidden]
        hits = self.get_many([wanted[place] for place in at])
        return replace(hits, positions=np.array(at, np.intp)[hits.positions])

    def _forget(self, index: int, forgotten: frozenset[bytes]) -> None:
        """Let the tiers before one go of what that one has forgotten, whoever asked for it.

        A server is not waited for by a look-up: what it still has is hidden.
        """
        news = list(forgotten - self._forgotten[index])
        for owed in self._owed:
            owed.difference_update(news)
        for behind in self._behind.values():
            behind.withdraw(news)
        for tier in (each for each in self.tiers[:index] if not getattr(each, "remote", False)):
            try:
                tier.delete_many(news)
            except Exception as error:  # noqa: BLE001 - a foreign store that cannot forget; the next one may
                pass_on_signals(error)
                self._log.report(f"forget {tier!r}", "Could not delete from %r: %s", tier, describe(error))
        self._forgotten[index] = forgotten

    def _fill(self, found_in: int, keys: list[bytes], vectors: Vectors) -> bool:
        """Write to the tiers before one, slowest first; tell whether that one's dimension is theirs."""
        for index in compress(reversed(range(found_in)), self._filled[found_in - 1 :: -1]):
            tier = self.tiers[index]
            try:
                tier.put_many(keys, vectors, durable=False)
                for _, teller in self._forgetting:  # it may have forgotten them since they were found in it
                    if late := teller.forgotten().intersection(keys):
                        tier.delete_many(late)
            except Exception as error:  # noqa: BLE001 - a foreign store that cannot be filled is only slow
                pass_on_signals(error)
                self._log.report(f"fill {tier!r}", "Could not fill %r: %s", tier, describe(error))
                if index == self._slowest and isinstance(error, DimensionMismatchError):
                    return False
        return True

    def _ask(self, tier: VectorSpace, keys: list[bytes]) -> Hits:
        try:
            hits = tier.get_many(keys).checked(len(keys))
        except Exception as error:  # noqa: BLE001 - a foreign store that fails has nothing; the next may
            pass_on_signals(error)
            self._log.report(f"read {tier!r}", "Could not read from %r: %s", tier, describe(error))
            return Hits.none()
        if self._log.known:
            self._log.over(f"read {tier!r}")
        return hits


def _delete(tier: VectorSpace, keys: list[bytes], counts: list[int]) -> None:
    counts.append(tier.delete_many(keys))


def _joined(left: Hits, right: Hits) -> Hits:
    invalid = left.invalid + right.invalid
    if not len(left.positions):
        return replace(right, invalid=invalid)
    if not len(right.positions):
        return replace(left, invalid=invalid)
    if left.vectors.shape[1] != right.vectors.shape[1]:
        return left
    positions = np.concatenate([left.positions, right.positions])
    order = np.argsort(positions)
    vectors = np.concatenate([left.vectors, right.vectors])[order]
    return Hits(positions[order], vectors, invalid)
