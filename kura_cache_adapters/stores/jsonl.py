"""JSONLStore: segments as lines of JSON that are all equally long, so that row i is at a known place."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import timedelta  # noqa: TC003 - read_options reads annotations
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._disk import atomic, reading
from kura_cache_adapters._segments.directory import SegmentStore
from kura_cache_adapters._segments.prefix_index import IndexOnce
from kura_cache_adapters._segments.rows import Rows, prefixes_of
from kura_cache_adapters.checks import KEY_BYTES
from kura_cache_adapters.errors import DamagedSegmentError, OtherVersionError

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from numpy.typing import NDArray

    from kura_cache_adapters._disk.reading import View
    from kura_cache_adapters._segments.format import Positions, Segment
    from kura_cache_adapters.protocols import Vectors

_KEY = b'{"key":"'
_CHECKSUM = b'","checksum":"'
_VECTOR = b'","vector":"'
_END = b'"}\n'
_KEY_AT = len(_KEY)
_CHECKSUM_AT = _KEY_AT + 2 * KEY_BYTES + len(_CHECKSUM)
_VECTOR_AT = _CHECKSUM_AT + 16 + len(_VECTOR)
_DTYPES: dict[str, np.dtype[np.float32] | np.dtype[np.float64]] = {
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
}


class JSONLFormat:
    """A header line, then one object a line: key and checksum in hex, the vector's bytes in base64."""

    suffix = ".jsonl"

    def __init__(self, *, shared: bool = False, mapped: bool | None = None) -> None:
        """Choose who may read files (all that the umask allows, or their owner), and how they are read."""
        self.shared = shared
        self.mapped = mapped

    def write(self, path: Path, rows: Rows) -> None:
        """Write rows to a new file."""
        header = {
            "format": "kura_cache_adapters.segment",
            "version": 1,
            "dtype": rows.vectors.dtype.name,
            "dimension": rows.vectors.shape[1],
            "rows": len(rows),
        }
        with atomic.create(path, shared=self.shared) as file:
            file.write(json.dumps(header).encode() + b"\n")
            for key, checksum, vector in zip(rows.keys, rows.checksums, rows.vectors, strict=True):
                file.write(_line(key.tobytes(), int(checksum), vector.tobytes()))

    def read(self, path: Path) -> Segment:
        """View a file; of one that is mapped only the header is read, else all of it."""
        view = reading.view_file(path, mapped=self.mapped)
        view.load(0, len(view.content))
        mapped = view.content
        start = mapped.find(b"\n", 0, 1024) + 1
        try:
            header = json.loads(mapped[:start])
            if header["format"] != "kura_cache_adapters.segment":
                message = "its header is that of another format"
                raise DamagedSegmentError(message)
            if header["version"] != 1:
                message = f"its format has the version {header['version']!r:.20}; this release reads 1"
                raise OtherVersionError(message)
            return _LineSegment(
                view,
                start,
                int(header["rows"]),
                int(header["dimension"]),
                _DTYPES[header["dtype"]],
            )
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            message = f"its header does not describe its lines: {type(error).__name__}"
            raise DamagedSegmentError(message) from error

    def flaw(self, path: Path) -> str:
        """Say why other readers of JSON would not read its lines; empty where nothing is wrong."""
        try:
            for line in reading.read_file(path).splitlines():
                json.loads(line)
        except (ValueError, RecursionError):
            return "not all of its lines are JSON"
        return ""


