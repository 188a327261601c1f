"""PostgresStore, over a server of the tests' own."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters.testing import StoreContract
from tests.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kura_cache_adapters.stores.postgres import PostgresStore

pytest.importorskip("psycopg", reason="needs the extra `postgres`")

numbers = count()


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
def opening(server: PostgresServer) -> Callable[..., PostgresStore]:
    """Return what opens the same tables each time, which no other test has."""
    from kura_cache_adapters.stores.postgres import PostgresStore

    table = f"cache_{next(numbers)}"
    return lambda url=server.url, **options: PostgresStore(url, **{"table": table, **options})


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def open_store(self, opening: Any) -> Any:
        return opening


class TestPostgresStoreInASchema(StoreContract):
    examples = 5

    @pytest.fixture
    def open_store(self, opening: Any) -> Any:
        return lambda: opening(schema='of "a" 100% team')
