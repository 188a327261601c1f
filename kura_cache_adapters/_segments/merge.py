"""Merges segments: which are due, the rows that a merge keeps, and what becomes of the old files."""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections import defaultdict
from concurrent.futures import wait
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import atomic, locks
from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters._runtime.threads import submit_merge
from kura_cache_adapters._segments import lineage, marks
from kura_cache_adapters._segments.ages import age_of, apart, youngest
from kura_cache_adapters._segments.format import new_name, row_count
from kura_cache_adapters._segments.gathering import intact_rows
from kura_cache_adapters._segments.search import Search
from kura_cache_adapters.checks import key_matrix

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from concurrent.futures import Future

    from kura_cache_adapters._segments.bounds import Bounds
    from kura_cache_adapters._segments.format import Segment
    from kura_cache_adapters._segments.listing import Listing
    from kura_cache_adapters._segments.writer import Writer

logger = logger_of("store")

MERGE_FACTOR = 8
"""Segments are merged where each of them becomes part of one that is so many times larger."""

MAX_MERGED_ROWS = 20 * 1024
"""The largest segment that a merge writes, in rows, if that is no less than `LEAST_FULL_BYTES`."""

LEAST_FULL_BYTES = 30 << 20
"""Of vectors: 20,480 rows of 384 float32. Of shorter vectors it has more rows."""

MAX_MERGED_BYTES = 240 << 20
"""The largest in bytes of vectors, which a merge holds in memory: 20,480 rows of 1,536 float64."""

_ENOUGH = 12 * MAX_MERGED_ROWS
"""So many rows bound the cube of the number of segments times the smallest.

With rows of segments of 1 row, 62 of them may lie about; of 32, 21; of 256 and more, 10 to 16. Then each
row is rewritten three times, whatever the size of what is put: n segments and three rewritings hold n cubed
over 6 (Bentley and Saxe, *Decomposable searching problems I*, 1980).
"""


_PAUSE = 60.0  # seconds without merges after a failed one: a full disk stays full a while

_KEY_AND_CHECKSUM = 40  # bytes of a row beside its vector
_AT_ONCE = 4 << 20  # bytes of rows: what is more is merged by another thread while the writer goes on
_BEHIND = 128  # segments: then writers wait for that thread
_WAIT = 0.005  # seconds, and no longer: one that writes as fast as the disk stays behind itself


