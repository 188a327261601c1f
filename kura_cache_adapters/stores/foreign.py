"""Key-value stores of other frameworks: how those of each kind are asked for entries by name."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Protocol

from kura_cache_adapters._runtime.loop import run
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters.errors import KuraCacheError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

NOTE = "_identity"
"""The name beside the entries of a model under which it is said whose they are, and one of their keys."""
KEY = re.compile(r"[0-9a-f]{64}")
"""The names of entries."""
_FIELD = "entry"  # the one field of a value that must be a dict


class Place(Protocol):
    """How entries are called in a store of one kind: by the name of their space, and their own."""

    def read(self, space: str, names: list[str], /) -> Sequence[bytes | Exception | None]:
        """Return one value per name: None where there is none, an exception for what is none of ours."""

    def write(self, space: str, values: Mapping[str, bytes], /) -> None:
        """Keep values by name: entries, or a note alone."""

    def delete(self, space: str, names: list[str], /) -> None:
        """Delete entries, or the note."""

    def names(self, space: str, /) -> Iterable[str]:
        """List what is in a space."""

    def spaces(self) -> list[str]:
        """List the spaces that may have entries."""


class Bytes:
    """A `BaseStore[str, bytes]`: each key is a path, which those in directories and buckets take too."""

    def __init__(self, store: Any, namespace: str) -> None:  # noqa: ANN401 - asked by whichever of its methods work
        self._store, self._root = store, f"{namespace}/"

    def read(self, space: str, names: list[str], /) -> list[bytes | Exception | None]:
        """Ask for all at once."""
        return [_as_bytes(value) for value in _asked(self._store, "mget", self._paths(space, names))]

    def write(self, space: str, values: Mapping[str, bytes], /) -> None:
        """Write all at once."""
        _asked(self._store, "mset", [*zip(self._paths(space, values), values.values(), strict=True)])

    def delete(self, space: str, names: list[str], /) -> None:
        """Delete all at once."""
        _asked(self._store, "mdelete", self._paths(space, names))

    def names(self, space: str, /) -> Iterator[str]:
        """List the whole store, and leave out other spaces."""
        return (name for of, name in self._listed() if of == space)

    def spaces(self) -> list[str]:
        """List the whole store."""
        return [*dict.fromkeys(space for space, name in self._listed() if KEY.fullmatch(name))]

    def _paths(self, space: str, names: Iterable[str]) -> list[str]:
        return [f"{self._root}{space}/{name}" for name in names]

    def _listed(self) -> Iterator[tuple[str, str]]:
        """Yield space and name of each entry: without `prefix=`, by which each store means something else."""
        for path in self._everything():
            space, slash, name = path[len(self._root) :].rpartition("/")
            if slash and path.startswith(self._root):
                yield space, name

    def _everything(self) -> list[str]:
        try:
            return [*self._store.yield_keys()]
        except NotImplementedError:
            return run(self._awaited())

    async def _awaited(self) -> list[str]:
        return [path async for path in self._store.ayield_keys()]


class Dicts:
    """A `BaseKVStore`: a collection for each model, and one with the notes of them all."""

    def __init__(self, store: Any, namespace: str) -> None:  # noqa: ANN401 - asked by whichever of its methods work
        self._store, self._root = store, namespace
        self._batches = not store.put_all.__module__.startswith("llama_index.core.")

    def read(self, space: str, names: list[str], /) -> list[bytes | Exception | None]:
        """Ask for one after the other: there is no other way."""
        return [self._read(*self._at(space, name)) for name in names]

    def write(self, space: str, values: Mapping[str, bytes], /) -> None:
        """Write all at once where the store has a way."""
        collection, _ = self._at(space, next(iter(values)))
        said = [(self._at(space, name)[1], {_FIELD: b64encode(values[name]).decode()}) for name in values]
        size = len(said) if self._batches else 1
        _asked(self._store, "put_all", said, collection=collection, batch_size=size)

    def delete(self, space: str, names: list[str], /) -> None:
        """Delete one after the other."""
        for collection, key in (self._at(space, name) for name in names):
            _asked(self._store, "delete", key, collection=collection)

    def names(self, space: str, /) -> Iterable[str]:
        """Read all of a collection."""
        return [*_asked(self._store, "get_all", collection=self._at(space, "")[0])]

    def spaces(self) -> list[str]:
        """List the notes."""
        return [*_asked(self._store, "get_all", collection=self._root)]

    def _at(self, space: str, name: str) -> tuple[str, str]:
        """Return the collection and the key of an entry; without the readable part, which not all take."""
        return (self._root, space) if name == NOTE else (f"{self._root}-{space[-16:]}", name)

    def _read(self, collection: str, key: str) -> bytes | Exception | None:
        try:
            value = _asked(self._store, "get", key, collection=collection)
            return None if value is None else b64decode(value[_FIELD], validate=True)
        except (ValueError, TypeError, LookupError) as error:  # it is there, and is none of ours
            pass_on_signals(error)
            return error


def _asked(store: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of either kind
    """Call a method, or its async twin where only that is there; both frameworks call it by an `a` more."""
    try:
        return getattr(store, name)(*args, **kwargs)
    except NotImplementedError:
        return run(getattr(store, f"a{name}")(*args, **kwargs))


def _as_bytes(value: object) -> bytes | Exception | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    return KuraCacheError(f"the value is a {type(value).__name__}, not bytes")
