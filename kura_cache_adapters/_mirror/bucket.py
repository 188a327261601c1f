"""Objects below a prefix of an object store, through obstore: listed, read, put whole, and named."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, BinaryIO

from kura_cache_adapters._runtime.fork import ForkLock
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters.errors import UnreachableError, require

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from datetime import datetime

SCHEMES = ("s3", "gs", "az", "file")
"""Where objects may lie: S3 and what speaks its language, Google's and Azure's, a directory."""

_CLIENT = {"connect_timeout": "2s", "allow_http": True}
_SECONDS = {"list": 5, "get": 60, "put": 60, "delete": 60}  # a request: a page, or a part on a slow line
_PART = 5 << 20  # bytes that a request carries, at most; S3 takes no smaller parts
_LONGEST = 300  # characters of a server's answer in an error
_NO_PART = "non-partial"  # what obstore says of an answer to a range that is not called one
_MISSING = {  # in the environment, by what is said then: clients ask an address of clouds for credentials
    "169.254.169.254": (
        "there are no credentials in the environment; a public bucket is read with ?anonymous=true"
    ),
    "Account must be specified": "the environment names no account: set AZURE_STORAGE_ACCOUNT_NAME",
}
_CODE = re.compile(r"<Code>(\w+)</Code>")
_SPACE = re.compile(r"(?!\.)[A-Za-z0-9._-]{0,64}-[0-9a-f]{16}")
_FIRST = "0"  # no name of ours comes before, but `..`, which ends obstore's listing
_used_by: set[int] = set()  # processes: a fork leaves obstore's threads behind


@dataclass(frozen=True, slots=True)
class Object:
    """What a listing says of an object."""

    nbytes: int
    written: datetime


class GoneError(UnreachableError):
    """An object is not there any more."""


class Bucket:
    """A prefix of an object store; what it cannot do is a UnreachableError."""

    def __init__(
        self, url: str, *, anonymous: bool = False, endpoint: str | None = None, region: str | None = None
    ) -> None:
        """Name the place; nothing is asked before the first use.

        Raises ValueError for a URL of another kind, or one with a password in it.
        """
        self.url: str = _checked(url, endpoint, region)
        where = "base_url" if url.startswith("gs:") else "endpoint"
        told = {"skip_signature": anonymous or None, where: endpoint, "region": region}
        self.place: str = f"{self.url} {endpoint}" if endpoint else self.url  # a name is each server's own
        self._config = {name: value for name, value in told.items() if value is not None}
        self.requests: Counter[str] = Counter()
        self._stores: dict[int, Any] = {}
        self._lock = ForkLock()

    def spaces(self) -> list[str]:
        """List the names of spaces; whatever else is there is nobody's."""
        with self._asked("list") as (obstore, store):
            listed = obstore.list_with_delimiter(store)["common_prefixes"]
        return sorted(filter(_SPACE.fullmatch, listed))

    def list(self, space: str) -> dict[str, Object]:
        """List the objects of a space by their names."""
        found: dict[str, Object] = {}
        with self._asked("list") as (obstore, store):
            for page in obstore.list(store, space, offset=f"{space}/{_FIRST}"):
                found.update((each["path"], Object(each["size"], each["last_modified"])) for each in page)
        start = f"{space}/"
        inside = {path[len(start) :]: each for path, each in found.items() if path.startswith(start)}
        return {name: each for name, each in inside.items() if "/" not in name}

    def read(self, space: str, name: str, *, most: int) -> bytes:
        """Read a small object; raise UnreachableError where it has more bytes than that."""
        with self._asked("get") as (obstore, store):
            got = obstore.get(store, f"{space}/{name}")
            if got.meta["size"] <= most:
                return bytes(got.bytes())
        message = f"{name} in {self.url} has {got.meta['size']} bytes, and may have {most}"
        raise UnreachableError(message)

    def fetch(self, space: str, name: str, nbytes: int, file: BinaryIO) -> None:
        """Write an object's bytes to a file, part by part; it has so many.

        A server that gives no parts, or does not say that it does, gives the whole.
        """
        if nbytes <= _PART:
            self._stream(space, name, nbytes, file)
            return
        ends = ((start, min(nbytes, start + _PART)) for start in range(0, nbytes, _PART))
        try:
            file.writelines(self._part(space, name, start, end) for start, end in ends)
        except UnreachableError as error:
            if _NO_PART not in str(error):
                raise
            file.seek(0)
            file.truncate()
            self._stream(space, name, nbytes, file)

    def _part(self, space: str, name: str, start: int, end: int) -> Any:  # noqa: ANN401 - obstore's bytes
        with self._asked("get") as (obstore, store):
            return obstore.get_range(store, f"{space}/{name}", start=start, end=end)

    def _stream(self, space: str, name: str, nbytes: int, file: BinaryIO) -> None:
        with self._asked("get") as (obstore, store):
            parts = obstore.get(store, f"{space}/{name}").stream(_PART)
            file.writelines(part[: nbytes - file.tell()] for part in parts)

    def put(self, space: str, name: str, content: bytes | BinaryIO) -> None:
        """Put an object whole, unless one of its name is there: then it is this one.

        A server that knows no such condition gets the same bytes once more.
        """
        path, small = f"{space}/{name}", isinstance(content, bytes) or _size(content) <= _PART
        with self._asked("put") as (obstore, store):
            if not small:
                obstore.put(store, path, content, use_multipart=True, chunk_size=_PART)
                return
            body = content if isinstance(content, bytes) else content.read()
            try:
                obstore.put(store, path, body, mode="create")
            except obstore.exceptions.AlreadyExistsError as error:
                pass_on_signals(error)
            except obstore.exceptions.BaseError as error:
                pass_on_signals(error)
                if not _unknown_condition(error):
                    raise
                obstore.put(store, path, body)

    def delete(self, space: str, names: Collection[str]) -> None:
        """Delete objects; those that are gone are fine."""
        paths = [f"{space}/{name}" for name in names]
        for some in [paths, *([path] for path in paths)]:
            with self._asked("delete") as (obstore, store), suppress(FileNotFoundError):
                obstore.delete(store, some)
                if some is paths:
                    return  # else one is gone already, which may have ended it: each by itself

    @contextmanager
    def _asked(self, kind: str) -> Iterator[tuple[Any, Any]]:
        """Give obstore and the store; what they raise is a UnreachableError, and a request is counted."""
        obstore = require("obstore", extra="object-store")
        require("obstore.exceptions", extra="object-store")
        with self._lock:
            self.requests[kind] += 1
        try:
            yield obstore, self._opened(_SECONDS[kind])
        except (obstore.exceptions.BaseError, ValueError, OSError) as error:
            pass_on_signals(error)
            if isinstance(error, UnreachableError):
                raise
            gone = kind == "get" and isinstance(error, FileNotFoundError)
            message = f"Could not {kind} in {self.url}: {_told(error)}"
            raise (GoneError if gone else UnreachableError)(message) from None

    def _opened(self, seconds: int) -> Any:  # noqa: ANN401 - obstore's stores have no common class
        _used_by.add(os.getpid())
        if len(_used_by) > 1:
            message = (
                f"{self.url} cannot be reached from a fork of a process that has reached an object store"
            )
            raise UnreachableError(message)
        with self._lock:
            if seconds not in self._stores:
                self._stores[seconds] = self._made(seconds)
            return self._stores[seconds]

    def _made(self, seconds: int) -> Any:  # noqa: ANN401 - as above
        stores = require("obstore.store", extra="object-store")
        scheme, _, path = self.url.partition("://")
        if scheme == "file":
            return stores.LocalStore(os.path.abspath(os.path.expanduser(path)), mkdir=True)  # noqa: PTH100, PTH111
        client = {**_CLIENT, "timeout": timedelta(seconds=seconds)}
        retries = {"max_retries": 1, "retry_timeout": timedelta(seconds=seconds / 2)}
        return stores.from_url(
            self.url, config=self._config or None, client_options=client, retry_config=retries
        )

    def __getstate__(self) -> dict[str, object]:
        """Pickle where it is, never what is open."""
        return {**self.__dict__, "_stores": {}}

    def __repr__(self) -> str:
        """Name the class and the place."""
        return f"{type(self).__name__}({self.url!r})"


