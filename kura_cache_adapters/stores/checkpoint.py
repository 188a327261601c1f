"""CheckpointStore: one checkpoint per entry in a manager that knows nothing of vectors."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters.receipts import Forgotten, SpaceReport, Trouble
from kura_cache_adapters.stores.entry import gathered
from kura_cache_adapters.stores.key_value import KeyValueSpace
from kura_cache_adapters.stores.records import records_for

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import Hits, SupportsCheckpoints, Vectors

_THREADS = 8

Said: TypeAlias = "tuple[str, str, Vectors]"
"""What a record says: its key (64 hex characters), its model's directory name, its vector."""


_ENTRY = re.compile(r"embedding-([0-9a-f]{16})-([0-9a-f]{64})(\.\w+)?")
_BLIND = "it cannot list and delete checkpoints: delete them where it keeps them"


def entries_in(manager: object) -> Iterator[tuple[str, str, str]]:
    """Yield the entries that a manager lists: its name for each, the hash of the space, and the key."""
    for name in getattr(manager, "list_checkpoints", list)():
        if entry := _ENTRY.fullmatch(name):
            yield name, entry[1], entry[2]


class CheckpointStore:
    """Use any checkpoint manager as a store, through its own save and load."""

    def __init__(self, manager: SupportsCheckpoints) -> None:
        """Take the manager."""
        self.manager = manager
        self._records = records_for(manager)
        self._spaces: dict[ModelIdentity, KeyValueSpace[Said]] = {}

    def space(self, identity: ModelIdentity) -> KeyValueSpace[Said]:
        """Open the space of a model, the same object each time."""
        if identity not in self._spaces:
            self._spaces.setdefault(identity, Checkpoints(self.manager, identity).space())
        return self._spaces[identity]

    def spaces(self) -> list[ModelIdentity]:
        """List the identities used here so far; a manager's names say nothing of others."""
        return list(self._spaces)

    def forget(
        self,
        keys: Sequence[bytes],
        *,
        days: float,  # noqa: ARG002 - managers keep no tombstones
        within: Collection[ModelIdentity] | None,  # noqa: ARG002 - a key is one model's alone
    ) -> list[Forgotten]:
        """Delete the entries of keys, whosever they are; tell which the manager has kept."""
        delete = getattr(self.manager, "delete_checkpoint", None)
        if delete is None or not hasattr(self.manager, "list_checkpoints"):
            return [Forgotten("", "", unreachable=(Trouble(repr(self.manager), _BLIND),))]
        doomed = {key.hex() for key in keys}
        there = {name: key for name, _, key in entries_in(self.manager) if key in doomed}
        for name in there:
            delete(name)
        left = [name for name, _, key in entries_in(self.manager) if key in doomed]
        kept = tuple(Trouble(name, "the manager has not deleted it") for name in left)
        gone = tuple(name for name in there if name not in left)
        return [Forgotten("", "", tuple(sorted({*there.values()})), gone, kept)]

    def verify(self, *, repair: bool) -> list[SpaceReport]:
        """Load every entry that the manager lists, and see whether it is whole and its own."""
        entries = [*entries_in(self.manager)]
        bad = [name for name, space, key in entries if not self._is_right(space, key)]
        troubles = tuple(self._troubled(name, repair=repair) for name in bad)
        return [SpaceReport("", "", len(entries), len(bad), len(entries), (), troubles)] if entries else []

    def _is_right(self, space: str, key: str) -> bool:
        try:
            model_class = self._records.model_class
            records = self.manager.load_checkpoint(f"embedding-{space}-{key}", model_class) or []
            ((said, whose, _),) = map(self._records.decode, records)
        except Exception as error:  # noqa: BLE001 - a foreign manager: what it cannot read is damaged
            pass_on_signals(error)
            return False
        return said == key and whose.endswith(f"-{space}")

    def _troubled(self, name: str, *, repair: bool) -> Trouble:
        delete = getattr(self.manager, "delete_checkpoint", None)
        repaired = bool(repair and delete is not None and delete(name))
        return Trouble(name, "the entry cannot be read, or is another one's", repaired)

    def close(self) -> None:
        """Do nothing: the manager belongs to its owner."""

    def __repr__(self) -> str:
        """Name the class and the manager."""
        return f"{type(self).__name__}({self.manager!r})"


class Checkpoints:
    """The entries of one model in a manager; records are made and read in the threads that save and load."""

    def __init__(self, manager: SupportsCheckpoints, identity: ModelIdentity) -> None:
        """Take the manager and the model's identity."""
        self._manager = manager
        self._identity = identity.directory
        self._prefix = f"embedding-{identity.digest[:16]}-"
        self._records = records_for(manager)

    def space(self) -> KeyValueSpace[Said]:
        """Make a space of these entries."""
        return KeyValueSpace(
            self.read_many,
            self.write_many,
            self.delete_many,
            keys=self.keys if hasattr(self._manager, "list_checkpoints") else tuple,
            codec=self,
            where=self._manager,
        )

    def encode_many(self, keys: Sequence[bytes], vectors: Vectors, /) -> list[Said]:
        """Return what records are to say."""
        return [(key.hex(), self._identity, vector) for key, vector in zip(keys, vectors, strict=True)]

    def decode_many(
        self, keys: Sequence[bytes], said: Sequence[Said], /, *, dimension: int | None = None
    ) -> Hits:
        """Find the vectors of records; another entry's is invalid."""
        each = enumerate(zip(keys, said, strict=True))
        own = [(at, vector) for at, (key, (*whose, vector)) in each if whose == [key.hex(), self._identity]]
        parts = [(np.array([at]), vector[np.newaxis]) for at, vector in own if len(vector)]
        return gathered(parts, len(said), dimension)

    def read_many(self, keys: list[bytes]) -> list[Said | Exception | None]:
        """Load entries concurrently."""
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(self._load, keys))

    def write_many(self, entries: dict[bytes, Said]) -> None:
        """Save one checkpoint per entry; the first failure is raised when all were tried."""
        with ThreadPoolExecutor(_THREADS) as threads:
            saved = [threads.submit(self._save, key, said) for key, said in entries.items()]
        for one in saved:
            one.result()

    def delete_many(self, keys: list[bytes]) -> int:
        """Delete entries, if the manager can list and delete."""
        doomed = set(keys)
        delete = getattr(self._manager, "delete_checkpoint", None)
        names = [name for name, key in self._listed() if key in doomed]
        return sum(bool(delete(name)) for name in names) if delete else 0

    def keys(self) -> list[bytes]:
        """List this model's keys, if the manager can list."""
        return [key for _, key in self._listed()]

    def _listed(self) -> list[tuple[str, bytes]]:
        """List this model's entries: the manager's name, with or without an ending, and the key."""
        listed = entries_in(self._manager)
        return [(name, bytes.fromhex(key)) for name, _, key in listed if name.startswith(self._prefix)]

    def _load(self, key: bytes) -> Said | Exception | None:
        try:
            records = self._manager.load_checkpoint(self._name(key), self._records.model_class)
            if not records:
                return None
            (record,) = records
            return self._records.decode(record)
        except Exception as error:  # noqa: BLE001 - a foreign manager: what it cannot read is a miss
            pass_on_signals(error)
            return error

    def _save(self, key: bytes, said: Said) -> None:
        self._manager.save_checkpoint(self._name(key), [self._records.encode(*said)])

    def _name(self, key: bytes) -> str:
        return self._prefix + key.hex()
