"""Two machines, with directories and homes of their own, that share what each of them has paid for."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from secrets import token_hex
from typing import TYPE_CHECKING

import pytest

from kura_cache_adapters import PostgresStore, RedisStore, Remote
from kura_cache_adapters.testing import StoreContract
from tests.servers import a_postgres, a_redis, postgres_url

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kura_cache_adapters.protocols import EmbeddingStore
    from tests.servers import Server

CHUNK = 100
PROGRAM = textwrap.dedent(
    """
    import sys

    from kura_cache_adapters import CachedEmbeddingModel
    from kura_cache_adapters.testing import FakeEmbeddingModel

    shared, bill, *chunks = sys.argv[1:]
    model = FakeEmbeddingModel("shared", dimension=16)
    with CachedEmbeddingModel(model, ["./cache", shared]) as cached:
        for chunk in map(int, chunks):
            texts = [f"text {number}" for number in range(chunk * 100, chunk * 100 + 100)]
            right = FakeEmbeddingModel("shared", dimension=16).array(texts)
            assert (cached.embed_array_sync(texts) == right).all()
    with open(bill, "a") as paid:
        paid.writelines(f"{text}\\n" for text in model.texts)
    """
)

postgres = pytest.fixture(scope="module")(a_postgres)
redis = pytest.fixture(scope="module")(a_redis)


@pytest.fixture(params=["redis", "postgresql", "file"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of what two machines share, which nobody else uses."""
    if request.param == "file":
        pytest.importorskip("obstore", reason="needs the extra `object-store`")
        return f"file://{tmp_path / 'bucket'}"
    if request.param == "redis":
        pytest.importorskip("redis", reason="needs the extra `redis`")
        server = request.getfixturevalue("redis")
        return f"redis://127.0.0.1:{server.port}/0?prefix={token_hex(4)}&read_timeout=30"
    pytest.importorskip("psycopg", reason="needs the extra `postgres`")
    url = postgres_url(request.getfixturevalue("postgres").port)
    return f"{url}?table=shared_{token_hex(4)}&read_timeout=30"


def run(home: Path, shared: str, bill: Path, chunks: list[int]) -> None:
    """Embed chunks on a machine: a process with a home, and a directory to stand in, of its own."""
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "caches")}
    command = [sys.executable, "-c", PROGRAM, shared, str(bill), *map(str, chunks)]
    subprocess.run(command, cwd=home, env=environment, check=True, timeout=100)


@pytest.mark.parametrize(
    "turns",
    [
        [("a", [0, 1, 2, 3]), ("b", [3, 2, 1, 0])],
        [("a", [0, 2]), ("b", [3, 1, 0]), ("a", [1, 3, 0]), ("b", [2])],
    ],
    ids=["one after the other", "by turns"],
)
def test_each_text_is_paid_for_once_over_two_machines(
    tmp_path: Path, shared: str, turns: list[tuple[str, list[int]]]
) -> None:
    bill = tmp_path / "bill"
    for machine, chunks in turns:
        run(tmp_path / machine, shared, bill, chunks)
    paid = bill.read_text(encoding="utf-8").splitlines()
    assert len(paid) == len({*paid}) == 4 * CHUNK


class GuardedContract(StoreContract):
    """The laws of a store, behind a guard that is as patient as this machine needs."""

    examples = 8


class TestGuardedRedis(GuardedContract):
    @pytest.fixture
    def open_store(self, redis: Server) -> Callable[[], EmbeddingStore]:
        pytest.importorskip("redis", reason="needs the extra `redis`")
        url, prefix = f"redis://127.0.0.1:{redis.port}/0", token_hex(4)
        return lambda: Remote(RedisStore(url, prefix=prefix), read_timeout=30, write="through")


class TestGuardedPostgres(GuardedContract):
    @pytest.fixture
    def open_store(self, postgres: Server) -> Callable[[], EmbeddingStore]:
        pytest.importorskip("psycopg", reason="needs the extra `postgres`")
        url, table = postgres_url(postgres.port), f"guarded_{token_hex(4)}"
        return lambda: Remote(PostgresStore(url, table=table, timeout=30), read_timeout=30, write="through")
