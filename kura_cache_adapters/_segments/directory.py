"""SegmentStore: a directory with one space of segments per model identity."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kura_cache_adapters._segments.beside import read_identity
from kura_cache_adapters._segments.marks import IDENTITY_FILE
from kura_cache_adapters._segments.space import SegmentSpace

if TYPE_CHECKING:
    from kura_cache_adapters._segments.format import SegmentFormat
    from kura_cache_adapters.identity import ModelIdentity


class SegmentStore:
    """A directory with one space per model identity, in one segment format."""

    def __init__(self, path: str | os.PathLike[str], segment_format: SegmentFormat) -> None:
        """Name the directory; it is made by the first write."""
        self.path: Path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
        self._format = segment_format
        self._spaces: dict[ModelIdentity, SegmentSpace] = {}

    def space(self, identity: ModelIdentity) -> SegmentSpace:
        """Open the space of a model, the same object each time."""
        if identity not in self._spaces:
            space = SegmentSpace(self.path / identity.directory, identity, self._format)
            self._spaces.setdefault(identity, space)
        return self._spaces[identity]

    def spaces(self) -> list[ModelIdentity]:
        """List the identities whose directories here tell the truth about themselves."""
        found = (read_identity(path.parent) for path in sorted(self.path.glob(f"*/{IDENTITY_FILE}")))
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
