"""CheckpointStore: one checkpoint per entry in a manager that knows nothing of vectors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters.checks import KEY_BYTES
from kura_cache_adapters.stores.key_value import KeyValueSpace
from kura_cache_adapters.stores.records import records_for

if TYPE_CHECKING:
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import SupportsCheckpoints, Vectors

_THREADS = 8

Said: TypeAlias = "tuple[str, str, Vectors]"
"""What a record says: its key (64 hex characters), its model's directory name, its vector."""


class CheckpointStore:
    """Use any checkpoint manager as a store, through its own save and load."""

    def __init__(self, manager: SupportsCheckpoints) -> None:
        """Take the manager."""
        self.manager = manager
        self._spaces: dict[ModelIdentity, KeyValueSpace[Said]] = {}

    def space(self, identity: ModelIdentity) -> KeyValueSpace[Said]:
        """Open the space of a model, the same object each time."""
        if identity not in self._spaces:
            self._spaces.setdefault(identity, Checkpoints(self.manager, identity).space())
        return self._spaces[identity]

    def spaces(self) -> list[ModelIdentity]:
        """List the identities used here so far; a manager's names say nothing of others."""
        return list(self._spaces)

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

    def encode(self, key: bytes, vector: Vectors, /) -> Said:
        """Return what a record is to say."""
        return key.hex(), self._identity, vector

    def decode(self, key: bytes, said: Said, /) -> Vectors:
        """Return the vector of a record; raise ValueError for another entry's."""
        name, identity, vector = said
        if (name, identity) != (key.hex(), self._identity):
            message = f"the record is that of {name!r:.80} of {identity!r:.80}"
            raise ValueError(message)
        return vector

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
        names: list[str] = getattr(self._manager, "list_checkpoints", list)()
        start, end = len(self._prefix), len(self._prefix) + 2 * KEY_BYTES
        mine = (name for name in names if name.startswith(self._prefix))
        return [(name, bytes.fromhex(name[start:end])) for name in mine]

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
