"""Cleans one space under the lock that merges hold, so that none of them writes again what has gone."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import atomic, locks
from kura_cache_adapters._segments.parts import parts_in, remove_parts
from kura_cache_adapters._segments.tombstones import is_tombstone
from kura_cache_adapters.errors import SpaceBusyError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from kura_cache_adapters._segments.listing import Listing
    from kura_cache_adapters._segments.merge import Merger
    from kura_cache_adapters.spaces import Part

_PATIENCE = 5  # seconds for a merge, which is done by then, or whose process is stopped


def drop(space: Path, suffix: str, names: Collection[str]) -> list[Part]:
    """Remove parts, and return those that were there; raise SpaceBusyError where a merge goes on."""
    if not space.is_dir():
        return []
    with _alone_in(space):
        return remove_parts(space, [part for part in parts_in(space, suffix) if part.name in names])


def compact(listing: Listing, merger: Merger, suffix: str) -> tuple[list[Part], list[Part]]:
    """Merge all that fit together, and rewrite what holds forgotten rows.

    Return the parts that went, and those that were made of them. The lock is given up between merges.
    """
    if not listing.path.is_dir():
        return [], []
    listing.refresh()
    gone: list[Part] = []
    made: list[Part] = []
    for names in [*merger.groups(), None]:
        with _alone_in(listing.path):
            before = {part.name: part for part in parts_in(listing.path, suffix)}
            new = _rewritten(listing, merger) if names is None else merger.merge(names)
            after = {part.name: part for part in parts_in(listing.path, suffix)}
        gone += [part for name, part in before.items() if name not in after]
        made += [
            part for name, part in after.items() if name in new or (not part.entries and name not in before)
        ]
    listing.refresh()
    return gone, made


def remove(space: Path, suffix: str) -> list[Part]:
    """Remove a space, and return its parts.

    Its directory stays with its tombstones, which are to outlive copies, and with segments of another format.
    """
    if not space.is_dir():
        return []
    with _alone_in(space):
        gone = remove_parts(space, parts_in(space, suffix))
        if all(path.name.startswith(("_", ".")) and not is_tombstone(path.name) for path in space.iterdir()):
            atomic.remove(space)
    return gone


def _rewritten(listing: Listing, merger: Merger) -> list[str]:
    rewritten = merger.drop(listing.refresh(), listing.tombstones.keys)
    listing.tombstones.tidy()
    atomic.remove_stale_temporaries(listing.path)
    return [name for names in rewritten.values() for name in names]


@contextmanager
def _alone_in(space: Path) -> Iterator[None]:
    with locks.patient_lock(space, patience=_PATIENCE) as alone:
        if not alone:
            raise SpaceBusyError([space.name])
        yield
