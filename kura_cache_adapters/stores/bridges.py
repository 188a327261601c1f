"""KeyValueStore: the vectors of all models in a key-value store of LangChain's or LlamaIndex's kind."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Protocol

from kura_cache_adapters._observe.log import OnceLog
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.loop import run
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.protocols import KeepsBytes, KeepsDicts
from kura_cache_adapters.receipts import Forgotten, Trouble
from kura_cache_adapters.stores.key_value import KeyValueSpace
from kura_cache_adapters.stores.signing import codec_for

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from kura_cache_adapters.stores.key_value import Codec

_NOTE = "_identity"
"""The name beside the vectors of a model under which it is said whose they are, and one of their keys."""
_FIELD = "entry"
"""The one field of a value that must be a dict."""
_NAMESPACE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_KEY = re.compile(r"[0-9a-f]{64}")
_IN_MEMORY = {"InMemoryBaseStore", "InMemoryByteStore", "InMemoryStore", "SimpleKVStore"}

_UNNOTED = "%r has entries below %s, and no note says whose: they are not listed until one more is stored"
_LEFT = "it has not deleted {} of the keys"

_logger = logger_of("store")


class KeyValueStore:
    """Keep vectors in a key-value store: a LangChain `BaseStore[str, bytes]`, or a LlamaIndex `BaseKVStore`.

    Nothing of either framework is imported: what has their methods will do. Listing what is there, as
    `spaces()`, `keys()` and counting need it, costs a listing of the whole store in LangChain's, and a
    read of all values of a model in LlamaIndex's, which have no other way; look-ups and writes do neither.
    """

    def __init__(
        self,
        store: KeepsBytes | KeepsDicts,
        *,
        namespace: str = "kura-cache",
        batch: int = 256,
        sign: str | bytes | None = None,
    ) -> None:
        """Take a store, which stays its owner's: it is never closed here. Nothing is read yet.

        One whose sync methods raise NotImplementedError is asked by its async ones, on this package's loop.

        Args:
            store: where the entries are kept.
            namespace: what all keys begin with in LangChain's, and all collections in LlamaIndex's.
            batch: the most keys in one call of it.
            sign: at least 16 bytes by which entries are signed: who may write there and has not got them
                cannot make a vector that is read here.

        Raises:
            TypeError: it has the methods of neither; a secret neither str nor bytes.
            ValueError: a namespace of other characters than letters, digits, `.`, `_` and `-`, or one
                that begins with a dot; a batch below 1; a secret below 16 bytes.

        """
        if not isinstance(store, (KeepsBytes, KeepsDicts)):
            name = type(store).__name__
            message = f"{name} is neither a BaseStore of LangChain nor a BaseKVStore of LlamaIndex"
            raise TypeError(message)
        if not _NAMESPACE.fullmatch(namespace):
            message = f"a namespace is of letters, digits, '.', '_' and '-', not {namespace!r}"
            raise ValueError(message)
        if batch < 1:
            message = f"batch must be at least 1, not {batch}"
            raise ValueError(message)
        self.store: KeepsBytes | KeepsDicts = store
        self.namespace: str = namespace
        self.batch: int = batch
        self.codec: Codec[bytes] = codec_for(sign)
        self._sign = sign
        self._place: _Place = (_Bytes if isinstance(store, KeepsBytes) else _Dicts)(store, namespace)
        self._spaces: dict[ModelIdentity, KeptSpace] = {}
        self._log = OnceLog(_logger)

    def space(self, identity: ModelIdentity) -> KeptSpace:
        """Open the space of a model, the same object each time."""
        if identity not in self._spaces:
            self._spaces.setdefault(identity, self._entries(identity.directory).space(identity, self))
        return self._spaces[identity]

    def spaces(self) -> list[ModelIdentity]:
        """List the identities that have entries here, as the notes beside the entries say."""
        whose = {name: self._entries(name).identity() for name in self._place.spaces()}
        for name in (name for name, identity in whose.items() if identity is None):
            self._log.report(name, _UNNOTED, self, name)
        return [identity for identity in whose.values() if identity is not None]

    def forget(
        self,
        keys: Sequence[bytes],
        *,
        days: float,  # noqa: ARG002 - such stores keep no tombstones
        within: Collection[ModelIdentity] | None,
    ) -> list[Forgotten]:
        """Delete keys in the spaces of some models, or in all, also where no note says whose they are."""
        names = self._place.spaces() if within is None else [each.directory for each in within]
        return [self._forgotten(name, [*dict.fromkeys(keys)]) for name in dict.fromkeys(names)]

    def _forgotten(self, name: str, keys: list[bytes]) -> Forgotten:
        entries = self._entries(name)
        there = entries.present(keys)
        entries.delete_many(there)
        left = entries.present(there)
        troubles = (Trouble(repr(self), _LEFT.format(len(left))),) if left else ()
        return Forgotten("", name, tuple(sorted(key.hex() for key in there)), unreachable=troubles)

    def close(self) -> None:
        """Do nothing: the store belongs to its owner."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the store, never what is open."""
        options = {"namespace": self.namespace, "batch": self.batch, "sign": self._sign}
        return _again, (type(self), self.store, options)

    def __repr__(self) -> str:
        """Name the class of the store, which may show a password in its own repr, and the namespace."""
        return f"{type(self).__name__}({type(self.store).__name__}, namespace={self.namespace!r})"

    def _entries(self, name: str) -> _Entries:
        return _Entries(self._place, name, self.batch)


