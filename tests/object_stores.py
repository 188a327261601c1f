"""Object stores for tests: S3 by moto and by rclone, Azure by Azurite, and one that speaks Google's dialect.

Each is behind a front in this process, which notes what it is asked.
"""

from __future__ import annotations

import http.client
import logging
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from tests.servers import accepts, program, served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from ssl import SSLContext

FIRST = "moto"
OTHERS = ("rclone", "azurite", "google")
_numbers = count()  # all of moto's servers in a process have the same buckets
_CONDITIONS = ("HTTP_IF_NONE_MATCH", "HTTP_X_GOOG_IF_GENERATION_MATCH")
_SIGNED = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"
_OWN = {"connection", "date", "keep-alive", "server", "transfer-encoding"}  # headers of a front itself


class ObjectServer:
    """A server that has one new bucket for each test.

    `asked` counts requests by method, `signed` those that told who asks. `conditions` says what becomes of
    "only if it is not there": kept, ignored, or refused as servers do that know nothing of it. `denied`
    are methods that the credentials are not good for.
    """

    scheme, options = "s3", "&region=us-east-1"
    environment: ClassVar[dict[str, str]] = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    wrong: ClassVar[dict[str, str]] = {"AWS_SECRET_ACCESS_KEY": "wrong-MARKED"}
    path = ""  # of the endpoint

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self.port = 0
        self.reset()

    def reset(self) -> None:
        self.asked: Counter[str] = Counter()
        self.signed = 0
        self.conditions = "kept"
        self.denied: set[str] = set()
        self.before: Callable[[dict[str, Any]], object] | None = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.asked[environ["REQUEST_METHOD"]] += 1
        self.signed += "HTTP_AUTHORIZATION" in environ
        if self.before is not None:
            self.before(environ)
        if environ["REQUEST_METHOD"] in self.denied:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
        conditions = [environ.pop(name, None) for name in _CONDITIONS] if self.conditions != "kept" else []
        if any(conditions) and self.conditions == "refused":
            environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            start_response("501 Not Implemented", [("Content-Type", "application/xml")])
            return [
                b"<Error><Code>NotImplemented</Code><Message>A header implies what is not</Message></Error>"
            ]
        return self._application(environ, start_response)

    def introduce(self, environment: pytest.MonkeyPatch, **other: str) -> ObjectServer:
        """Put keys of this server into the environment."""
        for name, told in {**self.environment, **other}.items():
            environment.setenv(name, told)
        return self

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def url(self, bucket: str, prefix: str = "team/vectors") -> str:
        return f"{self.scheme}://{bucket}/{prefix}?endpoint={self.endpoint}{self.options}"

    def client(self) -> Any:
        import boto3

        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys)

    def new_bucket(self) -> str:
        self.reset()
        name = f"bucket{next(_numbers)}"  # moto reads no escaped hyphen
        self.make(name)
        self.reset()
        return name

    def make(self, bucket: str) -> None:
        self.client().create_bucket(Bucket=bucket)

    def publish(self, bucket: str) -> None:
        """Let everybody read what is in a bucket."""
        for each in self.client().list_objects_v2(Bucket=bucket).get("Contents", ()):
            self.client().put_object_acl(Bucket=bucket, Key=each["Key"], ACL="public-read")


class GoogleServer(ObjectServer):
    """An S3 server in Google's dialect, whose XML API differs by the names of conditions and of who asks."""

    scheme, options = "gs", ""
    environment: ClassVar[dict[str, str]] = {
        "GOOGLE_SERVICE_ACCOUNT_KEY": (
            '{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}'
        )
    }


class AzureServer(ObjectServer):
    """Azurite, which knows one account."""

    scheme, options, path = "az", "", "/devstoreaccount1"
    environment: ClassVar[dict[str, str]] = {
        "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
        "AZURE_STORAGE_ACCOUNT_KEY": (
            "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
        ),
    }
    wrong: ClassVar[dict[str, str]] = {"AZURE_STORAGE_ACCOUNT_KEY": "TUFSS0VE"}

    def make(self, bucket: str) -> None:
        self._container(bucket, "PUT", "restype=container")

    def publish(self, bucket: str) -> None:
        self._container(bucket, "PUT", "restype=container&comp=acl", {"x-ms-blob-public-access": "container"})

    def _container(self, bucket: str, method: str, query: str, headers: dict[str, str] | None = None) -> None:
        """Ask as the account does: its client here makes no containers, so the request is signed by hand."""
        import base64
        import hmac
        from email.utils import formatdate

        account, key = self.environment.values()
        told = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03", **(headers or {})}
        lines = [method, *[""] * 11, *(f"{name}:{told[name]}" for name in sorted(told))]
        resource = f"/{account}{self.path}/{bucket}"
        text = "\n".join([*lines, resource, *(part.replace("=", ":") for part in sorted(query.split("&")))])
        signature = base64.b64encode(hmac.digest(base64.b64decode(key), text.encode(), "sha256")).decode()
        asked = http.client.HTTPConnection("127.0.0.1", self.port)
        told["Authorization"] = f"SharedKey {account}:{signature}"
        asked.request(method, f"{self.path}/{bucket}?{query}", headers={**told, "Content-Length": "0"})
        answer = asked.getresponse()
        assert answer.status < 300, answer.read()
        asked.close()


