"""Tombstones: the keys that a space has forgotten, so that no copy, merge or late writer brings them back.

A file of keys, each with the time until which it stays forgotten; docs/format.md is the specification.
"""

from __future__ import annotations

import re
import secrets
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._disk import atomic, reading
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters._segments import lineage
from kura_cache_adapters.checks import key_matrix
from kura_cache_adapters.errors import DamagedSegmentError, OtherVersionError
from kura_cache_adapters.receipts import KEPT_DAYS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

logger = logger_of("store")

_NAME = re.compile(r"_forgotten-[0-9a-f]{16}")
_HEAD = b"kura_cache_adapters forgotten 1\n"
_ANY_HEAD = _HEAD[:-2]
_RECORD = np.dtype([("key", "V32"), ("until", "<u8")])
_SEAL = 32  # bytes: SHA-256 of all before
_MANY = 8  # files: then they become one
_DAY = 86_400  # seconds


def is_tombstone(name: str) -> bool:
    """Tell whether a name is that of a tombstone."""
    return bool(_NAME.fullmatch(name))


class Tombstones:
    """The tombstones of a directory, as of its last listing.

    `keys` is replaced whole, never changed: readers take no lock.
    """

    def __init__(self, path: Path, *, shared: bool) -> None:
        """Name the directory; `read` tells what is there."""
        self.keys: frozenset[bytes] = frozenset()
        self._path = path
        self._shared = shared
        self._files: dict[str, NDArray[np.void]] = {}

    def read(self, names: Collection[str]) -> None:
        """Take in the tombstones of a listing; raise FileNotFoundError where one is gone by now."""
        if self._files.keys() == set(names):
            return
        self._files = {name: self._files[name] if name in self._files else self._load(name) for name in names}
        self.keys = frozenset().union(*map(_keys, self._files.values()))

    def add(self, keys: Iterable[bytes], days: float) -> None:
        """Write a tombstone for keys; it stands for so many days."""
        self._write(_records(keys, until=int(time.time() + days * _DAY)))

    def tidy(self) -> None:
        """Make one tombstone of many, without what is over."""
        if len(names := [*self._files]) < _MANY:
            return
        records = np.concatenate([self._files[name] for name in names])
        self._replace(names, records[records["until"] > time.time()])

    def lift(self, keys: Collection[bytes]) -> None:
        """Take keys off the tombstones: they were stored anew."""
        for name, records in list(self._files.items()):
            stays = np.array([key not in keys for key in _keys(records)], bool)
            if not stays.all():
                self._replace([name], records[stays])

    def check(self, name: str) -> None:
        """Read a tombstone; raise OSError for one that says nothing that can be believed."""
        _parsed(reading.read_file(self._path / name))

    def standing(self, name: str) -> list[bytes]:
        """Read the keys that a tombstone forgets still; raise OSError as `check` does."""
        records = _parsed(reading.read_file(self._path / name))
        return _keys(records[records["until"] > time.time()])

    def salvage(self, name: str) -> None:
        """Write anew what a damaged tombstone says: a key that was never there hides nothing."""
        if not (path := self._path / name).is_file():
            return
        content = reading.read_file(path)
        body = content[len(_HEAD) :]
        if content.startswith(_HEAD) and (count := len(body) // _RECORD.itemsize):
            self.add(_keys(np.frombuffer(body, _RECORD, count)), KEPT_DAYS)

    def _load(self, name: str) -> NDArray[np.void]:
        """Read a tombstone; a damaged one forgets nothing, but says so."""
        try:
            content = reading.read_file(self._path / name)
            return _parsed(content)
        except OSError as error:
            pass_on_signals(error)
            if isinstance(error, FileNotFoundError) or not reading.lasts(error):
                raise
            logger.warning("Ignored the tombstone %s: %s", self._path / name, error)
            return np.zeros(0, _RECORD)

    def _replace(self, names: Collection[str], records: NDArray[np.void]) -> None:
        lineage.note(self._path, [self._write(records)] if len(records) else [], names)
        for name in names:
            atomic.remove(self._path / name)

    def _write(self, records: NDArray[np.void]) -> str:
        content = _HEAD + records.tobytes()
        path = self._path / f"_forgotten-{secrets.token_hex(8)}"
        with (
            atomic.published(path, durable=True) as temporary,
            atomic.create(temporary, shared=self._shared) as file,
        ):
            file.write(content + sha256(content).digest())
        return path.name


def _parsed(content: bytes) -> NDArray[np.void]:
    body, seal = content[:-_SEAL], content[-_SEAL:]
    records = body[len(_HEAD) :]
    if content.startswith(_ANY_HEAD) and not content.startswith(_HEAD):
        message = f"its version is {content[len(_ANY_HEAD) : len(_HEAD)]!r}; this release reads 1"
        raise OtherVersionError(message)
    if not body.startswith(_HEAD) or len(records) % _RECORD.itemsize or sha256(body).digest() != seal:
        message = "it is damaged, or of another version"
        raise DamagedSegmentError(message)
    return np.frombuffer(records, _RECORD)


def _records(keys: Iterable[bytes], until: int) -> NDArray[np.void]:
    matrix = key_matrix(keys)
    records = np.zeros(len(matrix), _RECORD)
    records["key"] = matrix.view("V32")[:, 0]
    records["until"] = until
    return records


def _keys(records: NDArray[np.void]) -> list[bytes]:
    joined = records["key"].tobytes()
    return [joined[at : at + 32] for at in range(0, len(joined), 32)]
