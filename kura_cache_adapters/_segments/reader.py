"""Looks keys up in the segments of one space, and in those that have appeared since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters._segments.search import Search, find_one
from kura_cache_adapters.checks import key_matrix
from kura_cache_adapters.protocols import Hits

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters._segments.format import Segment
    from kura_cache_adapters._segments.listing import Listing

_logger = logger_of("store")


class Reader:
    """The look-ups of one space."""

    def __init__(self, path: Path, listing: Listing) -> None:
        """Name the directory, and what is known of it."""
        self._path = path
        self._listing = listing
        self._log = OnceLog(_logger)

    def get_many(self, wanted: list[bytes]) -> Hits:
        """Look keys up: first in the open segments, then in those that have appeared since."""
        return self._found(wanted, once_more=True)

    def glance(self, keys: list[bytes]) -> Hits | None:
        """Find all keys in the open segments, if these are at hand; None otherwise."""
        listing = self._listing
        known, forgotten = listing.open, listing.tombstones.keys
        if not listing.fresh or not all(segment.at_hand for segment in known.values()):
            return None
        if forgotten and not forgotten.isdisjoint(keys):
            return None
        if len(keys) == 1:
            return self._one(keys[0], known)
        search = Search(key_matrix(keys))
        search.visit(known.values())
        return None if search.invalid or search.failed or not search.finished else self._hits(search)

    def recheck(self) -> bool:
        """Heed what has come and gone since a second ago; tell whether the directory was listed."""
        try:
            return self._listing.recheck()
        except OSError as error:  # what is open still answers; a miss tries again, and raises
            pass_on_signals(error)
            self._log.report("list", "Could not list %s: %s", self._path, error)
            return False

    def _found(self, wanted: list[bytes], *, once_more: bool) -> Hits:
        listed = self.recheck()
        listing = self._listing
        known, forgotten = listing.open, listing.tombstones.keys  # once: another thread may replace them
        if len(wanted) == 1 and wanted[0] not in forgotten and (one := self._one(wanted[0], known)):
            return one
        search = Search(key_matrix(wanted))
        if forgotten:
            search.leave_out([key in forgotten for key in wanted])
        search.visit(known.values())
        if not listed and not search.found.all():
            self._look_further(search, known)
            if listing.tombstones.keys is not forgotten:
                return self._found(wanted, once_more=once_more)
        if search.failed and self._failed(search, once_more=once_more):
            return self._found(wanted, once_more=False)
        if search.invalid:
            self._log.report("rows", "Ignored %d damaged entries in %s", search.invalid, self._path)
        return self._hits(search)

    def _one(self, key: bytes, known: dict[str, Segment]) -> Hits | None:
        try:
            found = find_one(key, known.values())
        except OSError as error:  # a batch of one goes on without the segment, and tells
            pass_on_signals(error)
            return None
        if found is None:
            return None
        segment, row = found
        self._listing.note_use(segment)
        self._listing.dimension = row.shape[1]
        return Hits(np.zeros(1, np.intp), row)

    def _failed(self, search: Search, *, once_more: bool) -> bool:
        """Tell whether to look again, with files that are opened anew; if not, say what cannot be read."""
        if once_more and self._listing.let_go([segment for segment, _ in search.failed]):
            return True
        error = search.failed[0][1]
        self._log.report("read", "Could not read segments in %s: %s", self._path, describe(error))
        return False

    def _hits(self, search: Search) -> Hits:
        for segment in search.used:
            self._listing.note_use(segment)
        hits = search.hits()
        if len(hits.positions):
            self._listing.dimension = hits.vectors.shape[1]
        return hits

    def _look_further(self, search: Search, known: dict[str, Segment]) -> None:
        try:
            opened = self._listing.refresh()
        except OSError as error:
            pass_on_signals(error)
            if not search.found.any():
                raise
            _logger.warning("Could not look for new segments in %s: %s", self._path, error)
            return
        search.visit(segment for name, segment in opened.items() if name not in known)
