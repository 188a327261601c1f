"""What a file format has to say of a segment: how it is named, written, opened and read."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from kura_cache_adapters._segments.prefix_index import IndexOnce
    from kura_cache_adapters._segments.rows import Rows
    from kura_cache_adapters.protocols import Vectors

Positions: TypeAlias = "NDArray[np.intp]"
"""Row numbers, shape (k,)."""

_NAME = re.compile(r"\d{9}-[0-9a-f]{16}(\.\w+)")
_LEFTOVER = re.compile(rf"\._?{_NAME.pattern}\..*tmp")


class Segment(Protocol):
    """An open segment of N rows, sorted by key prefix; `at` arguments are row numbers."""

    @property
    def prefixes(self) -> NDArray[np.uint64]:
        """The rows' key prefixes, shape (N,), rising."""

    @property
    def index_once(self) -> IndexOnce:
        """Their index, once it is worth making."""

    @property
    def dimension(self) -> int:
        """D."""

    @property
    def dtype(self) -> np.dtype[np.float32] | np.dtype[np.float64]:
        """The vectors' dtype."""

    @property
    def at_hand(self) -> bool:
        """Whether rows are in local memory or a local file's map: no server is waited for."""

    def __len__(self) -> int:
        """Return N, without reading rows."""

    def intact(self) -> bool:
        """Tell whether the mapped files still have their size: reading a cut one kills."""

    def keys_at(self, at: Positions) -> NDArray[np.uint8]:
        """Read keys, shape (k, 32)."""

    def checksums_at(self, at: Positions) -> NDArray[np.uint64]:
        """Read checksums, shape (k,)."""

    def vectors_at(self, at: Positions, out: Vectors) -> None:
        """Read vectors into `out`, shape (k, D), of the segment's dtype."""

    def row(self, at: int) -> tuple[bytes, int, bytes]:
        """Read one row: key, checksum, and the vector's bytes."""

    def release(self) -> None:
        """Let go of the memory that mapped rows take; reading them takes it again."""


class SegmentFormat(Protocol):
    """How one segment is written and read: all that a file format has to say."""

    @property
    def suffix(self) -> str:
        """The ending of a segment's name, with its dot."""

    @property
    def shared(self) -> bool:
        """Whether the umask decides who may read what is written, or only its owner may."""

    mapped: bool | None
    """Whether files are mapped, or read; None decides by where they are."""

    def write(self, path: Path, rows: Rows) -> None:
        """Write rows to a new file or directory at `path`."""

    def read(self, path: Path) -> Segment:
        """Open a segment without reading its rows; raise DamagedSegmentError if it is none."""


def new_name(rows: int, suffix: str) -> str:
    """Name a new segment by its rows and by chance."""
    return f"{rows:09d}-{secrets.token_hex(8)}{suffix}"


def row_count(name: str) -> int:
    """Read a segment's rows from its name."""
    return int(name.partition("-")[0])


def ending_of(name: str) -> str:
    """Return the ending of a segment's name, with its dot; empty for what names no segment."""
    match = _NAME.fullmatch(name)
    return match[1] if match else ""


def rows_of(name: str) -> int:
    """Return the rows of a segment by its name, and none of anything else."""
    return row_count(name) if ending_of(name) else 0


def is_leftover(name: str) -> bool:
    """Tell whether a name is that of a segment which is being written or removed, or was."""
    return bool(_LEFTOVER.fullmatch(name))
