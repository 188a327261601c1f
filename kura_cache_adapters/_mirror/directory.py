"""Syncs a cache's directory with a bucket, space by space, and prunes one: nothing else deletes there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from kura_cache_adapters._mirror.bucket import is_space
from kura_cache_adapters._mirror.space import SpaceMirror
from kura_cache_adapters._segments import lineage, marks
from kura_cache_adapters._segments.beside import read_identity
from kura_cache_adapters._segments.format import ending_of, row_count
from kura_cache_adapters.receipts import SyncReceipt
from kura_cache_adapters.spaces import Cleaned, CleaningReceipt, Part

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from kura_cache_adapters._mirror.bucket import Bucket
    from kura_cache_adapters._segments.bounds import Bounds
    from kura_cache_adapters._segments.format import SegmentFormat


@dataclass(frozen=True)
class DirectoryMirror:
    """A cache's directory and a bucket."""

    path: Path
    format: SegmentFormat
    bucket: Bucket
    within: frozenset[str] | None = None  # spaces, by name; None means all
    most: int | None = None  # bytes, as `SpaceMirror` has it

    def space(self, name: str) -> SpaceMirror:
        """Return the mirror of one space."""
        return SpaceMirror(self.bucket, self.path / name, self.format, most=self.most)

    def sync(self, *, push: bool, pull: bool, dry_run: bool = False) -> SyncReceipt:
        """Push and pull what is new of all spaces that are meant."""
        names = sorted({*self._spaces(), *(filter(self._meant, self.bucket.spaces()) if pull else ())})
        done = tuple(self.space(name).sync(push=push, pull=pull, dry_run=dry_run) for name in names)
        return SyncReceipt(self.bucket.url, done, dict(self.bucket.requests), dry_run)

    def prune(self, bounds: Bounds, *, dry_run: bool = False) -> CleaningReceipt:
        """Put what is here there, then delete what that stands for, and what is beyond bounds."""
        if not dry_run:
            self.sync(push=True, pull=True)
        cleaned = [self._pruned(name, bounds, dry_run=dry_run) for name in self._spaces()]
        return CleaningReceipt(tuple(each for each in cleaned if each is not None), dry_run)

    def _spaces(self) -> list[str]:
        names = (path.name for path in marks.spaces_in(self.path))
        return [name for name in names if is_space(name) and self._meant(name)]

    def _meant(self, space: str) -> bool:
        return self.within is None or space in self.within

    def _pruned(self, name: str, bounds: Bounds, *, dry_run: bool) -> Cleaned | None:
        space, identity = self.space(name), read_identity(self.path / name)
        if identity is None:
            return None
        names = space.names()
        if not dry_run and names.replaced_by(names.here):
            space.push(names, names.here - names.there)
            names = space.names()
        kept = names.here if dry_run else names.here & names.there
        doomed = self._parts(name, names.replaced_by(kept), bounds)
        if not dry_run and doomed:
            gone = [part.name for part in doomed]
            self.bucket.delete(name, gone)
            self.bucket.delete(name, [f"{lineage.FILE}-{each}" for each in gone if each in names.made_of])
            left = space.names()  # who prunes at the same time takes what was kept here for replaced
            space.push(left, kept - left.there - {*gone})
        rows, nbytes = sum(part.entries for part in doomed), sum(part.nbytes for part in doomed)
        return Cleaned(identity, name, self.bucket.url, len(doomed), rows, nbytes) if doomed else None

    def _parts(self, name: str, replaced: Collection[str], bounds: Bounds) -> list[Part]:
        listed = self.bucket.list(name)
        parts = [
            Part(each, row_count(each) if ending_of(each) else 0, found.nbytes, found.written, found.written)
            for each, found in listed.items()
            if lineage.NAME.fullmatch(each)
        ]
        rest = [(None, part) for part in parts if part.name not in replaced and ending_of(part.name)]
        beyond = [part for _, part in bounds.beyond(rest, datetime.now(timezone.utc))]
        return [part for part in parts if part.name in replaced] + beyond