class JSONLStore(SegmentStore):
    """Keep vectors in a directory as JSON lines, readable by anything."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        shared: bool = False,
        mapped: bool | None = None,
        max_bytes: int | None = None,
        ttl: timedelta | float | None = None,
    ) -> None:
        """Name the directory; it is made by the first write.

        Args:
            path: a directory; each model has one of its own below it.
            shared: let the umask decide who may read and write what is stored; without, its owner alone may.
            mapped: map files into memory, or read from them; None maps on local file systems, and reads on
                those where a failing server would end the process.
            max_bytes: of all models' segments here: at a write, the oldest go until the rest is no more.
            ttl: seconds or a timedelta: at a write, segments go whose newest row was written longer ago. No
                look-up does that, or hides what is older.

        Raises:
            ValueError: a bound that is not positive.

        """
        segments = JSONLFormat(shared=shared, mapped=mapped)
        super().__init__(path, segments, max_bytes=max_bytes, ttl=ttl)


def _line(key: bytes, checksum: int, vector: bytes) -> bytes:
    encoded = base64.b64encode(vector)
    return b"".join(
        [_KEY, key.hex().encode(), _CHECKSUM, b"%016x" % checksum, _VECTOR, encoded, _END],
    )


class _LineSegment:
    """A viewed file, seen as a matrix of characters: one line a row."""

    def __init__(
        self,
        view: View,
        start: int,
        rows: int,
        dimension: int,
        dtype: np.dtype[np.float32] | np.dtype[np.float64],
    ) -> None:
        self.dimension, self.dtype = dimension, dtype
        self.index_once = IndexOnce()
        self._map, mapped = view.map, view.content
        self._vector_bytes = dimension * dtype.itemsize
        self._encoded = -(-self._vector_bytes // 3) * 4
        width = _VECTOR_AT + self._encoded + len(_END)
        if rows < 1 or dimension < 1 or len(mapped) != start + rows * width:
            message = f"{rows} rows need {start + rows * width} bytes, it has {len(mapped)}"
            raise ValueError(message)
        self._lines = np.frombuffer(mapped, np.uint8, rows * width, start).reshape(rows, width)

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self._lines)

    @cached_property
    def prefixes(self) -> NDArray[np.uint64]:
        """The rows' key prefixes, read from all lines at the first look-up."""
        return prefixes_of(_unhex(self._lines[:, _KEY_AT : _KEY_AT + 16]))

    @property
    def at_hand(self) -> bool:
        """Whether the prefixes have been read."""
        return "prefixes" in vars(self)

    def intact(self) -> bool:
        """Tell whether the mapped file still has its size."""
        return self._map is None or self._map.size() == len(self._map)

    def keys_at(self, at: Positions) -> NDArray[np.uint8]:
        """Read keys, shape (k, 32)."""
        return _unhex(self._lines[at, _KEY_AT : _KEY_AT + 2 * KEY_BYTES])

    def checksums_at(self, at: Positions) -> NDArray[np.uint64]:
        """Read checksums, shape (k,)."""
        return prefixes_of(_unhex(self._lines[at, _CHECKSUM_AT : _CHECKSUM_AT + 16]))

    def vectors_at(self, at: Positions, out: Vectors) -> None:
        """Read vectors into `out`; one that is not base64 comes out as zeros."""
        encoded = self._lines[at, _VECTOR_AT : _VECTOR_AT + self._encoded]
        raw = out.view(np.uint8)
        decoded = _unbase64(encoded)
        if decoded is not None:
            raw[:] = decoded[:, : self._vector_bytes]
            return
        for row, line in zip(raw, encoded, strict=True):
            decoded = _unbase64(line[np.newaxis])
            row[:] = 0 if decoded is None else decoded[0, : self._vector_bytes]

    def row(self, at: int) -> tuple[bytes, int, bytes]:
        """Read one row: key, checksum, and the vector's bytes."""
        one = np.array([at])
        vector = np.empty((1, self.dimension), self.dtype)
        self.vectors_at(one, vector)
        return self.keys_at(one).tobytes(), int(self.checksums_at(one)[0]), vector.tobytes()

    def release(self) -> None:
        """Let go of the memory that mapped lines take; reading them takes it again."""
        reading.release(self._map)


def _unhex(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode hex digits, shape (N, 2k) to (N, k); what is no digit decodes to something wrong."""
    values = _HEX[digits]
    return np.ascontiguousarray(values[:, ::2] << 4 | values[:, 1::2])


_HEX = np.zeros(256, np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def _unbase64(encoded: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Decode rows of base64 in one call, padding as zero bits; None if any of them is damaged."""
    text = np.where(encoded == ord("="), ord("A"), encoded).astype(np.uint8).tobytes()
    try:
        decoded = np.frombuffer(binascii.a2b_base64(text), np.uint8)
    except binascii.Error:
        return None
    size = encoded.shape[1] // 4 * 3
    return decoded.reshape(-1, size) if len(decoded) == len(encoded) * size else None
