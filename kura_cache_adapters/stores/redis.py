"""RedisStore: vectors on a Redis or Valkey server, or a cluster of them, that many machines share."""

from __future__ import annotations

from datetime import timedelta  # noqa: TC003 - read_options reads annotations
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet, finalize

from kura_cache_adapters._identity.secrets import plain_url
from kura_cache_adapters._runtime.fork import forget_in_child
from kura_cache_adapters._runtime.threads import LONGEST
from kura_cache_adapters._segments.bounds import Bounds
from kura_cache_adapters.checks import KEY_BYTES
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.stores import redis_clients as clients
from kura_cache_adapters.stores.key_value import KeyValueSpace
from kura_cache_adapters.stores.signing import codec_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kura_cache_adapters.stores.key_value import Codec

_LISTED = 10_000  # keys that a server looks at in one step of a listing
_TOGETHER = 2  # commands that are sent before the first answer is read
_SAMPLE = b":sample"  # behind a space's name: the key of an entry, which tells the dimension
_GLOB = str.maketrans({sign: f"\\{sign}" for sign in "*?[]\\"})
_SET_ALL = "for at, key in ipairs(KEYS) do redis.call('SET', key, ARGV[at], 'PX', ARGV[#ARGV]) end"
_AGES = (
    "Its server drops what is old: open it with ttl=, or give the server a maxmemory and a policy such as "
    "allkeys-lru. Or `forget` keys, or `rm` the space."
)

_open: WeakSet[RedisStore] = WeakSet()
_inherited: list[object] = []


