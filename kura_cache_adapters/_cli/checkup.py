"""What doctor looks at: the installation, the environment, and the directory or server of a cache."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from kura_cache_adapters._cli.words import bytes_of
from kura_cache_adapters._core.modes import VARIABLE
from kura_cache_adapters._disk import filesystems, locks
from kura_cache_adapters.cache import open_cache
from kura_cache_adapters.errors import KuraCacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kura_cache_adapters.cache import Cache

_PACKAGES = ["kura-cache-adapters", "numpy", "pyarrow", "datasets", "openai", "sentence-transformers"]
_FRAMEWORKS = ["langchain-core", "llama-index-core", "kura"]
_CLIENTS = ["redis", "psycopg", "obstore"]
_LITTLE = 1 << 30  # bytes free, below which a cache soon has no room


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and whether a cache can work with it."""

    what: str
    found: str
    fine: bool = True


def findings(cache: str) -> list[Finding]:
    """Look at everything; raise ValueError for a URL that cannot be one."""
    return [*_installation(), *_environment(), *_place(cache)]


def _installation() -> Iterator[Finding]:
    yield Finding("Python", f"{platform.python_version()} on {platform.system()}")
    for package in _PACKAGES + _FRAMEWORKS + _CLIENTS:
        try:
            yield Finding(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(package, "not installed")


def _environment() -> Iterator[Finding]:
    if mode := os.environ.get(VARIABLE):
        yield Finding(VARIABLE, f"all models of a process that starts here work in the mode {mode!r}")


def _place(cache: str) -> Iterator[Finding]:
    with open_cache(cache) as there:
        yield Finding("cache", repr(there.store))
        if (path := getattr(there.store, "path", None)) is not None:
            yield from _directory(Path(path), there)
        elif getattr(there.store, "remote", False):
            yield from _server(there)


def _server(cache: Cache) -> Iterator[Finding]:
    try:
        yield Finding("server", f"answers; it has {len(cache.store.spaces())} spaces")
    except (OSError, KuraCacheError) as error:
        yield Finding("server", str(error), fine=False)


def _directory(path: Path, cache: Cache) -> Iterator[Finding]:
    if not path.is_dir():
        yield Finding("directory", f"{path} is not there; the first write makes it")
        return
    yield from _room(path)
    yield Finding("spaces", str(len(cache.spaces())))


def _room(path: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(path).free
    yield Finding("free", bytes_of(free), free >= _LITTLE)
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            local = filesystems.is_local(file.fileno())
    except OSError as error:
        yield Finding("writing", f"{error.strerror}: nothing new is kept", fine=False)
        return
    yield Finding("writing", "works")
    yield Finding("file system", "local: files are mapped" if local else "not local: files are read")
    with locks.try_lock(path) as alone:
        yield Finding("lock", "free" if alone else "held by another process, which is all right")
