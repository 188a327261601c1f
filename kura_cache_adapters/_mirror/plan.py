"""Decides what a directory and its mirror have to tell each other: by names, and what was made of what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kura_cache_adapters._segments.format import ending_of, rows_of
from kura_cache_adapters._segments.lineage import ancestry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_WORTH = 8  # files that one stands for alone: then who comes new asks for it instead


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one space's files: here, there, once at both places; and what was made of what."""

    here: frozenset[str]
    there: frozenset[str]
    shared: frozenset[str]
    made_of: Mapping[str, tuple[str, ...]]
    begun: bool = False  # the space is there, though all its files may have been pruned: they stay away

    def leaves(self, names: Iterable[str]) -> set[str]:
        """Return what files hold, by the names under which it was first written."""
        return {at for name in names for at in ancestry(name, self.made_of) if at not in self.made_of}

    def to_pull(self) -> list[str]:
        """Return what brings something new: first what brings nothing else, of that what brings most."""
        known = self.leaves(self.here | self.shared)
        brings = {name: self.leaves([name]) for name in self.there - self.here - self.shared}
        share = {name: len(leaves - known) / len(leaves) for name, leaves in brings.items() if leaves}
        order = sorted(share, key=lambda name: (-share[name], -len(brings[name]), name))
        chosen = []
        for name in order:
            if not brings[name] <= known:
                chosen.append(name)
                known |= brings[name]
        return chosen

    def to_push(self, *, merged: bool = True) -> list[str]:
        """Return what brings something new, or was merged of many files there if no other was."""
        known = self.leaves(self.there | self.shared if self.there or self.begun else ())
        alone = self.there - self.replaced(self.there) if merged else frozenset()
        return sorted(
            name
            for name in self.here - self.there
            if not self.leaves([name]) <= known or _worth(name, alone & self.replaced([name]))
        )

    def replaced(self, names: Collection[str]) -> set[str]:
        """Return what others of these names, or what they were made of, stand for."""
        return {at for name in names for at in ancestry(name, self.made_of) if at != name}

    def replaced_by(self, kept: Collection[str]) -> set[str]:
        """Return what is there and nothing but what is kept holds, under other names, or nothing at all."""
        held = self.leaves(kept)
        return {name for name in self.there - self.here if self.leaves([name]) <= held}

    def standing_for(self, replaced: Iterable[str]) -> set[str]:
        """Return what is here alone and holds something of files there, and what hides rows of them."""
        held = self.leaves(replaced)
        alone = self.here - self.there
        return {name for name in alone if not ending_of(name) or not held.isdisjoint(self.leaves([name]))}

    def shared_by(self, moved: Iterable[str]) -> set[str]:
        """Return what is now known to have been here and there: as it is, or all that it was made of."""
        both = {*self.shared, *(self.here & self.there), *moved}
        held = self.leaves(both)
        rest = (self.here | self.there) - both
        return both | {name for name in rest if self.leaves([name]) <= held}

    def lineage(self, name: str) -> str:
        """Return what a file was made of, as lines that say it to who knows nothing else."""
        made = ((at, self.made_of[at]) for at in ancestry(name, self.made_of) if at in self.made_of)
        return "".join(f"{' '.join([at, *others])}\n" for at, others in made)


def _worth(name: str, alone: Collection[str]) -> bool:
    """Tell whether a file stands for many others, and for little that another one stands for already."""
    return len(alone) >= _WORTH and 2 * sum(map(rows_of, alone)) >= rows_of(name)
