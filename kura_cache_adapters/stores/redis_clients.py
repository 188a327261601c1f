"""Clients of Redis servers: how they are made, checked and bounded, and what goes wrong told."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._identity.secrets import plain_url, refuse_torn
from kura_cache_adapters.errors import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DECODES = "vectors are no text: leave decode_responses off"
_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_OTHER: tuple[type[OSError], int] = (OSError, errno.EIO)
_KINDS: dict[str, tuple[type[OSError], int]] = {  # what is also another's is before that
    "AuthenticationError": (PermissionError, errno.EACCES),
    "NoPermissionError": (PermissionError, errno.EACCES),
    "ReadOnlyError": (PermissionError, errno.EACCES),
    "TimeoutError": (TimeoutError, errno.ETIMEDOUT),
    "ConnectionError": (ConnectionError, errno.ENOTCONN),
    "RedisClusterException": (ConnectionError, errno.ENOTCONN),  # no RedisError: none of its nodes answers
}


@contextmanager
def told(where: object) -> Iterator[None]:
    """Raise redis-py's errors as the system's, with where it was.

    PermissionError for what the server does not allow, TimeoutError, ConnectionError where there is
    none, and OSError for the rest.
    """
    errors = require("redis.exceptions", extra="redis")
    try:
        yield
    except (errors.RedisError, errors.RedisClusterException) as error:
        kinds = (how for name, how in _KINDS.items() if isinstance(error, getattr(errors, name)))
        kind, number = next(kinds, _OTHER)
        raise kind(number, _said(error), repr(where)) from None


def _said(error: Exception) -> str:
    """Say what the server did, without the command: redis-py and servers quote the beginnings of values."""
    said = " ".join(str(error).split())
    return said.rpartition("of pipeline caused error: ")[2].partition(", with args")[0]


def connected(url: str | None, *, cluster: bool, timeout: float, **_: object) -> Any:  # noqa: ANN401 - a class of redis
    """Make a client, which connects when it is used; a cluster's asks once more, whoever has taken over.

    Raises OSError for a file of certificates that cannot be read.
    """
    redis = require("redis", extra="redis")
    tries = redis.retry.Retry(redis.backoff.NoBackoff(), int(cluster))
    options = redis.connection.parse_url(url)
    for name in _FILES & options.keys():
        Path(options[name]).read_bytes()  # what cannot be read is named, which its client does not
    kind = redis.RedisCluster if cluster else redis.Redis
    return kind.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=tries)


def of_cluster(client: Any, seconds: float) -> Any:  # noqa: ANN401 - classes of redis
    """Return a pipeline of a cluster that waits no longer for what it sends again.

    Its client would send what has failed command by command, and wait for a silent server at each.
    """
    pipeline = client.pipeline(transaction=False)
    again, end = pipeline.parent_execute_command, monotonic() + seconds
    pipeline.parent_execute_command = partial(_before, end, again)
    return pipeline


def of_each(pipeline: Any, command: str, names: list[bytes]) -> list[Any]:  # noqa: ANN401 - a class of redis
    """Execute a command of one key for each name, where in the cluster that is."""
    with pipeline:
        for name in names:
            pipeline.execute_command(command, name, target_nodes=pipeline.get_node_from_key(name))
        answers: list[Any] = pipeline.execute()
        return answers


def _before(end: float, call: Callable[..., Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as it is
    if monotonic() > end:
        message = "a server of the cluster has not answered in time"
        raise require("redis", extra="redis").TimeoutError(message)
    return call(*args, **options)


def check_url(url: str) -> None:
    """Raise ValueError, which shows no more of a URL than the names of options, for one that is none."""
    redis = require("redis", extra="redis")
    try:
        refuse_torn(url)
        pool = redis.ConnectionPool.from_url(url)
        decodes = pool.connection_class(**pool.connection_kwargs).encoder.decode_responses
    except (TypeError, redis.RedisError) as error:  # it names the option
        message = f"redis-py cannot use an option of {plain_url(url)}: {error}"
        raise ValueError(message) from None
    except ValueError:  # it may quote a part of the password
        message = "the URL of a Redis server cannot be read: percent-encode what is special in its password"
        raise ValueError(message) from None
    if decodes:
        raise ValueError(_DECODES)


def checked(client: object) -> Any:  # noqa: ANN401 - a class of redis
    """Return a client that fits; raise TypeError or ValueError for one that does not."""
    redis = require("redis", extra="redis")
    if not isinstance(client, (redis.Redis, redis.RedisCluster)):
        message = (
            f"a {type(client).__module__}.{type(client).__qualname__} is no synchronous client of redis-py: "
            'pass a redis.Redis, a redis.RedisCluster or a URL, as in "redis://localhost:6379/0"'
        )
        raise TypeError(message)
    if client.get_encoder().decode_responses:
        raise ValueError(_DECODES)
    return client