def object_servers() -> Iterator[Callable[[str], ObjectServer]]:
    """Give servers by name to a module: `pytest.fixture(scope="module")(object_servers)`."""
    with ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(object_server(name)))


@contextmanager
def object_server(name: str, context: SSLContext | None = None) -> Iterator[ObjectServer]:
    """Serve `moto`, `rclone`, `azurite` or `google` on loopback, over TLS if it is said how."""
    with ExitStack() as stack:
        kind, application = stack.enter_context(_BACKENDS[name]())
        yield stack.enter_context(_fronted(kind(application), context))


@contextmanager
def _fronted(front: ObjectServer, context: SSLContext | None) -> Iterator[ObjectServer]:
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, front, threaded=True, ssl_context=context)
    front.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _moto() -> Iterator[tuple[type[ObjectServer], Any]]:
    pytest.importorskip("moto.server", reason="needs moto[server], an S3 server")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    yield ObjectServer, DomainDispatcherApplication(create_backend_app)


@contextmanager
def _google() -> Iterator[tuple[type[ObjectServer], Any]]:
    with _moto() as (_, moto):

        def translated(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            environ["HTTP_AUTHORIZATION"] = _SIGNED  # what Google's client says of itself is nothing to moto
            if environ.pop(_CONDITIONS[1], None) == "0":
                environ[_CONDITIONS[0]] = "*"
            if environ["REQUEST_METHOD"] == "DELETE":
                seen: list[str] = []
                moto({**environ, "REQUEST_METHOD": "HEAD"}, lambda status, *_: seen.append(status))
                if seen[0].startswith("404"):  # where S3 says that it has deleted it
                    start_response("404 Not Found", [])
                    return [b""]
            return moto(environ, start_response)

        yield GoogleServer, translated


@contextmanager
def _rclone() -> Iterator[tuple[type[ObjectServer], Any]]:
    binary = program("rclone")

    def command(port: int, directory: Path) -> list[str]:
        (directory / "files").mkdir()
        where = ("--addr", f"127.0.0.1:{port}", "--config", "", "--cache-dir", str(directory / "cache"))
        return [binary, "serve", "s3", "--auth-key", "key,secret", *where, str(directory / "files")]

    with served(command, accepts) as server:
        yield ObjectServer, _passed_on(server.port)


@contextmanager
def _azurite() -> Iterator[tuple[type[ObjectServer], Any]]:
    binary = program("azurite-blob")

    def command(port: int, directory: Path) -> list[str]:
        quiet = ("--silent", "--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence")
        return [binary, "--blobHost", "127.0.0.1", "--blobPort", str(port), *quiet]

    with served(command, accepts) as server:
        yield AzureServer, _passed_on(server.port)


def _passed_on(port: int) -> Callable[[dict[str, Any], Callable[..., Any]], list[bytes]]:
    """Return what passes requests on to a server as they are, signatures and all."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        headers = {name[5:].replace("_", "-"): told for name, told in environ.items() if name[:5] == "HTTP_"}
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if environ.get(name):
                headers[name.replace("_", "-")] = environ[name]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        server = http.client.HTTPConnection("127.0.0.1", port)
        try:
            server.request(environ["REQUEST_METHOD"], environ["RAW_URI"], body, headers)
            answer = server.getresponse()
            content = answer.read()
        finally:
            server.close()
        told = [(name, text) for name, text in answer.getheaders() if name.lower() not in _OWN]
        start_response(f"{answer.status} {answer.reason}", told)
        return [content]

    return application


_BACKENDS: dict[str, Callable[[], Any]] = {
    "moto": _moto,
    "rclone": _rclone,
    "azurite": _azurite,
    "google": _google,
}
