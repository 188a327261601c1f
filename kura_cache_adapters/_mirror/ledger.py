"""Notes for each mirror what was here and there at once, and what was refused, as long as that is of use."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import atomic
from kura_cache_adapters._runtime.signals import suppressed
from kura_cache_adapters._segments import lineage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from kura_cache_adapters._mirror.bucket import Object
    from kura_cache_adapters._mirror.plan import Names

_ALL = "_mirrored-*"
_REMEMBERED = 10_000  # names of files that are neither here nor there, nor in what is

_LONG = 1 << 20  # characters of lineage


@dataclass(frozen=True, slots=True)
class Ledger:
    """One space's lines about one mirror."""

    space: Path
    place: str
    shared: bool  # readable as the umask says

    @property
    def path(self) -> Path:
        """Where they are."""
        return self.space / _ALL.replace("*", sha256(self.place.encode()).hexdigest()[:16])

    def names(self) -> list[str]:
        """Return the names that were here and there at once, in the order in which they came."""
        return _names_in(self.path)

    def refused(self) -> dict[str, str]:
        """Return the stamps of what was refused, by names."""
        lines = (line.partition(" ") for line in lineage.read(self.path).split("\n"))
        return {name: stamp for name, _, stamp in lines if stamp}

    def note(self, names: Iterable[str], refused: Mapping[str, str]) -> None:
        """Add names, and what was refused."""
        lines = [*sorted(names), *(f"{name} {stamp}" for name, stamp in sorted(refused.items()))]
        lineage.append(self.path, "".join(f"{line}\n" for line in lines), shared=self.shared)

    def shorten(self, now: Names) -> None:
        """Leave out names that tell nothing which others do not, but for the last ones; the lock is held.

        A machine that was away may still have such a file: then its rows are moved once more, not lost.
        """
        told, alive = self.names(), now.here | now.there
        kept = alive.intersection(told)
        if len(told) - len(kept) <= 2 * _REMEMBERED:
            return
        needed = now.leaves(alive) - now.leaves(kept)
        dead = [name for name in told if name not in kept]
        useful = {name for name in dead if not needed.isdisjoint(now.leaves([name]))}
        last = [name for name in dead if name not in useful][-_REMEMBERED:]
        stays = kept | useful | {*last}
        refused = (f"{name} {stamp}" for name, stamp in self.refused().items() if name in now.there)
        lines = [*(name for name in dict.fromkeys(told) if name in stays), *refused]
        _put(self.path, "".join(f"{line}\n" for line in lines), shared=self.shared)


def stamp_of(found: Object) -> str:
    """Return what changes when an object is put anew."""
    return f"{found.nbytes} {found.written.timestamp():.6f}"


def shorten_lineage(space: Path, now: Names, *, shared: bool) -> None:
    """Leave out lines about files that no ledger knows and that are neither here nor there; the lock is held.

    What is left says of which leaves it was made, if those in between are left out.
    """
    lines = lineage.read(space / lineage.FILE)
    made_of = lineage.parsed(lines)
    named = now.here.union(now.there, *map(_names_in, space.glob(_ALL)))
    if len(lines) > _LONG and 2 * len(made_of.keys() & named) < len(made_of):
        _put(space / lineage.FILE, lineage.without(made_of, made_of.keys() - named), shared=shared)


def _names_in(path: Path) -> list[str]:
    return [line for line in lineage.read(path).split("\n") if line and " " not in line]


def _put(path: Path, lines: str, *, shared: bool) -> None:
    with (
        suppressed(OSError),
        atomic.published(path, durable=True) as temporary,
        atomic.create(temporary, shared=shared) as file,
    ):
        file.write(lines.encode())
