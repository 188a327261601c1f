"""Measure a text's cost on a Redis server, beside others' caches there: `python -m tests.benchmarks.servers`.

All are on one server of the benchmark's own, on loopback, and take turns. The floor is a bare MGET of the
vectors' bytes, 256 keys at a time, made a matrix.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import numpy as np
import redis

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    CallableEmbeddingModel,
    RedisStore,
    TieredStore,
)
from kura_cache_adapters._identity.keys import text_keys
from kura_cache_adapters.identity import ModelIdentity
from tests import peers
from tests.benchmarks.timing import FLOOR, Work, measured, timed
from tests.servers import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kura_cache_adapters.protocols import EmbeddingStore
    from tests.benchmarks.timing import Contestants, Row

    Call = Callable[[], Any]
    Calls = dict[str, Call]

BATCH = 256
ROUNDS = 5
STORE, OFTEN = "hits of the store", 5
SECRET = bytes(32)


class RedisVL(peers.RedisVL):
    """`EmbeddingsCache` on the benchmark's server."""

    url = ""

    def open(self, embed: peers.Embed, model_name: str, **parameters: Any) -> None:
        from redisvl.extensions.cache.embeddings import EmbeddingsCache

        self.store = EmbeddingsCache(name=token_hex(4), redis_url=self.url)
        self.embed, self.model_name = embed, model_name
        assert parameters is not None  # there is no place for them


class LangChain(peers.LangChainFiles):
    """`CacheBackedEmbeddings` over a `RedisStore`, with the model as namespace."""

    name = "LangChain CacheBackedEmbeddings, RedisStore"
    url = ""

    def store(self) -> Any:
        from langchain_community.storage import RedisStore as LangChainsStore

        return LangChainsStore(redis_url=self.url, namespace=token_hex(4))


class Server:
    """A server, emptied, and who stores the vectors of a work there."""

    def __init__(self, url: str, work: Work) -> None:
        self.url, self.work = url, work
        self.client = redis.Redis.from_url(url)
        self.keys = text_keys(ModelIdentity.of("bare").head("document"), work.texts)
        self.vectors = work.matrix[work.at]

    def names(self) -> Iterator[list[bytes]]:
        """Yield the names of the floor's keys, as many as it asks for at once."""
        for at in range(0, self.work.count, BATCH):
            yield [b"bare:" + key for key in self.keys[at : at + BATCH]]

    def bare_fill(self) -> None:
        """Write all vectors by MSET."""
        for at, names in enumerate(self.names()):
            rows = self.vectors[at * BATCH :]
            self.client.mset({name: row.tobytes() for name, row in zip(names, rows, strict=False)})

    def bare_hits(self) -> Any:
        """Read all vectors by MGET."""
        client: Any = self.client
        read = [b"".join(client.mget(names)) for names in self.names()]
        return np.concatenate([np.frombuffer(each, "f4").reshape(-1, self.work.dimension) for each in read])

    def bare_lists(self) -> Any:
        """Hash all texts, read their vectors by MGET, and make lists of them."""
        self.work.hash(self.work.texts)
        return self.bare_hits().tolist()

    def space(self, **options: Any) -> Any:
        """Open a new space on the server."""
        return RedisStore(self.url, prefix=token_hex(4), **options).space(ModelIdentity.of("bare"))

    def cached(self, store: EmbeddingStore | None = None) -> CachedEmbeddingModel:
        """Put a model that answers at once over a store, or a new one on the server."""
        model = CallableEmbeddingModel(lambda texts: self.work.arrays(texts, ""), model_name="instant")
        return CachedEmbeddingModel(model, store or RedisStore(self.url, prefix=token_hex(4)))

    def peers(self) -> Iterator[peers.System]:
        """Open those of others that are installed."""
        for kind in (RedisVL, LangChain):
            kind.url = self.url
            system = kind(Path())
            system.open(self.work.lists, "instant")
            yield system


