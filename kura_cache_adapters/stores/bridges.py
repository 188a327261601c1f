"""KeyValueStore: the vectors of all models in a key-value store of LangChain's or LlamaIndex's kind."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._observe.log import OnceLog
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.protocols import KeepsBytes, KeepsDicts
from kura_cache_adapters.receipts import Forgotten, Trouble
from kura_cache_adapters.stores.foreign import KEY, NOTE, Bytes, Dicts
from kura_cache_adapters.stores.key_value import KeyValueSpace
from kura_cache_adapters.stores.signing import codec_for

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from kura_cache_adapters.stores.foreign import Place
    from kura_cache_adapters.stores.key_value import Codec

_NAMESPACE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
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
        self.volatile: bool = any(kind.__name__ in _IN_MEMORY for kind in type(store).__mro__)
        self.codec: Codec[bytes] = codec_for(sign)
        self._sign = sign
        self._place: Place = (Bytes if isinstance(store, KeepsBytes) else Dicts)(store, namespace)
        self._spaces: dict[ModelIdentity, KeptSpace] = {}
        self._log = OnceLog(_logger)

    def space(self, identity: ModelIdentity) -> KeptSpace:
        """Open the space of a model, the same object each time."""
        if identity not in self._spaces:
            self._spaces.setdefault(identity, self._entries(identity.directory).space(identity, self))
        return self._spaces[identity]

    def spaces(self) -> list[ModelIdentity]:
        """List the identities that have entries here, as the notes beside the entries say."""
        whose = self._whose()
        for name in (name for name, identity in whose.items() if identity is None):
            self._log.report(name, _UNNOTED, self, name)
        return [identity for identity in whose.values() if identity is not None]

    def unlisted(self) -> list[str]:
        """Name the spaces that have entries, and no note that says whose."""
        return [name for name, identity in self._whose().items() if identity is None]

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
        opened = partial(type(self), namespace=self.namespace, batch=self.batch, sign=self._sign)
        return opened, (self.store,)

    def __repr__(self) -> str:
        """Name the class of the store, which may show a password in its own repr, and the namespace."""
        return f"{type(self).__name__}({type(self.store).__name__}, namespace={self.namespace!r})"

    def _whose(self) -> dict[str, ModelIdentity | None]:
        return {name: self._entries(name).identity() for name in self._place.spaces()}

    def _entries(self, name: str) -> _Entries:
        return _Entries(self._place, name, self.batch)


class KeptSpace(KeyValueSpace[bytes]):
    """The vectors of one model in a store of another make."""

    volatile: bool = False
    evicts = (
        "What is old or too much is for its store's own rules, such as a ttl=. Or `forget` keys, or `rm` the "
        "space."
    )


class _Entries:
    """The entries of one model, and the note beside them, in calls of a limited size."""

    def __init__(self, place: Place, name: str, batch: int) -> None:
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
        space.volatile = where.volatile
        return space

    def read_many(self, keys: list[bytes]) -> list[bytes | Exception | None]:
        found = {
            key: value
            for some in self._batches([*dict.fromkeys(keys)])  # DynamoDB takes none twice
            for key, value in zip(some, self._place.read(self._name, [*map(bytes.hex, some)]), strict=True)
        }
        return [found[key] for key in keys]

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
        read = ((some, self.read_many(some)) for some in self._batches(keys))  # values of one batch at a time
        return [key for some in read for key, value in zip(*some, strict=True) if value is not None]

    def keys(self) -> list[bytes]:
        return [bytes.fromhex(name) for name in self._place.names(self._name) if KEY.fullmatch(name)]

    def sample(self) -> list[bytes]:
        """Return the key in the note, if there is one."""
        name = str(self._noted().get("key"))
        return [bytes.fromhex(name)] if KEY.fullmatch(name) else []

    def identity(self) -> ModelIdentity | None:
        """Return whose entries these are; None where no note tells."""
        try:
            identity = ModelIdentity.from_json(json.dumps(self._noted()))
        except ValueError:
            return None
        return identity if identity.directory == self._name else None

    def _noted(self) -> dict[str, Any]:
        (value,) = self._place.read(self._name, [NOTE])
        try:
            note = json.loads(value) if isinstance(value, bytes) else None
        except (ValueError, RecursionError):
            note = None
        return note if isinstance(note, dict) else {}

    def _note(self, identity: Mapping[str, Any], key: bytes) -> None:
        self._place.write(self._name, {NOTE: json.dumps({**identity, "key": key.hex()}).encode()})

    def _note_another(self) -> None:
        if left := self.keys():
            self._note(self._noted(), left[0])
        else:
            self._place.delete(self._name, [NOTE])

    def _batches(self, keys: list[bytes]) -> Iterator[list[bytes]]:
        return (keys[at : at + self._batch] for at in range(0, len(keys), self._batch))
