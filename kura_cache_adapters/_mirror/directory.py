"""Syncs a cache's directory with a bucket, space by space, and prunes one: nothing else deletes there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kura_cache_adapters._mirror.bucket import is_space
from kura_cache_adapters._mirror.pruning import prune
from kura_cache_adapters._mirror.space import SpaceMirror
from kura_cache_adapters._segments import marks
from kura_cache_adapters.receipts import SyncReceipt

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters._mirror.bucket import Bucket
    from kura_cache_adapters._segments.bounds import Bounds
    from kura_cache_adapters._segments.format import SegmentFormat
    from kura_cache_adapters.spaces import CleaningReceipt


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
        names = self._everywhere() if pull else self._spaces()
        done = tuple(self.space(name).sync(push=push, pull=pull, dry_run=dry_run) for name in names)
        return SyncReceipt(self.bucket.url, done, dict(self.bucket.requests), dry_run)

    def prune(self, bounds: Bounds, *, dry_run: bool = False) -> CleaningReceipt:
        """Sync, make few files of many, then delete what these stand for there, and what is beyond bounds."""
        if not dry_run:
            self.sync(push=True, pull=True)
        return prune(map(self.space, self._everywhere()), bounds, dry_run=dry_run)

    def _everywhere(self) -> list[str]:
        return sorted({*self._spaces(), *filter(self._meant, self.bucket.spaces())})

    def _spaces(self) -> list[str]:
        names = (path.name for path in marks.spaces_in(self.path))
        return [name for name in names if is_space(name) and self._meant(name)]

    def _meant(self, space: str) -> bool:
        return self.within is None or space in self.within
