"""Forgets keys to the last byte: in segments, in what was set aside, and behind those who are writing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import atomic, locks
from kura_cache_adapters._observe.log import describe
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters._segments.format import is_leftover
from kura_cache_adapters._segments.marks import set_aside_in
from kura_cache_adapters.receipts import Forgotten, Trouble

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from kura_cache_adapters._segments.listing import Listing
    from kura_cache_adapters._segments.merge import Merger

_PATIENCE = 30  # seconds for the lock, which a merge on a slow disk may hold
_WRITING = 5.0  # seconds for those who were writing: what they leave by then is removed

_UNREAD = "it could not be read ({}): cache.verify(repair=True) sets it aside, then forget again"
_BUSY = "another process has held its lock all the time: forget again"
_STILL = "the rows of {} keys could not be removed, and are hidden: let it be written to, then forget again"


def forget(listing: Listing, merger: Merger, keys: Collection[bytes], *, days: float) -> Forgotten:
    """Forget keys in one space; raise OSError where that cannot even be written down."""
    path = listing.path
    there = merger.keys_among(keys, listing.refresh()) - listing.tombstones.keys
    listing.tombstones.add(keys, days)
    writing = leftovers_in(path)
    dropped, alone = _drop(listing, merger)
    left = _outlasted(path, writing)
    if writing:  # what was being written is there by now
        late, alone = _drop(listing, merger)
        dropped += late
    gone, kept = _removed([*left, *set_aside_in(path)])
    still = merger.keys_among(listing.tombstones.keys.intersection(keys), listing.refresh())
    return Forgotten(
        store="",
        space=path.name,
        keys=tuple(sorted(key.hex() for key in there)),
        removed=(*dropped, *gone),
        unreachable=(*kept, *_unreachable(listing, busy=not alone, still=len(still))),
    )


def _unreachable(listing: Listing, *, busy: bool, still: int) -> Iterator[Trouble]:
    if busy:
        yield Trouble(str(listing.path), _BUSY)
    if still:
        yield Trouble(str(listing.path), _STILL.format(still))
    for name, error in listing.unreadable():
        yield Trouble(str(listing.path / name), _UNREAD.format(describe(error)))


def leftovers_in(space: Path) -> list[Path]:
    """List the segments that are being written, or were by who is dead."""
    return [path for path in space.iterdir() if is_leftover(path.name)]


def _drop(listing: Listing, merger: Merger) -> tuple[list[str], bool]:
    """Rewrite segments; return their names, and whether the lock was to be had."""
    with locks.patient_lock(listing.path, patience=_PATIENCE) as alone:
        dropped = [*merger.drop(listing.refresh(), listing.tombstones.keys)]
        listing.tombstones.tidy()
    listing.refresh()
    return dropped, alone


def _outlasted(space: Path, writing: list[Path]) -> list[Path]:
    """Wait for writers to finish; return what is still there. One that is at work writes it once more."""
    end = time.monotonic() + _WRITING
    while (left := [*set(writing).intersection(leftovers_in(space))]) and time.monotonic() < end:
        time.sleep(0.01)
    return left


def _removed(paths: Iterable[Path]) -> tuple[list[str], list[Trouble]]:
    gone, kept = [], []
    for path in paths:
        try:
            atomic.remove(path)
            gone.append(path.name)
        except OSError as error:
            pass_on_signals(error)
            kept.append(Trouble(str(path), f"it could not be removed: {describe(error)}"))
    return gone, kept
