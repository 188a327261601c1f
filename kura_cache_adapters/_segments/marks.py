"""What a cache's directories say about themselves: to people, to git and to backup programs."""

from __future__ import annotations

import os
import re
from itertools import islice
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import atomic, reading
from kura_cache_adapters._runtime.signals import suppressed
from kura_cache_adapters._segments.format import ending_of
from kura_cache_adapters.identity import ModelIdentity

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY_FILE = "_identity.json"
"""Whose space a directory is, for people and for listing. Readers of datasets skip names with `_`."""

ANSWERER_FILE = "_answered_by"
"""The name under which a server answered for the vectors of a space; it is in no key."""

_LONGEST_NAME = 1 << 10  # bytes
_LONGEST_IDENTITY = 1 << 20  # bytes: what is longer is none, and is not read

_TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# This directory is a cache of embeddings (kura_cache_adapters). See https://bford.info/cachedir/
"""
_IGNORED = f"""# The vectors of kura_cache_adapters. Whatever else is here is yours, and not ignored.
/.gitignore
/CACHEDIR.TAG
/*-{"[0-9a-f]" * 16}/
""".encode()


_SPACE = re.compile(r".*-[0-9a-f]{16}")
_LOOKED_INTO = 100  # spaces: a directory of many tenants is not read through


def formats_in(cache: str | os.PathLike[str], *, most: int | None = _LOOKED_INTO) -> set[str]:
    """Tell the formats of the segments in a cache's directory by their endings, without a dot.

    No more spaces than that are looked into.
    """
    with suppressed(OSError), os.scandir(cache) as entries:
        spaces = (each for each in entries if _SPACE.fullmatch(each.name))
        return {ending for space in islice(spaces, most) for ending in _endings_in(space)}
    return set()


def is_space(name: str) -> bool:
    """Tell whether a name may be that of a space's directory."""
    return bool(_SPACE.fullmatch(name))


def set_aside(path: Path) -> None:
    """Give a damaged file or directory a name under which it is not read any more."""
    atomic.move(path, path.with_name(f"_{path.name}.damaged"))


def set_aside_in(space: Path) -> list[Path]:
    """List what was set aside in a space."""
    return sorted(space.glob("_*.damaged"))


def spaces_in(cache: Path) -> list[Path]:
    """List the directories of spaces in a cache's, whatever is in them; raise OSError where that fails."""
    with suppressed(FileNotFoundError), os.scandir(cache) as entries:
        return [cache / each.name for each in entries if _is_space(each)]
    return []


def _is_space(each: os.DirEntry[str]) -> bool:
    return bool(_SPACE.fullmatch(each.name)) and each.is_dir(follow_symlinks=False)


def _endings_in(space: os.DirEntry[str]) -> set[str]:
    with suppressed(OSError):
        inside = os.scandir(space) if space.is_dir(follow_symlinks=False) else ()
        return {ending[1:] for each in inside if (ending := ending_of(each.name))}
    return set()


def make_space(path: Path, *, durable: bool, shared: bool) -> bool:
    """Make a space's directory in its cache's; tell whether any was missing.

    A cache's directory that is made here is marked as one. A directory that was there is left as it is:
    it may hold what is nobody's cache.
    """
    fresh = atomic.make_directory(path.parent, shared=shared)
    if fresh and durable:
        atomic.anchor(path)
    if fresh:
        _write(path.parent / "CACHEDIR.TAG", _TAG, durable=durable, shared=shared)
        _write(path.parent / ".gitignore", _IGNORED, durable=durable, shared=shared)
    return atomic.make_directory(path, shared=shared) or fresh


def identity_in(space: Path) -> ModelIdentity:
    """Read whose space a directory is; raise OSError or ValueError where that cannot be read."""
    return ModelIdentity.from_json(reading.read_file(space / IDENTITY_FILE, most=_LONGEST_IDENTITY))


def write_identity(space: Path, description: bytes, *, durable: bool, shared: bool) -> None:
    """Write down whose space it is, also over a file that a power cut has left shorter."""
    path = space / IDENTITY_FILE
    if path.exists() and (not path.is_file() or path.stat().st_size >= len(description)):
        return
    _write(path, description, durable=durable, shared=shared)


def answerer(space: Path) -> str:
    """Read under which name a server has answered for a space; empty where nothing is noted."""
    with suppressed(FileNotFoundError):
        return reading.read_file(space / ANSWERER_FILE, most=_LONGEST_NAME).decode("utf-8", "replace")
    return ""


def note_answerer(space: Path, name: str, *, shared: bool) -> None:
    """Note under which name a server answers for a space."""
    _write(space / ANSWERER_FILE, name.encode()[:_LONGEST_NAME], durable=False, shared=shared)


def _write(path: Path, content: bytes, *, durable: bool, shared: bool) -> None:
    with (
        atomic.published(path, durable=durable) as temporary,
        atomic.create(temporary, shared=shared) as file,
    ):
        file.write(content)
