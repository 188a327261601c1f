"""DictStore: vectors in a dict of this process, under a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters.protocols import Hits, SpaceStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import Vectors

_SHELVES: dict[str, dict[ModelIdentity, DictSpace]] = {}


class DictStore:
    def __init__(self, shelf: str, *, limit: int | None = None) -> None:
        self.limit = limit
        self._shelf = _SHELVES.setdefault(shelf, {})

    def space(self, identity: ModelIdentity) -> DictSpace:
        return self._shelf.setdefault(identity, DictSpace(self.limit))

    def spaces(self) -> list[ModelIdentity]:
        return [identity for identity, space in self._shelf.items() if space.rows]

    def close(self) -> None:
        pass


class DictSpace:
    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.rows: dict[bytes, Vectors] = {}

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        found = {at: self.rows[key] for at, key in enumerate(keys) if key in self.rows}
        if not found:
            return Hits.none()
        return Hits(np.fromiter(found, np.intp), np.array([*found.values()]))

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:  # noqa: ARG002 - it is RAM
        for key, vector in zip(keys, vectors, strict=True):
            if self.limit is None or len(self.rows) < self.limit:
                self.rows[key] = vector.copy()

    def delete_many(self, keys: Iterable[bytes]) -> int:
        return sum(self.rows.pop(key, None) is not None for key in keys)

    def keys(self) -> Iterator[bytes]:
        return iter([*self.rows])

    def stats(self) -> SpaceStats:
        rows = [*self.rows.values()]
        return SpaceStats(len(rows), sum(row.nbytes for row in rows), 1, len(rows[0]) if rows else None)