def hits(server: Server) -> Iterator[tuple[str, Contestants]]:
    """Fill everyone, and yield who takes part in each path."""
    texts, stores = server.work.texts, {"ours": server.space(), "ours, signed": server.space(sign=SECRET)}
    server.bare_fill()
    for space in stores.values():
        space.put_many(server.keys, server.vectors)
    calls: Calls = {name: partial(space.get_many, server.keys) for name, space in stores.items()}
    yield STORE, against(calls, server.bare_hits)
    cached, others = server.cached(), [*server.peers()]
    for embed in (cached.embed_sync, *(each.documents for each in others)):
        embed(texts)
    ours: Calls = {
        "ours": partial(cached.embed_sync, texts),
        "ours, as an array": partial(cached.embed_array_sync, texts),
    }
    yield "hits of the cache", against({**ours, **_documents(others, texts)}, server.bare_lists)


def fills(server: Server) -> Iterator[tuple[str, Contestants]]:
    """Yield who takes part in the writing of everything, each into nothing."""
    texts, empty = server.work.texts, server.client.flushall

    def put(**options: Any) -> None:
        server.space(**options).put_many(server.keys, server.vectors)

    stores: Calls = {
        "ours": put,
        "ours, with a TTL": partial(put, ttl=3600),
        "ours, signed": partial(put, sign=SECRET),
    }
    yield "fill of the store", against(stores, server.bare_fill, before=empty)
    ours: Calls = {"ours": lambda: server.cached().embed_sync(texts)}
    others = _documents([*server.peers()], texts)
    yield "fill of the cache", against({**ours, **others}, server.bare_fill, before=empty)


def machines(server: Server, directory: Path) -> Iterator[tuple[str, Contestants]]:
    """Yield a new machine's first run over a directory and the server that has everything, and its second."""
    texts, shared = server.work.texts, RedisStore(server.url)
    server.bare_fill()
    server.cached(shared).embed_sync(texts)

    def new() -> CachedEmbeddingModel:
        return server.cached(TieredStore(ArrowStore(directory / token_hex(4)), shared))

    old = new()
    old.embed_array_sync(texts)
    runs: Calls = {
        "a new machine's first run": lambda: new().embed_array_sync(texts),
        "its second": partial(old.embed_array_sync, texts),
    }
    yield "a directory in front, as an array", against(runs, server.bare_hits)


def _documents(systems: list[peers.System], texts: list[str]) -> Calls:
    return {each.name: partial(each.documents, texts) for each in systems}


def against(calls: Calls, floor: Call, *, before: Call = tuple) -> Contestants:
    """Return contestants: the seconds of calls, without what is called before each."""
    return {name: partial(_seconds, call, before) for name, call in {FLOOR: floor, **calls}.items()}


def _seconds(call: Call, before: Call) -> float:
    before()
    return timed(call)


def measure(count: int, dimension: int, *, rounds: int = ROUNDS) -> list[Row]:
    """Measure all paths at a size."""
    rows: list[Row] = []
    with redis_server() as process, tempfile.TemporaryDirectory() as directory:
        server = Server(f"redis://127.0.0.1:{process.port}/0", Work(count, dimension))
        for paths in (hits(server), fills(server), machines(server, Path(directory))):
            for path, contestants in paths:
                often = OFTEN if path == STORE else 1  # it takes milliseconds, and has the narrowest goal
                rows += measured(path, contestants, server.work, rounds=rounds * often)
            server.client.flushall()
    return rows


def show(count: int, dimension: int, rows: list[Row]) -> None:
    """Print rows as a table."""
    print(f"\nN={count:,}, D={dimension}\n\n| path | system | us a text | of the floor |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['path']} | {row['system']} | {row['median us']:.1f} | {row['ratio']:.2f} |")


def main(arguments: list[str]) -> None:
    """Print a table for each dimension; the first argument is how many texts."""
    logging.disable(logging.CRITICAL)
    count, *dimensions = map(int, arguments or ("10000", "384", "1536"))
    for dimension in dimensions:
        show(count, dimension, measure(count, dimension))


if __name__ == "__main__":
    main(sys.argv[1:])
