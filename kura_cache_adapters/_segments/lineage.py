"""Which files hold what others held: written down where a mirror wants to know, docs/format.md says how.

What was merged, rewritten or lifted has a new name; by its lineage a mirror knows that it brings nothing new.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import reading
from kura_cache_adapters._runtime.signals import suppressed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

FILE = "_lineage"
"""In a space that has a mirror: a line for each file that was made of others, its name and theirs."""

BESIDE = f"{FILE}-"
"""Before the name of a file in a mirror: an object with the lines about it."""

NAME = re.compile(r"(?:[0-9]{9}-[0-9a-f]{16}\.[a-z]{1,16}|_forgotten-[0-9a-f]{16})")
"""The names of files that never change: segments and tombstones."""

APART = " \n"
"""What goes before a line: with it, what a power cut has left of one before says nothing."""

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def note(space: Path, new: Sequence[str], old: Collection[str]) -> None:
    """Note that files hold what others held, or that nothing is left of it, where a mirror asks."""
    if not old or not (path := space / FILE).exists():
        return
    if not new:  # all was forgotten: then so is what they were made of
        made_of = parsed(read(path))
        new, old = sorted({at for name in old for at in ancestry(name, made_of)} - made_of.keys()), ()
    append(path, "".join(f"{' '.join([name, *old])}\n" for name in new))


def append(path: Path, lines: str, *, shared: bool = False) -> None:
    """Add lines to a file in one write; where that fails something is copied once more."""
    with suppressed(OSError):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_FOLLOW
        descriptor = os.open(path, flags, 0o666 if shared else 0o600)
        try:
            os.write(descriptor, f"{APART}{lines}".encode() if lines else b"")
        finally:
            os.close(descriptor)


def read(path: Path) -> str:
    """Read what was noted; nothing where that cannot be read."""
    with suppressed(OSError):
        return reading.read_file(path).decode("ascii", "replace")
    return ""


def parsed(lines: str) -> dict[str, tuple[str, ...]]:
    """Return of which files each was made, of none what is forgotten; any other line is ignored."""
    words = [line.split(" ") for line in lines.split("\n")[:-1]]  # what a kill has cut says nothing
    told = [each for each in words if all(map(NAME.fullmatch, each))]
    return {name: tuple(others) for name, *others in reversed(told)}  # what was said first counts


def ancestry(name: str, made_of: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield a file's name and those of all that it was made of, each once."""
    seen, waiting = {name}, [name]
    while waiting:
        yield (at := waiting.pop())
        news = {*made_of.get(at, ())} - seen
        seen |= news
        waiting += sorted(news)


def without(made_of: Mapping[str, tuple[str, ...]], gone: Collection[str]) -> str:
    """Return the lines about all but some files; in the place of their names is what they were made of."""
    kept = ((name, dict.fromkeys(_nearest(name, made_of, gone))) for name in made_of if name not in gone)
    return "".join(f"{' '.join([name, *others])}\n" for name, others in kept)


def _nearest(name: str, made_of: Mapping[str, tuple[str, ...]], gone: Collection[str]) -> Iterator[str]:
    seen, waiting = {name}, [*made_of[name]]
    while waiting:
        at = waiting.pop()
        if at in gone and at not in seen:
            waiting += made_of[at]
        elif at not in seen:
            yield at
        seen.add(at)