def _again(kind: type[KeyValueStore], store: KeepsBytes, options: dict[str, Any]) -> KeyValueStore:
    return kind(store, **options)


class KeptSpace(KeyValueSpace[bytes]):
    """The vectors of one model in a store of another make."""

    evicts = "Its store drops what is old or too much by rules of its own, if it has any (a ttl=, a policy)."


class _Entries:
    """The entries of one model, and the note beside them, in calls of a limited size."""

    def __init__(self, place: _Place, name: str, batch: int) -> None:
        self._place, self._name, self._batch = place, name, batch

    def space(self, identity: ModelIdentity, where: KeyValueStore) -> KeptSpace:
        self._identity = json.loads(identity.to_json())
        space = KeptSpace(
            self.read_many,
            self.write_many,
            self.delete_many,
            codec=where.codec,
            where=where,
            keys=self.keys,
            sample=self.sample,
        )
        space.volatile = any(kind.__name__ in _IN_MEMORY for kind in type(where.store).__mro__)
        return space

    def read_many(self, keys: list[bytes]) -> list[bytes | Exception | None]:
        return [
            value
            for some in self._batches(keys)
            for _, value in zip(some, self._place.read(self._name, [*map(bytes.hex, some)]), strict=True)
        ]

    def write_many(self, values: Mapping[bytes, bytes]) -> None:
        """Write the note first, each time: it outlives them where entries expire."""
        self._note(self._identity, next(iter(values)))
        for some in self._batches([*values]):
            self._place.write(self._name, {key.hex(): values[key] for key in some})

    def delete_many(self, keys: list[bytes]) -> int:
        """Delete keys; the note goes with the last of them, and never names one that is gone."""
        there = self.present(keys)
        for some in self._batches(there):
            self._place.delete(self._name, [*map(bytes.hex, some)])
        if not {*there}.isdisjoint(self.sample()):
            self._note_another()
        return len(there)

    def present(self, keys: list[bytes]) -> list[bytes]:
        return [key for key, value in zip(keys, self.read_many(keys), strict=True) if value is not None]

    def keys(self) -> list[bytes]:
        return [bytes.fromhex(name) for name in self._place.names(self._name) if _KEY.fullmatch(name)]

    def sample(self) -> list[bytes]:
        """Return the key in the note, if there is one."""
        name = str(self._noted().get("key"))
        return [bytes.fromhex(name)] if _KEY.fullmatch(name) else []

    def identity(self) -> ModelIdentity | None:
        """Return whose entries these are; None where no note tells."""
        try:
            identity = ModelIdentity.from_json(json.dumps(self._noted()))
        except ValueError:
            return None
        return identity if identity.directory == self._name else None

    def _noted(self) -> dict[str, Any]:
        (value,) = self._place.read(self._name, [_NOTE])
        try:
            note = json.loads(value) if isinstance(value, bytes) else None
        except (ValueError, RecursionError):
            note = None
        return note if isinstance(note, dict) else {}

    def _note(self, identity: Mapping[str, Any], key: bytes) -> None:
        self._place.write(self._name, {_NOTE: json.dumps({**identity, "key": key.hex()}).encode()})

    def _note_another(self) -> None:
        if left := self.keys():
            self._note(self._noted(), left[0])
        else:
            self._place.delete(self._name, [_NOTE])

    def _batches(self, keys: list[bytes]) -> Iterator[list[bytes]]:
        return (keys[at : at + self._batch] for at in range(0, len(keys), self._batch))


