"""Writes segments into a space's directory, which it makes and marks as whose it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import atomic, reading
from kura_cache_adapters._segments import marks
from kura_cache_adapters._segments.format import new_name

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters._segments.ages import Age
    from kura_cache_adapters._segments.format import SegmentFormat
    from kura_cache_adapters._segments.rows import Rows
    from kura_cache_adapters.identity import ModelIdentity


class Writer:
    """One model's directory, as it is written to."""

    def __init__(self, path: Path, identity: ModelIdentity | None, segment_format: SegmentFormat) -> None:
        """Name the directory; it is made by the first write. Whose it is may not be known."""
        self._path = path
        self._description = identity.to_json().encode() if identity else b""
        self._format = segment_format
        self._anchored = False

    def write(self, rows: Rows, *, durable: bool, age: Age | None = None) -> str:
        """Write one new segment, whole or not at all; return its name. Its rows are new, unless told.

        Raises OSError when the disk refuses, and where the directory is a symbolic link.
        """
        try:
            name = self._publish(rows, durable=durable)
        except FileNotFoundError:  # somebody has cleaned up under our hands: once more
            name = self._publish(rows, durable=durable)
        if age is not None:
            os.utime(self._path / name, (age.used, age.written))
        return name

    def note_answerer(self, name: str) -> None:
        """Note under which name a server answers for this space."""
        marks.note_answerer(self._path, name, shared=self._format.shared)

    def describe(self, *, durable: bool) -> bool:
        """Write down whose space it is, unless that is there; tell whether it is known."""
        if self._description:
            marks.write_identity(self._path, self._description, durable=durable, shared=self._format.shared)
        return bool(self._description)

    def _publish(self, rows: Rows, *, durable: bool) -> str:
        name = new_name(len(rows), self._format.suffix)
        self._prepare(durable=durable)
        with atomic.published(self._path / name, durable=durable) as temporary:
            self._format.write(temporary, rows)
        return name

    def _prepare(self, *, durable: bool) -> None:
        shared = self._format.shared
        if marks.make_space(self._path, durable=durable, shared=shared):
            self._anchored = False
        reading.refuse_link(self._path)
        if durable and not self._anchored:
            atomic.anchor(self._path)
            self._anchored = True
        self.describe(durable=durable)
