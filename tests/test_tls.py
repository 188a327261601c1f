"""Servers behind TLS: one that is not ours, or is not for us, is an error, and never a plain connection."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from contextlib import suppress
from datetime import datetime, timezone
from secrets import token_hex
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from kura_cache_adapters import CachedEmbeddingModel, PostgresStore, RedisStore, open_cache
from kura_cache_adapters.testing import FakeEmbeddingModel, StoreContract
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of
from tests.servers import (
    POSTGRES_PASSWORD,
    Authority,
    an_authority,
    postgres_says,
    postgres_server,
    postgres_url,
    redis_cluster,
    tls_redis,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kura_cache_adapters.protocols import EmbeddingStore
    from tests.servers import Server

redis = pytest.importorskip("redis", reason="needs the extra `redis`")

authority = pytest.fixture(scope="module")(an_authority)
TEXTS = ["one", "two", "three"]
LONG_AGO = datetime(2020, 1, 1, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def stranger(authority: Authority) -> Authority:
    """Return another authority, which nobody trusts."""
    return Authority(authority.directory)


def goes_on_without(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Embed with a server that cannot be used, which is told; return what an operator is told."""
    model = FakeEmbeddingModel()
    with CachedEmbeddingModel(model, [tmp_path / "here", url]) as cached:
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
        tier = cached.stats.tiers[1]
        assert (tier.hits, tier.misses) == (0, 0)
        assert tier.errors + tier.timeouts > 0
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
    assert model.calls == [TEXTS]
    with open_cache(url) as cache, pytest.raises(Exception, match=r"\w") as error:
        cache.stats()
    assert caplog.text
    assert "MARKED" not in caplog.text + str(error.value) + repr(cached)
    return str(error.value)


# Redis


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[Server]:
    """Serve Redis over TLS to one user, who may touch what begins with `team`."""
    users = "--user team on >MARKED/password ~team* +@all -@dangerous --user default off"
    with tls_redis(authority, *users.split()) as served:
        yield served


@pytest.fixture(scope="module")
def strict(authority: Authority) -> Iterator[Server]:
    """Serve Redis over TLS to whom the authority knows."""
    with tls_redis(authority, "--tls-auth-clients", "yes") as served:
        yield served


def redis_url(
    server: Server, authority: Authority | str, *, who: str = "team:MARKED%2Fpassword@", **more: str
) -> str:
    file = authority if isinstance(authority, str) else authority.file
    told = {"prefix": "team", "ssl_ca_certs": file, **more}
    options = "&".join(f"{name}={text}" for name, text in told.items() if text)
    return f"rediss://{who}localhost:{server.port}/0?{options}"


class TestRedisOverTLS(StoreContract):
    examples = 4

    @pytest.fixture
    def open_store(self, server: Server, authority: Authority) -> Callable[[], EmbeddingStore]:
        url, prefix = redis_url(server, authority, prefix=""), f"team{token_hex(4)}"
        return lambda: RedisStore(url, prefix=prefix)


