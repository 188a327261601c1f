"""SegmentStore: a directory with one space of segments per model identity."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import reading
from kura_cache_adapters._observe.log import describe
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._segments.bounds import Bounds, Upkeep
from kura_cache_adapters._segments.marks import IDENTITY_FILE
from kura_cache_adapters._segments.space import SegmentSpace
from kura_cache_adapters.identity import ModelIdentity

if TYPE_CHECKING:
    from datetime import timedelta

    from kura_cache_adapters._segments.format import SegmentFormat

logger = logger_of("store")

_LONGEST_IDENTITY = 1 << 20  # bytes: what is longer is none, and is not read


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
        self._format = segment_format
        self._upkeep = Upkeep(self.path, segment_format.suffix, Bounds.of_store(max_bytes=max_bytes, ttl=ttl))
        self._spaces: dict[ModelIdentity, SegmentSpace] = {}

    def space(self, identity: ModelIdentity) -> SegmentSpace:
        """Open the space of a model, the same object each time."""
        if identity not in self._spaces:
            space = SegmentSpace(self.path / identity.directory, identity, self._format, self._upkeep)
            self._spaces.setdefault(identity, space)
        return self._spaces[identity]

    def spaces(self) -> list[ModelIdentity]:
        """List the identities whose directories here tell the truth about themselves."""
        found = (_read_identity(path) for path in sorted(self.path.glob(f"*/{IDENTITY_FILE}")))
        return [identity for identity in found if identity is not None]

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


def _read_identity(path: Path) -> ModelIdentity | None:
    try:
        reading.refuse_link(path.parent)
        identity = ModelIdentity.from_json(reading.read_file(path, most=_LONGEST_IDENTITY))
    except (OSError, ValueError) as error:
        logger.warning("Ignored %s: %s", path, describe(error))
        return None
    return identity if identity.directory == path.parent.name else None
