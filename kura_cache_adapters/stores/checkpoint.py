"""CheckpointStore: one checkpoint per entry in a manager that knows nothing of vectors."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._core.vectors import narrowed
from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters.checks import KEY_BYTES, check_dimension, check_shapes, key_matrix
from kura_cache_adapters.protocols import Hits, SpaceStats
from kura_cache_adapters.stores.records import records_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import SupportsCheckpoints, Vectors

logger = logging.getLogger("kura_cache_adapters.store")

_THREADS = 8
_INVALID = np.empty(0)


class CheckpointStore:
    """Use any checkpoint manager as a store, through its own save and load."""

    def __init__(self, manager: SupportsCheckpoints) -> None:
        """Take the manager."""
        self.manager = manager
        self._spaces: dict[ModelIdentity, CheckpointSpace] = {}

    def space(self, identity: ModelIdentity) -> CheckpointSpace:
        """Open the space of a model, the same object each time."""
        return self._spaces.setdefault(identity, CheckpointSpace(self.manager, identity))

    def spaces(self) -> list[ModelIdentity]:
        """List the identities used here so far; a manager's names say nothing of others."""
        return list(self._spaces)

    def close(self) -> None:
        """Do nothing: the manager belongs to its owner."""

    def __repr__(self) -> str:
        """Name the class and the manager."""
        return f"{type(self).__name__}({self.manager!r})"


class CheckpointSpace:
    """The entries of one model in a manager, one checkpoint each."""

    def __init__(self, manager: SupportsCheckpoints, identity: ModelIdentity) -> None:
        """Take the manager and the model's identity."""
        self._manager = manager
        self._identity = identity.directory
        self._prefix = f"embedding-{identity.digest[:16]}-"
        self._records = records_for(manager)
        self._dimension: int | None = None
        self._log = OnceLog(logger)

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        """Load entries concurrently; one that is no record of its key is invalid."""
        wanted = list(keys)
        key_matrix(wanted)
        with ThreadPoolExecutor(_THREADS) as threads:
            loaded = list(threads.map(self._load, wanted))
        found = {at: vector for at, vector in enumerate(loaded) if vector is not None and len(vector)}
        invalid = sum(vector is _INVALID for vector in loaded)
        if not found:
            return Hits.none(invalid)
        return Hits(np.fromiter(found, np.intp), narrowed(np.stack([*found.values()])), invalid)

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:  # noqa: ARG002 - the manager decides
        """Save one checkpoint per entry; the first failure is raised when all were tried."""
        wanted = list(keys)
        check_shapes(key_matrix(wanted), vectors)
        check_dimension(self._dimension, vectors, repr(self._manager))
        with ThreadPoolExecutor(_THREADS) as threads:
            saved = [
                threads.submit(self._save, key, vector) for key, vector in zip(wanted, vectors, strict=True)
            ]
        for one in saved:
            one.result()

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Delete entries, if the manager can list and delete."""
        doomed = set(keys)
        delete = getattr(self._manager, "delete_checkpoint", None)
        names = [name for name, key in self._listed() if key in doomed]
        return sum(bool(delete(name)) for name in names) if delete else 0

    def keys(self) -> Iterator[bytes]:
        """Iterate over this model's keys, if the manager can list."""
        return iter([key for _, key in self._listed()])

    def stats(self) -> SpaceStats:
        """Count this model's entries, if the manager can list; the bytes are its own affair."""
        count = len(self._listed())
        return SpaceStats(count, 0, count, self._dimension)

    def _listed(self) -> list[tuple[str, bytes]]:
        """List this model's entries: the manager's name, with or without an ending, and the key."""
        names: list[str] = getattr(self._manager, "list_checkpoints", list)()
        start, end = len(self._prefix), len(self._prefix) + 2 * KEY_BYTES
        mine = (name for name in names if name.startswith(self._prefix))
        return [(name, bytes.fromhex(name[start:end])) for name in mine]

    def _load(self, key: bytes) -> NDArray[np.float64] | None:
        """Load a vector: None when there is none, _INVALID when what is there does not fit."""
        try:
            records = self._manager.load_checkpoint(self._name(key), self._records.model_class)
            if not records:
                return None
            name, identity, vector = self._records.decode(records[0])
        except Exception as error:  # a foreign manager: what it cannot read is a miss
            self._log.report("read", "Could not read an entry from %r: %s", self._manager, describe(error))
            logger.debug("It could not be read because of this", exc_info=error)
            return _INVALID
        if (len(records), name, identity) != (1, key.hex(), self._identity) or not len(vector):
            return _INVALID
        self._dimension = self._dimension or len(vector)
        fits = len(vector) == self._dimension and np.isfinite(vector).all()
        return vector if fits else _INVALID

    def _save(self, key: bytes, vector: Vectors) -> None:
        record = self._records.encode(key.hex(), self._identity, vector)
        self._manager.save_checkpoint(self._name(key), [record])
        self._dimension = len(vector)

    def _name(self, key: bytes) -> str:
        return self._prefix + key.hex()