class RedisStore:
    """Keep vectors on a server that speaks Redis's protocol, alone or as a cluster."""

    remote: ClassVar[bool] = True
    takes_url: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913 - where it is, what is kept there, and how it is asked
        self,
        url_or_client: Any,  # noqa: ANN401 - a class of redis, which need not be installed
        *,
        prefix: str = "kura",
        ttl: timedelta | float | None = None,
        batch: int = 256,
        sign: str | bytes | None = None,
        cluster: bool = False,
        timeout: float = 1.0,
    ) -> None:
        """Name the server, or take a client of it; nothing is asked yet.

        Args:
            url_or_client: `redis://user:password@host:6379/0`, `rediss://...` with TLS or `unix://...`, with
                options of redis-py behind a `?`; or a `redis.Redis` or `redis.RedisCluster`, which stays its
                owner's: it is not closed here, and a store with it cannot be pickled.
            prefix: what the names of all keys on the server begin with.
            ttl: seconds or a timedelta after its writing when the server drops an entry; None leaves that
                to the server's own policy.
            batch: the keys of one command.
            sign: at least 16 bytes by which entries are signed: who may write there and has not got them
                cannot make a vector that is read here.
            cluster: the URL is that of a node of a cluster.
            timeout: seconds for a connection, and for each answer of one; nothing is tried twice.

        Raises:
            MissingExtraError: `redis` is not installed.
            TypeError: neither a URL nor a synchronous client of redis-py; a secret neither str nor bytes.
            ValueError: an address or option that redis-py does not know, a client that decodes what it reads,
                a number that is not positive, an endless time, a secret below 16 bytes.

        """
        self.ttl: float | None = Bounds.of_store(max_bytes=None, ttl=ttl).older_than
        if batch < 1 or not 0 < timeout < LONGEST or (self.ttl or 1) >= LONGEST:
            message = f"{batch=} and {timeout=} must be positive, and {timeout=} and {ttl=} not endless"
            raise ValueError(message)
        self._options: dict[str, Any] = {
            "prefix": prefix,
            "ttl": ttl,
            "batch": batch,
            "sign": sign,
            "cluster": cluster,
            "timeout": timeout,
        }
        self.prefix = prefix
        self.batch = batch
        self.timeout = timeout
        self.codec: Codec[bytes] = codec_for(sign)
        self._url = url_or_client if isinstance(url_or_client, str) else None
        self._client = None if self._url is not None else clients.checked(url_or_client)
        if self._url is not None:
            clients.check_url(self._url)
        self._spaces: dict[ModelIdentity, RedisSpace] = {}

    @property
    def client(self) -> Any:  # noqa: ANN401 - a class of redis
        """The client: the one that was passed in, or one of its own, made when it is needed."""
        client = self._client
        if client is None:  # two threads may make one each: the store keeps one, and closes both in the end
            client = self._client = clients.connected(self._url, **self._options)
            self._closing = finalize(self, client.close)
            _open.add(self)
        return client

    def leave_client(self) -> None:
        """Leave a client to the process that has forked: a thread of its may hold a lock for ever here."""
        if self._url is not None and self._client is not None:
            self._closing.detach()
            _inherited.append(self._client)  # ... also for whoever would collect it
            self._client = None

    @property
    def clustered(self) -> bool:
        """Whether keys that are asked for at once may be on several servers."""
        return hasattr(self.client, "mget_nonatomic")

    def space(self, identity: ModelIdentity) -> RedisSpace:
        """Open the space of a model, the same object each time; the server is not asked."""
        if identity not in self._spaces:
            self._spaces.setdefault(identity, RedisSpace(self, identity))
        return self._spaces[identity]

    def spaces(self) -> list[ModelIdentity]:
        """List the identities that were written here and not removed; what they held may have expired."""
        with clients.told(self):
            noted = self.client.hgetall(self.noted)
        read = (_identity(name, noted[name]) for name in sorted(noted) if not name.endswith(_SAMPLE))
        return [identity for identity in read if identity is not None]

    @property
    def noted(self) -> str:
        """The name of the hash with the identities of all spaces."""
        return f"{self.prefix}:spaces"

    def close(self) -> None:
        """Close the connections, unless the client was passed in; the next use opens them again."""
        if self._url is not None and self._client is not None:
            self._client = None
            self._closing()

    def __repr__(self) -> str:
        """Name the class, the server and the prefix, without passwords."""
        where = type(self._client).__name__ if self._url is None else plain_url(self._url)
        return f"{type(self).__name__}({where!r}, prefix={self.prefix!r})"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the URL, with what is in it, and the options; a client that was passed in is refused."""
        if self._url is None:
            message = f"{self!r} cannot be pickled with a client: open it by URL"
            raise TypeError(message)
        return partial(type(self), **self._options), (self._url,)


class RedisSpace(KeyValueSpace[bytes]):
    """The vectors of one model on a server, one value per key."""

    evicts = _AGES

    def __init__(self, store: RedisStore, identity: ModelIdentity) -> None:
        """Name the model; nothing is asked yet."""
        super().__init__(
            self._read_values,
            self._write_values,
            self._unlink,
            keys=self._listed,
            sample=self._noted_key,
            codec=store.codec,
            where=store,
        )
        self._store = store
        self._name = identity.digest[:16].encode()
        self._identity = identity.to_json()
        self._start = f"{store.prefix}:".encode() + self._name + b":"

    def unlist(self) -> None:
        """Take a space without entries off the list; what was written meanwhile lists it again."""
        with clients.told(self._store):
            self._store.client.hdel(self._store.noted, self._name, self._name + _SAMPLE)
            if left := next(self._listed(), None):
                self._store.client.hset(self._store.noted, mapping=self._note(left))

    def _read_values(self, keys: list[bytes]) -> Iterable[bytes | None]:
        return chain.from_iterable(self._answers(self._batches(keys)))

    def _answers(self, batches: Iterator[list[bytes]]) -> Iterator[list[bytes | None]]:
        with clients.told(self._store):
            yield from map(self._of_cluster, batches) if self._store.clustered else self._pipelined(batches)

    def _of_cluster(self, names: list[bytes]) -> list[bytes | None]:
        found = clients.of_each(self._pipeline(), "MGET", names)  # which has no error for what is no string
        return [value for (value,) in found]

    def _pipeline(self) -> Any:  # noqa: ANN401 - a class of redis
        client = self._store.client
        return clients.of_cluster(client, self._store.timeout) if self._store.clustered else client.pipeline()

    def _pipelined(self, batches: Iterator[list[bytes]]) -> Iterator[list[bytes | None]]:
        """Read a few batches in one round trip, when wanted: the server goes on meanwhile."""
        client = self._store.client
        while together := [*islice(batches, _TOGETHER)]:
            if len(together) == 1:
                yield client.mget(together[0])
                continue
            with client.pipeline(transaction=False) as pipeline:
                for names in together:
                    pipeline.mget(names)
                yield from pipeline.execute()

    def _write_values(self, entries: dict[bytes, bytes]) -> None:
        keys = list(entries)
        with clients.told(self._store):
            for names in self._batches(keys):
                own = [name[len(self._start) :] for name in names]
                self._write_batch(names, [entries[key] for key in own], self._note(own[0]))

    def _write_batch(self, names: list[bytes], values: list[bytes], note: dict[bytes, bytes | str]) -> None:
        """Write a batch, and whose it is: as one, but for a cluster, where each server has its part of it."""
        ttl = None if self._store.ttl is None else max(1, int(1000 * self._store.ttl))
        with self._pipeline() as pipeline:
            pipeline.hset(self._store.noted, mapping=note)
            if self._store.clustered:
                for name, value in zip(names, values, strict=True):
                    pipeline.set(name, value, px=ttl)
            elif ttl is None:
                pipeline.mset(dict(zip(names, values, strict=True)))
            else:
                pipeline.eval(_SET_ALL, len(names), *names, *values, ttl)
            pipeline.execute()

    def _unlink(self, keys: list[bytes]) -> int:
        with clients.told(self._store):
            if self._store.clustered:
                unlinked = (clients.of_each(self._pipeline(), "UNLINK", each) for each in self._batches(keys))
                return sum(map(sum, unlinked))
            return sum(self._store.client.unlink(*names) for names in self._batches(keys))

    def _listed(self) -> Iterator[bytes]:
        pattern = f"{self._store.prefix.translate(_GLOB)}:".encode() + self._name + b":*"
        with clients.told(self._store):
            names = self._store.client.scan_iter(match=pattern, count=_LISTED)
            own = len(self._start) + KEY_BYTES
            yield from (name[len(self._start) :] for name in names if len(name) == own)

    def _noted_key(self) -> list[bytes]:
        with clients.told(self._store):
            key = self._store.client.hget(self._store.noted, self._name + _SAMPLE)
        return [key] if key is not None and len(key) == KEY_BYTES else []

    def _note(self, key: bytes) -> dict[bytes, bytes | str]:
        """Say whose space it is, with the key of an entry: written with each batch, it outlives a flush."""
        return {self._name: self._identity, self._name + _SAMPLE: key}

    def _batches(self, keys: list[bytes]) -> Iterator[list[bytes]]:
        for at in range(0, len(keys), self._store.batch):
            yield [self._start + key for key in keys[at : at + self._store.batch]]


def _start_anew() -> None:
    for store in list(_open):
        store.leave_client()


forget_in_child(_start_anew)


def _identity(name: bytes, text: bytes) -> ModelIdentity | None:
    """Read an identity that tells the truth about its space; None for anything else."""
    try:
        identity = ModelIdentity.from_json(text)
    except ValueError:
        return None
    return identity if identity.digest[:16].encode() == name else None