class Merger:
    """Merges the segments of a listing through a writer, as they come together."""

    def __init__(self, listing: Listing, writer: Writer, bounds: Bounds) -> None:
        """Take what is known of a directory, what writes there, and within which bounds it is kept."""
        self._listing = listing
        self._writer = writer
        self._ttl, self._room = bounds.older_than, bounds.max_bytes
        self._volatile: set[str] = set()  # changed in place only: other threads add to it
        self._merged: set[str] = set()  # but not removed: merging them again would only fill the disk
        self._after = 0.0
        self._beside: tuple[int, Future[None] | None] = (0, None)  # in which process, and its merges
        self._log = OnceLog(logger)

    def written(self, name: str, *, durable: bool) -> None:
        """Take a segment that was just written, and merge what has come together; a failure postpones it.

        A large merge is done by another thread: a write waits for little more than itself.
        """
        if not durable:
            self._volatile.add(name)
        due = self._due(self._listing.names, durable=durable)
        if not due or time.monotonic() < self._after:
            return
        running = self._running()
        if running is None and self._nbytes(due) <= _AT_ONCE:
            self._merge_due(durable=durable)
            return
        if running is None:
            running = submit_merge(partial(self._merge_all, durable=durable))
            self._beside = os.getpid(), running
        if len(self._listing.names) > _BEHIND:
            wait([running], timeout=_WAIT)

    def settle(self) -> None:
        """Wait for the merges that another thread does."""
        if running := self._running():
            wait([running])

    def _running(self) -> Future[None] | None:
        process, running = self._beside  # a fork leaves its parent's threads behind
        return None if running is None or running.done() or process != os.getpid() else running

    def _nbytes(self, names: Iterable[str]) -> int:
        row = _KEY_AND_CHECKSUM + (self._listing.dimension or 1) * self._listing.itemsize
        return sum(map(row_count, names)) * row

    def _merge_all(self, *, durable: bool) -> None:
        try:
            while self._due(self._listing.names, durable=durable) and self._merge_due(durable=durable):
                pass
        except Exception as error:  # noqa: BLE001 - nobody waits for it: it is heard of here
            self._postpone(error)

    def _merge_due(self, *, durable: bool) -> bool:
        """Merge what is due, unless another does; tell whether it was done."""
        try:
            with locks.try_lock(self._listing.path) as alone:
                if not alone:
                    return False
                opened = self._listing.refresh()
                names = self._listing.names & opened.keys()  # one written meanwhile is for the next merge
                due = self._due(names, durable=durable)
                self._merge({name: opened[name] for name in due}, durable=durable)
        except FileNotFoundError as error:  # the whole space was removed
            pass_on_signals(error)
            return False
        except OSError as error:
            pass_on_signals(error)
            self._postpone(error)
            return False
        return True

    def _postpone(self, error: Exception) -> None:
        self._after = time.monotonic() + _PAUSE
        logger.warning("Could not merge segments in %s: %s", self._listing.path, describe(error))

    def groups(self) -> list[list[str]]:
        """Return the listed segments that can become one, as few as the limits allow; nothing is due there.

        Neither ages nor types are mixed. No two groups fit together: merging them all is merging once.
        """
        opened, kinds = self._listing.open, defaultdict[object, list[str]](list)
        for age, names in enumerate(self._tiers({*opened} - self._merged)):
            for name in sorted(names, key=row_count, reverse=True):
                if opened[name].intact():
                    kinds[age, opened[name].dimension, opened[name].dtype].append(name)
        fitting = (
            packed(names, self._full(opened[names[0]].dimension, opened[names[0]].dtype.itemsize))
            for names in kinds.values()
        )
        return [group for groups in fitting for group in groups if len(group) > 1]

    def merge(self, names: Collection[str]) -> list[str]:
        """Merge segments if all are there still, and return what they became; the caller holds the lock."""
        opened = self._listing.refresh()
        if not opened.keys() >= set(names):
            return []
        return self._merge({name: opened[name] for name in names}, durable=True)

    def catch_up(self, among: Collection[str]) -> bool:
        """Merge what has come together of some segments, unless others merge here; tell whether any has."""
        done = False
        with locks.try_lock(self._listing.path) as alone:
            names = self._listing.names.intersection
            while alone and (due := self._due(names(among), durable=True)) and self.merge(due):
                done, names = True, self._listing.names.intersection
        return done

    @staticmethod
    def keys_among(keys: Collection[bytes], opened: Mapping[str, Segment]) -> set[bytes]:
        """Return those of some keys that lie in a segment, forgotten or not."""
        segments = [segment for segment in opened.values() if segment.intact()]
        sought = Search(key_matrix(keys))
        rows = [(segment, sought.rows_in(segment)) for segment in segments]
        return {key for segment, at in rows for key in map(bytes, segment.keys_at(at))}

    def drop(self, opened: Mapping[str, Segment], forgotten: frozenset[bytes]) -> dict[str, list[str]]:
        """Rewrite the segments that hold forgotten keys; return what became of each, by its name.

        One that cannot be rewritten is left, and said so: the tombstones hide what is in it.
        """
        sought, rewritten = Search(key_matrix(forgotten)), dict[str, list[str]]()
        for name, segment in opened.items():
            try:
                if segment.intact() and len(sought.rows_in(segment)):
                    rewritten[name] = self.rewrite(name, segment, forgotten)
            except OSError as error:
                pass_on_signals(error)
                logger.warning("Could not rewrite %s: %s", self._listing.path / name, error)
        return rewritten

    def rewrite(self, name: str, segment: Segment, forgotten: frozenset[bytes]) -> list[str]:
        """Write a segment's intact rows anew, but for forgotten ones; the caller holds the lock."""
        rows, (broken,) = intact_rows([segment], forgotten)
        age = age_of(self._listing.path / name)
        rewritten = [self._writer.write(rows, durable=True, age=age)] if len(rows) else []
        lineage.note(self._listing.path, rewritten, [] if broken else [name])
        self._retire(name, broken=broken)
        return rewritten

    def _due(self, names: frozenset[str], *, durable: bool) -> list[str]:
        names = names if durable else names & self._volatile
        full = self._full(self._listing.dimension, self._listing.itemsize)
        tiers = self._tiers(names - self._merged)
        return next(filter(None, (segments_due(tier, full) for tier in tiers)), [])

    def _tiers(self, names: Collection[str]) -> list[set[str]]:
        return apart(names, self._listing.written, ttl=self._ttl)

    def _full(self, dimension: int | None, itemsize: int) -> int:
        """Return the rows of the largest segment to write: an eighth of the room that there is, at most."""
        return full_rows(dimension, itemsize, None if self._room is None else self._room // MERGE_FACTOR)

    def _merge(self, parts: dict[str, Segment], *, durable: bool) -> list[str]:
        if not parts:
            return []
        rows, damaged = intact_rows(list(parts.values()), self._listing.tombstones.keys)
        age = youngest(age_of(self._listing.path / name) for name in parts)
        merged = [self._writer.write(rows, durable=durable, age=age)] if len(rows) else []
        held = [name for name, broken in zip(parts, damaged, strict=True) if not broken]
        if len(held) < len(parts):  # and what was intact of others, which no file's name stands for
            held.append(new_name(0, self._listing.format.suffix))
        lineage.note(self._listing.path, merged, held)
        if not durable:
            self._volatile.update(merged)
        for name, broken in zip(parts, damaged, strict=True):
            self._try_to_retire(name, broken=broken)
        atomic.remove_stale_temporaries(self._listing.path)
        self._listing.exchange(parts, merged)
        # First what is known, then what is listed: a new name is listed before it is known.
        self._volatile.difference_update(self._volatile.copy() - self._listing.names)
        return merged

    def _try_to_retire(self, name: str, *, broken: bool) -> None:
        try:
            self._retire(name, broken=broken)
        except OSError as error:
            pass_on_signals(error)
            self._merged.add(name)
            self._log.report("retire", "Could not remove %s: %s", self._listing.path / name, error)

    def _retire(self, name: str, *, broken: bool) -> None:
        """Remove a merged segment; one with damaged rows is kept under another name."""
        path = self._listing.path / name
        if broken:
            marks.set_aside(path)
        else:
            atomic.remove(path)


def full_rows(dimension: int | None, itemsize: int = 8, most: int | None = None) -> int:
    """Return the rows of the largest segment that a merge writes, within so many bytes."""
    room = MAX_MERGED_BYTES if most is None else min(MAX_MERGED_BYTES, most)
    row = (dimension or 1) * itemsize
    return min(max(MAX_MERGED_ROWS, LEAST_FULL_BYTES // row), room // row)


def packed(names: Iterable[str], full: int) -> list[list[str]]:
    """Put segments, largest first, each into the first group where it fits."""
    groups: list[list[str]] = []
    totals: list[int] = []
    for name in names:
        rows = row_count(name)
        first = next((at for at, total in enumerate(totals) if total + rows <= full), len(groups))
        if first == len(groups):
            groups.append([])
            totals.append(0)
        groups[first].append(name)
        totals[first] += rows
    return groups


def segments_due(names: Iterable[str], full: int) -> list[str]:
    """Return the segments to merge into one of `full` rows at most, smallest first; none while they are few.

    They fit together. Either they make a full segment, of which no row is written again, or each of
    them becomes part of one that is at least eight times larger: so a row is rewritten at most once per
    factor of eight, and once more.
    """
    small = sorted((rows, name) for name in names if 2 * (rows := row_count(name)) <= full)
    sums = [*accumulate(rows for rows, _ in small)]
    if len(small) > 1 and sums[-1] + small[0][0] > full:
        return [name for _, name in small[: bisect_right(sums, full)]]
    if len(small) < MERGE_FACTOR or len(small) ** 3 * small[0][0] < min(40 * sums[-1], _ENOUGH):
        return []
    halves = bisect_right(sums, full // 2)  # what is larger than half waits until it can be full
    growths = [together / rows for together, (rows, _) in zip(sums[:halves], small[:halves], strict=True)]
    best = max(growths)
    last = halves - growths[::-1].index(best)
    return [name for _, name in small[:last]] if best >= MERGE_FACTOR else []
