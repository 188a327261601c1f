"""ByteValues: bytes of any length by name in a space of vectors. docs/format.md has the layout."""

from __future__ import annotations

import struct
from hashlib import sha256
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from kura_cache_adapters.protocols import Vectors, VectorSpace

_D = 512  # numbers in a row
_PACKED = 3  # bytes in a number: float32 holds every whole number below 2**24
_ROW = _D * _PACKED
_FIRST, _FURTHER = b"\0", b"\1"  # what a row begins with
_HEAD = struct.Struct("<xII32s")  # of a first row: bytes of the name, of the value, and the SHA-256 of both
_LARGEST = 2**32
_AT_ONCE = 1024  # rows that a listing reads at a time


class ByteValues:
    """Values by name. They may be replaced: the old one is deleted, then the new one stored.

    Who reads between the two finds none. Of two who write one name at once, either is kept, whole.
    """

    def __init__(self, space: VectorSpace) -> None:
        """Take a space that holds nothing else."""
        self._space = space

    def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each name; None where there is none, or not all of it."""
        firsts = self._read([*map(_key_of, names)])
        further = self._rows_of(key for first in firsts if first for key in _further(first))
        return [first and _value(name, first, further) for name, first in zip(names, firsts, strict=True)]

    def set(self, values: Mapping[bytes, bytes]) -> None:
        """Store values; one that is there already is not written again.

        Raises ValueError for a name or a value of 4 GiB or more.
        """
        there = dict(zip(values, self.get([*values]), strict=True))
        changed = {name: value for name, value in values.items() if value != there[name]}
        rows = dict(chain.from_iterable(_rows(*each) for each in changed.items()))
        self.delete([*changed])
        if rows:
            self._space.put_many([*rows], _packed([*rows.values()]))

    def delete(self, names: Sequence[bytes]) -> None:
        """Delete the values of names."""
        firsts = self._rows_of(map(_key_of, names))
        further = [key for first in firsts.values() for key in _further(first)]
        if firsts:
            self._space.delete_many([*firsts, *further])

    def names(self) -> Iterator[bytes]:
        """Iterate over the names that have a value, whole or not."""
        keys = [*self._space.keys()]
        for at in range(0, len(keys), _AT_ONCE):
            rows = self._rows_of(keys[at : at + _AT_ONCE])
            firsts = {key: row for key, row in rows.items() if row.startswith(_FIRST)}
            further = self._rows_of(key for row in firsts.values() for key in _further(row, name_only=True))
            for key, first in firsts.items():
                name = _content(first, further)[: _HEAD.unpack_from(first)[0]]
                if _key_of(name) == key:
                    yield name

    def _rows_of(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        wanted = [*keys]
        return {key: row for key, row in zip(wanted, self._read(wanted), strict=True) if row}

    def _read(self, keys: list[bytes]) -> list[bytes | None]:
        rows: list[bytes | None] = [None] * len(keys)
        hits = self._space.get_many(keys).checked(len(keys))
        for at, row in zip(hits.positions.tolist(), _unpacked(hits.vectors), strict=True):
            rows[at] = row if len(row) == _ROW else None
        return rows


def _key_of(name: bytes) -> bytes:
    return sha256(_FIRST + name).digest()


def _digest(name: bytes, value: bytes) -> bytes:
    return sha256(b"%d:" % len(name) + name + value).digest()


def _rows(name: bytes, value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and the bytes of the rows of a value."""
    if max(len(name), len(value)) >= _LARGEST:
        message = f"a value of {len(value)} bytes is too large: it must be below 4 GiB"
        raise ValueError(message)
    content = name + value
    room = _ROW - _HEAD.size
    first = _HEAD.pack(len(name), len(value), _digest(name, value)) + content[:room]
    yield _key_of(name), first
    starts = range(room, len(content), _ROW - 1)
    for key, start in zip(_further(first), starts, strict=True):
        yield key, _FURTHER + content[start : start + _ROW - 1]


def _further(first: bytes, *, name_only: bool = False) -> list[bytes]:
    """Return the keys of the rows behind a first one: the value's own, so that none is another's part."""
    name, value, digest = _HEAD.unpack_from(first)
    beyond = name + (0 if name_only else value) - (_ROW - _HEAD.size)
    return [sha256(_FURTHER + digest + b"%d" % at).digest() for at in range(-(-beyond // (_ROW - 1)))]


def _content(first: bytes, further: Mapping[bytes, bytes]) -> bytes:
    """Join the rows of a value, as many as are there."""
    return first[_HEAD.size :] + b"".join(further.get(key, b"")[1:] for key in _further(first))


def _value(name: bytes, first: bytes, further: Mapping[bytes, bytes]) -> bytes | None:
    begin, length, digest = _HEAD.unpack_from(first)
    value = _content(first, further)[begin : begin + length]
    return value if digest == _digest(name, value) else None


def _packed(rows: list[bytes]) -> NDArray[np.float32]:
    """Return rows as whole numbers, shape (N, 512), float32."""
    content = b"".join(row.ljust(_ROW, b"\0") for row in rows)
    spread = np.zeros((len(rows), _D, 4), np.uint8)
    spread[..., :_PACKED] = np.frombuffer(content, np.uint8).reshape(len(rows), _D, _PACKED)
    return spread.view("<u4")[..., 0].astype(np.float32)


def _unpacked(vectors: Vectors) -> list[bytes]:
    with np.errstate(invalid="ignore"):  # of what was never ours
        numbers = vectors.astype("<u4")
    packed = np.ascontiguousarray(numbers[..., np.newaxis].view(np.uint8)[..., :_PACKED])
    return [row.tobytes() for row in packed]