def test_a_redis_that_asks_for_certificates_of_clients_gets_them(
    strict: Server, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue("client")
    url = redis_url(strict, authority, who="", ssl_certfile=certificate, ssl_keyfile=key)
    for machine, paid in (("a", 3), ("b", 0)):
        model = FakeEmbeddingModel()
        with CachedEmbeddingModel(model, [tmp_path / machine, url]) as cached:
            assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
        assert len(model.texts) == paid


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("no authority", "CERTIFICATE_VERIFY_FAILED"),
        ("another authority", "CERTIFICATE_VERIFY_FAILED"),
        ("another host", "not valid for '127.0.0.1'"),
        ("a file that is not there", "/not/there.pem"),
        ("no TLS", "reset by peer"),
        ("no certificate of a client", ""),  # the end of it may come before its reason
        ("another authority's client", ""),
        ("a certificate without its key", "mismatch"),
        ("a wrong password", "invalid username-password pair"),
        ("a user who is not there", "invalid username-password pair"),
        ("no user", "authenticat"),
        ("what is not this user's", "permissions"),
    ],
)
def test_a_redis_that_is_not_ours_or_not_for_us_is_an_error(
    server: Server,
    strict: Server,
    authority: Authority,
    stranger: Authority,
    wrong: str,
    says: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    right = redis_url(server, authority)
    certificate, key = (stranger if "another" in wrong else authority).issue("client")
    other = stranger.issue("client")[1] if "without" in wrong else key
    urls = {
        "no authority": redis_url(server, ""),
        "another authority": redis_url(server, stranger),
        "another host": right.replace("localhost", "127.0.0.1"),
        "a file that is not there": redis_url(server, "/not/there.pem"),
        "no TLS": right.replace("rediss", "redis").partition("?")[0],
        "no certificate of a client": redis_url(strict, authority, who=""),
        "a wrong password": redis_url(server, authority, who="team:MARKED@"),
        "a user who is not there": redis_url(server, authority, who="nobody:MARKED@"),
        "no user": redis_url(server, authority, who=""),
        "what is not this user's": redis_url(server, authority, prefix="others"),
    }
    with_certificate = redis_url(strict, authority, who="", ssl_certfile=certificate, ssl_keyfile=other)
    assert says in goes_on_without(urls.get(wrong, with_certificate), tmp_path, caplog)
    if "CERTIFICATE" in says:
        assert says in caplog.text


def test_a_certificate_that_has_run_out_is_an_error(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tls_redis(authority, not_after=LONG_AGO) as old:
        assert "expired" in goes_on_without(redis_url(old, authority, who=""), tmp_path, caplog)


def test_a_cluster_is_reached_over_tls_node_by_node(authority: Authority) -> None:
    with redis_cluster(authority=authority) as nodes:
        store = RedisStore(redis_url(nodes[0], authority, who="", prefix=""), cluster=True)
        store.space(IDENTITY).put_many(map(key_of, range(300)), vectors_of([*range(300)]))
        assert len(store.space(IDENTITY).get_many(map(key_of, range(300))).positions) == 300
        asked = [node.redis_connection.connection_pool.connection_class for node in store.client.get_nodes()]
        assert asked == [redis.SSLConnection] * 3
        store.close()


def test_what_redis_py_does_not_know_of_tls_is_refused_at_once() -> None:
    for option, says in (
        ("ssl_cert_reqs=requird", "requird"),
        ("ssl_cacerts=/x.pem", "cacerts"),
        ("ssl=false", "ssl"),
    ):
        with pytest.raises(ValueError, match=says):
            RedisStore(f"rediss://localhost?{option}")
    with pytest.raises(ValueError, match="ssl_ca_certs"):
        RedisStore("redis://localhost?ssl_ca_certs=/x.pem")  # which would have been plain


# PostgreSQL


@pytest.fixture(scope="module")
def postgres(authority: Authority) -> Iterator[Server]:
    """Serve PostgreSQL over TLS alone: with a password, and to `reader` for a certificate."""
    certificate, key = authority.issue("localhost")
    rules = authority.directory / "rules"
    rules.write_text("hostssl all reader 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
    settings = {"cert_file": certificate, "key_file": key, "ca_file": authority.file}
    files = [f"--ssl_{name}={path}" for name, path in settings.items()]
    with postgres_server("--ssl=on", f"--hba_file={rules}", *files) as served:
        postgres_says(postgres_url(served.port), "CREATE USER reader", "GRANT ALL ON SCHEMA public TO reader")
        yield served


def pg_url(server: Server, authority: Authority | str, mode: str = "verify-full", **more: str) -> str:
    file = authority if isinstance(authority, str) else authority.file
    told = {"sslmode": mode, "sslrootcert": file, **more}
    options = "&".join(f"{name}={text}" for name, text in told.items() if text)
    return f"{postgres_url(server.port).replace('127.0.0.1', 'localhost')}?{options}"


class TestPostgresOverTLS(StoreContract):
    examples = 4

    @pytest.fixture
    def open_store(self, postgres: Server, authority: Authority) -> Callable[[], EmbeddingStore]:
        url, table = pg_url(postgres, authority), f"table_{token_hex(4)}"
        return lambda: PostgresStore(url, table=table)


def test_a_postgres_that_asks_for_certificates_of_clients_gets_them(
    postgres: Server, authority: Authority, tmp_path: Path
) -> None:
    url = reader_url(postgres, authority, authority, "reader")
    for machine, paid in (("a", 3), ("b", 0)):
        model = FakeEmbeddingModel()
        with CachedEmbeddingModel(model, [tmp_path / machine, url]) as cached:
            assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
        assert len(model.texts) == paid


def reader_url(server: Server, authority: Authority, issuer: Authority, name: str) -> str:
    """Return a URL for `reader`, who has no password, with a certificate for some name."""
    certificate, key = issuer.issue(common_name=name)
    if not os.getuid():
        shutil.chown(key, "root")
    url = pg_url(server, authority, sslcert=certificate, sslkey=key, table="readers")
    return f"postgresql://reader@{url.partition('@')[2]}"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("no authority", "root certificate file"),
        ("another authority", "certificate verify failed"),
        ("another host", "does not match host name"),
        ("no TLS", "no encryption"),
        ("no certificate of a client", "requires a valid client certificate"),
        ("another authority's client", "unknown ca"),
        ("another client", "certificate authentication failed"),
        ("a wrong password", "password authentication failed"),
        ("a mode that is none", "invalid sslmode"),
    ],
)
def test_a_postgres_that_is_not_ours_or_not_for_us_is_an_error(
    postgres: Server,
    authority: Authority,
    stranger: Authority,
    wrong: str,
    says: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    right = pg_url(postgres, authority)
    urls = {
        "no authority": pg_url(postgres, "/not/there.pem"),
        "another authority": pg_url(postgres, stranger),
        "another host": right.replace("localhost", "127.0.0.1"),
        "no TLS": pg_url(postgres, "", "disable"),
        "no certificate of a client": f"postgresql://reader@{right.partition('@')[2]}",
        "another authority's client": reader_url(postgres, authority, stranger, "reader"),
        "another client": reader_url(postgres, authority, authority, "other"),
        "a wrong password": right.replace(quote(POSTGRES_PASSWORD, safe=""), "MARKED"),
        "a mode that is none": pg_url(postgres, authority, "verify-ful"),
    }
    assert says in goes_on_without(urls[wrong], tmp_path, caplog)


# Whoever listens


@pytest.mark.parametrize(
    "url",
    [
        "rediss://:MARKED@localhost:{port}/0",
        "rediss://:MARKED@localhost:{port}/0?ssl_cert_reqs=none",
        "postgresql://me:MARKED@localhost:{port}/x?sslmode=verify-full&sslrootcert={file}",
        "postgresql://me:MARKED@localhost:{port}/x?sslmode=require",
    ],
)
def test_whoever_has_no_tls_hears_no_password_and_no_text(
    url: str, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []

    def listen() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, suppress(OSError):
                    client.settimeout(0.2)
                    heard.append(client.recv(1 << 16))
                    client.sendall(
                        b"N"
                    )  # as a PostgreSQL without TLS says; to a Redis's client it is nothing
                    while some := client.recv(1 << 16):
                        heard.append(some)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        goes_on_without(url.format(port=listener.getsockname()[1], file=authority.file), tmp_path, caplog)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert heard
    assert b"MARKED" not in b"".join(heard)
    assert {each[:1] for each in heard} <= {
        b"\x16",
        b"\x15",
        b"\x00",
        b"",
    }  # a handshake, or the wish for one
