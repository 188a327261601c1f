"""Remembers on this machine what the files of a local model hold, so that a run of hits loads none."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._disk import atomic, reading
from kura_cache_adapters._identity.local_models import CONTENT_VERSION, Content

if TYPE_CHECKING:
    from collections.abc import Mapping

_LIBRARIES = ("sentence-transformers", "transformers", "tokenizers", "torch", "peft")
_LONGEST = 1 << 22  # bytes of a note


def place_of(directory: Path, arguments: Mapping[str, Any]) -> Path | None:
    """Return where a note on a model lies; None where its files and arguments do not tell all of it.

    Its name is a digest of all that loading the model depends on: the files' contents, the
    arguments, the libraries. Whatever else changes costs one more loading, never a wrong note.
    """
    if _leads_elsewhere(directory, arguments):
        return None
    try:
        told = json.dumps(arguments, sort_keys=True, allow_nan=False)
        loaded = [_files(directory), told, CONTENT_VERSION, *map(_version, _LIBRARIES)]
        home = Path(os.environ.get("XDG_CACHE_HOME", ""))
        home = home if home.is_absolute() else Path("~/.cache").expanduser()
    except (TypeError, ValueError, OSError, RuntimeError):  # the last: a user without a home
        return None
    name = sha256(json.dumps(loaded).encode()).hexdigest()
    return Path(home, "kura-cache-adapters", "models", f"{name}.json")


def recall(place: Path | None) -> Content | None:
    """Read a note; None when there is none, or none as it was written."""
    if place is None:
        return None
    try:
        digest, _, text = bytes(reading.read_file(place, most=_LONGEST)).partition(b"\n")
        return Content.from_json(text) if digest == _seal(text) else None
    except (OSError, ValueError, TypeError):
        return None


def remember(place: Path | None, content: Content) -> None:
    """Write a note, if that is possible: without one, the next run loads the model."""
    if place is None:
        return
    try:
        atomic.make_directory(place.parent)
        with atomic.published(place, durable=False) as temporary, atomic.create(temporary) as file:
            text = content.to_json().encode()
            file.write(_seal(text) + b"\n" + text)
    except OSError:
        return


def _leads_elsewhere(directory: Path, arguments: Mapping[str, Any]) -> bool:
    """Tell whether a model is loaded from more than its directory: code, an adapter's base, other files."""
    if arguments.get("trust_remote_code") or any(directory.rglob("adapter_config.json")):
        return True
    return any(_names_a_file(value) for value in arguments.values())


def _names_a_file(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_names_a_file, value.values()))
    return isinstance(value, str) and os.sep in value and Path(value).exists()


def _seal(text: bytes) -> bytes:
    """Digest a note: a damaged one would name another model, or none."""
    return sha256(text).hexdigest().encode()


def _files(directory: Path) -> list[list[str]]:
    """Digest the files of a model by name; of what only describes or was downloaded along, nothing."""
    found = [path for path in directory.rglob("*") if path.is_file()]
    kept = [
        path for path in found if not any(part.startswith(".") for part in path.relative_to(directory).parts)
    ]
    return [
        [path.relative_to(directory).as_posix(), _digest(path, path.stat().st_size, path.stat().st_mtime_ns)]
        for path in sorted(kept)
        if path.suffix.lower() != ".md"
    ]


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 - when to read it again
    total = sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


@lru_cache(maxsize=16)
def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