def is_space(name: str) -> bool:
    """Tell whether a name is that of a space, and nothing else on any file system."""
    return bool(_SPACE.fullmatch(name))


def _checked(url: str, endpoint: str | None, region: str | None) -> str:
    scheme, separator, path = url.partition("://")
    if not separator or scheme not in SCHEMES or not path.strip("/"):
        message = "no object store is meant by this: write s3://bucket/prefix, gs://, az:// or file://"
        raise ValueError(message)
    if "@" in path.partition("/")[0] or "@" in (endpoint or ""):
        message = f"{scheme}:// takes no password in a URL: put it into the environment, as its tools want it"
        raise ValueError(message)
    if region and scheme != "s3":
        message = f"{scheme}:// takes no region: only buckets of s3:// are asked for in theirs"
        raise ValueError(message)
    if "?" in path:
        message = f"{scheme}:// takes its options by name here, not behind a ?"
        raise ValueError(message)
    return url.rstrip("/")


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _unknown_condition(error: BaseException) -> bool:
    return type(error).__name__ == "NotSupportedError" or "NotImplemented" in str(error)


def _told(error: BaseException) -> str:
    """Say what went wrong in a line: obstore quotes whole answers, and its own insides."""
    told = str(error)
    if missing := next((cure for said, cure in _MISSING.items() if said in told), ""):
        return missing
    line = " ".join(told.partition("\n\nDebug source")[0].split())[:_LONGEST]
    return f"{code[1]}: {line}" if (code := _CODE.search(told)) else line
