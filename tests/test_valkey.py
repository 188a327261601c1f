"""RedisStore over Valkey: one server, and a cluster."""

from __future__ import annotations

from datetime import timedelta
from secrets import token_hex
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kura_cache_adapters import CachedEmbeddingModel, RedisStore, open_cache
from kura_cache_adapters.testing import FakeEmbeddingModel, StoreContract
from tests.servers import redis_cluster, redis_server, said, valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kura_cache_adapters.protocols import EmbeddingStore
    from tests.servers import Server

pytest.importorskip("redis", reason="needs the extra `redis`")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with redis_server(binary=valkey()) as served:
        yield served


@pytest.fixture(scope="module")
def cluster() -> Iterator[int]:
    with redis_cluster(binary=valkey()) as nodes:
        yield nodes[0].port


class TestValkey(StoreContract):
    examples = 8
    options: ClassVar[dict[str, Any]] = {"ttl": timedelta(hours=1)}

    @pytest.fixture
    def port(self, server: Server) -> int:
        return server.port

    @pytest.fixture
    def open_store(self, port: int) -> Callable[[], EmbeddingStore]:
        prefix = token_hex(4)
        return lambda: RedisStore(f"redis://127.0.0.1:{port}", prefix=prefix, **self.options)


@pytest.mark.long
class TestClusterOfValkey(TestValkey):
    options: ClassVar[dict[str, Any]] = {"cluster": True}

    @pytest.fixture
    def port(self, cluster: int) -> int:
        return cluster


def test_it_is_valkey_that_machines_share_and_users_are_kept_to_what_is_theirs(
    server: Server, tmp_path: Path
) -> None:
    assert b"valkey_version:" in said(server.port, "INFO server")
    url, model = f"redis://127.0.0.1:{server.port}?prefix=team", FakeEmbeddingModel()
    said(server.port, "ACL SETUSER reader on >password ~team:* +@read +@connection")
    for machine, where in (("a", url), ("b", url.replace("//", "//reader:password@"))):
        with CachedEmbeddingModel(model, [tmp_path / machine, where]) as cached:
            assert cached.embed_sync(["a", "b"]) == model.lists(["a", "b"])
    assert model.calls == [["a", "b"]]
    with open_cache(url) as cache:
        assert cache.forget([*cache.keys(cache.spaces()[0])]).complete


def test_a_client_of_valkeys_own_library_is_refused_with_the_cure() -> None:
    valkeys = pytest.importorskip("valkey", reason="needs valkey, another library's client")
    for client in (valkeys.Valkey(port=1), valkeys.asyncio.Valkey(port=1)):
        with pytest.raises(TypeError, match=r"valkey\..*redis-py.*redis://localhost"):
            RedisStore(client)
    with pytest.raises(ValueError, match=r"valkey://.*redis"):
        open_cache("valkey://localhost")
