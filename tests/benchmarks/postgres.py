"""Measure a text's cost on a PostgreSQL server, beside others' caches: `python -m tests.benchmarks.postgres`.

Servers are the benchmark's own, on loopback; all take turns. The floor is the store's statements alone, their
rows let go as they come and their entries made before. Others' caches are on a Redis server, their home.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    CallableEmbeddingModel,
    PostgresStore,
    TieredStore,
)
from kura_cache_adapters._identity.keys import text_keys
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.stores import entry
from tests.benchmarks import servers
from tests.benchmarks.timing import Work, measured
from tests.servers import postgres_says, postgres_server, postgres_url, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kura_cache_adapters.protocols import EmbeddingStore
    from tests import peers
    from tests.benchmarks.servers import Calls
    from tests.benchmarks.timing import Contestants, Row

ROUNDS = 7
IDENTITY = ModelIdentity.of("instant")
NUMBER = {"space": 1, "identity": IDENTITY.to_json()}


class Server:
    """A server, and who stores the vectors of a work there."""

    def __init__(self, url: str, work: Work) -> None:
        self.url, self.work = url, work
        self.keys = text_keys(IDENTITY.head("document"), work.texts)
        self.vectors = work.matrix[work.at]
        entries = zip(self.keys, entry.encode_many(self.keys, self.vectors), strict=True)
        self.ordered = sorted(entries)
        self.bare = self.store()

    def store(self, **options: Any) -> PostgresStore:
        """Open a store in tables that nobody else has."""
        return PostgresStore(self.url, table=f"t{token_hex(4)}", timeout=60, **options)

    def bare_fill(self) -> None:
        """Write all entries by the store's statement."""
        self.bare = self.store()
        for at in range(0, self.work.count, 256):
            keys, values = zip(*self.ordered[at : at + 256], strict=True)
            told = {**NUMBER, "keys": [*keys], "values": [*values]}
            self.bare.connections.changed(self.bare.statements.write, told, make=self.bare.statements.make)

    def bare_hits(self) -> None:
        """Read all entries by the store's statement."""
        for at in range(0, self.work.count, 1024):
            asked = {**NUMBER, "keys": self.keys[at : at + 1024]}
            self.bare.connections.rows(self.bare.statements.read, asked)

    def filled(self, **options: Any) -> Any:
        """Put all vectors into a new space."""
        space = self.store(**options).space(IDENTITY)
        space.put_many(self.keys, self.vectors)
        return space

    def cached(self, store: EmbeddingStore | None = None) -> CachedEmbeddingModel:
        """Put a model that answers at once over a store, or a new one on the server."""
        model = CallableEmbeddingModel(lambda texts: self.work.arrays(texts, ""), model_name="instant")
        return CachedEmbeddingModel(model, store or self.store())

    def says(self, statement: str) -> None:
        """Have the server do something."""
        postgres_says(self.url, statement)


def hits(server: Server, others: list[peers.System]) -> Iterator[tuple[str, Contestants]]:
    """Fill everyone, and yield who takes part in each path."""
    texts, stores = (
        server.work.texts,
        {"ours": server.filled(), "ours, signed": server.filled(sign=bytes(32))},
    )
    server.bare_fill()
    cached = server.cached()
    for embed in (cached.embed_sync, *(each.documents for each in others)):
        embed(texts)
    server.says("VACUUM ANALYZE")
    calls: Calls = {name: partial(space.get_many, server.keys) for name, space in stores.items()}
    yield "hits of the store", servers.against(calls, server.bare_hits)
    ours: Calls = {
        "ours": partial(cached.embed_sync, texts),
        "ours, as an array": partial(cached.embed_array_sync, texts),
    }
    theirs: Calls = {each.name: partial(each.documents, texts) for each in others}
    yield "hits of the cache", servers.against({**ours, **theirs}, server.bare_hits)


def fills(server: Server) -> Iterator[tuple[str, Contestants]]:
    """Yield who takes part in the writing of everything, each into nothing."""
    flush = partial(server.says, "CHECKPOINT")
    calls: Calls = {"ours": server.filled}
    yield "fill of the store", servers.against(calls, server.bare_fill, before=flush)
    calls = {"ours": lambda: server.cached().embed_sync(server.work.texts)}
    yield "fill of the cache", servers.against(calls, server.bare_fill, before=flush)


def machines(server: Server, directory: Path) -> Iterator[tuple[str, Contestants]]:
    """Yield a new machine's first run over a directory and the server that has everything, and its second."""
    texts, shared = server.work.texts, server.store()
    server.cached(shared).embed_sync(texts)

    def new() -> CachedEmbeddingModel:
        return server.cached(TieredStore(ArrowStore(directory / token_hex(4)), shared))

    old = new()
    old.embed_array_sync(texts)
    runs: Calls = {
        "a new machine's first run": lambda: new().embed_array_sync(texts),
        "its second": partial(old.embed_array_sync, texts),
    }
    yield "a directory in front, as an array", servers.against(runs, server.bare_hits)


def measure(count: int, dimension: int, *, rounds: int = ROUNDS) -> list[Row]:
    """Measure all paths at a size."""
    rows: list[Row] = []
    with postgres_server() as postgres, redis_server() as redis, tempfile.TemporaryDirectory() as directory:
        work = Work(count, dimension)
        server = Server(postgres_url(postgres.port), work)
        others = [*servers.Server(f"redis://127.0.0.1:{redis.port}/0", work).peers()]
        for paths in (hits(server, others), fills(server), machines(server, Path(directory))):
            for path, contestants in paths:
                rows += measured(path, contestants, work, rounds=rounds)
    return rows


def main(arguments: list[str]) -> None:
    """Print a table for each dimension; the first argument is how many texts."""
    logging.disable(logging.CRITICAL)
    count, *dimensions = map(int, arguments or ("10000", "384", "1536"))
    for dimension in dimensions:
        servers.show(count, dimension, measure(count, dimension))


if __name__ == "__main__":
    main(sys.argv[1:])
