"""An S3 server for tests: moto's, in this process, on a free port; it notes what it is asked."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class S3:
    """A server that has one new bucket for each test.

    `asked` counts requests by method, `signed` those that told who asks. `conditions` says what becomes of
    "only if it is not there": kept, ignored, or refused as servers do that know nothing of it. `denied`
    are methods that the credentials are not good for.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._buckets = 0
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
        if (
            self.conditions != "kept"
            and environ.pop("HTTP_IF_NONE_MATCH", None)
            and self.conditions == "refused"
        ):
            environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            start_response("501 Not Implemented", [("Content-Type", "application/xml")])
            return [
                b"<Error><Code>NotImplemented</Code><Message>A header implies what is not</Message></Error>"
            ]
        return self._application(environ, start_response)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        import boto3

        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys)

    def new_bucket(self) -> str:
        self.reset()
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        self.client().create_bucket(Bucket=name)
        self.reset()
        return name


@contextmanager
def s3_server() -> Iterator[S3]:
    """Serve on loopback."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    front = S3(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, front, threaded=True)
    front.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