class _Place(Protocol):
    """How entries are called in a store of one kind: by the name of their space, and their own."""

    def read(self, space: str, names: list[str], /) -> Sequence[bytes | Exception | None]: ...
    def write(self, space: str, values: Mapping[str, bytes], /) -> None: ...
    def delete(self, space: str, names: list[str], /) -> None: ...
    def names(self, space: str, /) -> Iterable[str]: ...
    def spaces(self) -> list[str]: ...


class _Bytes:
    """A `BaseStore[str, bytes]`: each key is a path, which those in directories and buckets take too."""

    def __init__(self, store: Any, namespace: str) -> None:  # noqa: ANN401 - asked by whichever of its methods work
        self._store, self._root = store, f"{namespace}/"

    def read(self, space: str, names: list[str], /) -> list[bytes | Exception | None]:
        return [_as_bytes(value) for value in _asked(self._store, "mget", self._paths(space, names))]

    def write(self, space: str, values: Mapping[str, bytes], /) -> None:
        _asked(self._store, "mset", [*zip(self._paths(space, values), values.values(), strict=True)])

    def delete(self, space: str, names: list[str], /) -> None:
        _asked(self._store, "mdelete", self._paths(space, names))

    def names(self, space: str, /) -> Iterator[str]:
        return (name for of, name in self._listed() if of == space)

    def spaces(self) -> list[str]:
        return [*dict.fromkeys(space for space, name in self._listed() if _KEY.fullmatch(name))]

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


class _Dicts:
    """A `BaseKVStore`: a collection for each model, and one with the notes of them all."""

    def __init__(self, store: Any, namespace: str) -> None:  # noqa: ANN401 - asked by whichever of its methods work
        self._store, self._root = store, namespace
        self._batches = not store.put_all.__module__.startswith("llama_index.core.")

    def read(self, space: str, names: list[str], /) -> list[bytes | Exception | None]:
        return [self._read(*self._at(space, name)) for name in names]

    def write(self, space: str, values: Mapping[str, bytes], /) -> None:
        collection, _ = self._at(space, next(iter(values)))
        said = [(self._at(space, name)[1], {_FIELD: b64encode(values[name]).decode()}) for name in values]
        size = len(said) if self._batches else 1
        _asked(self._store, "put_all", said, collection=collection, batch_size=size)

    def delete(self, space: str, names: list[str], /) -> None:
        for collection, key in (self._at(space, name) for name in names):
            _asked(self._store, "delete", key, collection=collection)

    def names(self, space: str, /) -> Iterable[str]:
        return [*_asked(self._store, "get_all", collection=self._at(space, "")[0])]

    def spaces(self) -> list[str]:
        return [*_asked(self._store, "get_all", collection=self._root)]

    def _at(self, space: str, name: str) -> tuple[str, str]:
        """Return the collection and the key of an entry; without the readable part, which not all take."""
        return (self._root, space) if name == _NOTE else (f"{self._root}-{space[-16:]}", name)

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
    return ValueError(f"the value is a {type(value).__name__}, not bytes")
