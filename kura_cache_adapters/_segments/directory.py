"""SegmentStore: a directory with one space of segments per model identity."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kura_cache_adapters._observe.log import describe
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters._segments import marks
from kura_cache_adapters._segments.beside import read_identity
from kura_cache_adapters._segments.bounds import Bounds, Upkeep
from kura_cache_adapters._segments.space import SegmentSpace
from kura_cache_adapters.receipts import Forgotten, SpaceReport, Trouble

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import timedelta

    from kura_cache_adapters._segments.format import SegmentFormat
    from kura_cache_adapters.identity import ModelIdentity

_HASH = 16  # characters at the end of a space's name
_WHOSE = "its _identity.json does not say which model it is: verify, or forget by keys"


class SegmentStore:
    """A directory with one space per model identity, in one segment format."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        segment_format: SegmentFormat,
        *,
        max_bytes: int | None = None,
        ttl: timedelta | float | None = None,
    ) -> None:
        """Name the directory, and the bounds in which writing keeps it; it is made by the first write."""
        self.path: Path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
        self.format = segment_format
        self._upkeep = Upkeep(self.path, segment_format.suffix, Bounds.of_store(max_bytes=max_bytes, ttl=ttl))
        self._spaces: dict[ModelIdentity, SegmentSpace] = {}

    def space(self, identity: ModelIdentity) -> SegmentSpace:
        """Open the space of a model, the same object each time."""
        if identity not in self._spaces:
            self._spaces.setdefault(identity, self._open(identity))
        return self._spaces[identity]

    def _open(self, identity: ModelIdentity) -> SegmentSpace:
        return SegmentSpace(self.path / identity.directory, identity, self.format, self._upkeep)

    def spaces(self) -> list[ModelIdentity]:
        """List the identities whose directories here tell the truth about themselves."""
        found = (read_identity(path.parent) for path in sorted(self.path.glob(f"*/{marks.IDENTITY_FILE}")))
        return [identity for identity in found if identity is not None]

    def forget(
        self, keys: Sequence[bytes], *, days: float, within: Collection[ModelIdentity] | None
    ) -> list[Forgotten]:
        """Forget keys in every space on disk, or in those of some models; tell what was done in each."""
        named = None if within is None else {identity.directory for identity in within}
        done = (_forgotten(space, keys, days, named) for space in self._all())
        return [each for each in done if each is not None]

    def verify(self, *, repair: bool) -> list[SpaceReport]:
        """Read every checksum of every space on disk."""
        return [_verified(space, repair=repair) for space in self._all()]

    def _all(self) -> Iterator[SegmentSpace]:
        """Open every space on disk, also one that does not say whose it is."""
        known = {identity.directory: identity for identity in [*self.spaces(), *self._spaces]}
        for path in sorted(self.path.glob("*")):
            if marks.is_space(path.name) and path.is_dir() and not path.is_symlink():
                identity = known.get(path.name)
                yield self.space(identity) if identity else SegmentSpace(path, None, self.format)

    def close(self) -> None:
        """Let go of all mapped files; the next use maps them again."""
        for space in list(self._spaces.values()):
            space.close()

    def __repr__(self) -> str:
        """Name the class and the directory."""
        return f"{type(self).__name__}({str(self.path)!r})"

    def __getstate__(self) -> dict[str, object]:
        """Pickle the directory, never what is open."""
        return {**self.__dict__, "_spaces": {}}


def _forgotten(
    space: SegmentSpace, keys: Sequence[bytes], days: float, named: set[str] | None
) -> Forgotten | None:
    """Forget keys in a space, if it is one of those that are named; None for another model's."""
    name = space.path.name
    if named is None or name in named:
        try:
            return space.forget(keys, days=days)
        except OSError as error:
            pass_on_signals(error)
            return Forgotten("", name, unreachable=(Trouble(str(space.path), describe(error)),))
    if space.identity is None and name[:-_HASH] in {each[:-_HASH] for each in named}:
        return Forgotten("", name, unreachable=(Trouble(str(space.path), _WHOSE),))
    return None


def _verified(space: SegmentSpace, *, repair: bool) -> SpaceReport:
    try:
        return space.verify(repair=repair)
    except OSError as error:
        pass_on_signals(error)
        return SpaceReport("", space.path.name, troubles=(Trouble(str(space.path), describe(error)),))
