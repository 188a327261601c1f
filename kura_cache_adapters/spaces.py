"""What a cache holds of each model, in which parts, and what cleaning takes of it: plain values to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime

    from kura_cache_adapters.identity import ModelIdentity

SpaceName: TypeAlias = "ModelIdentity | SpaceInfo | str"
"""What a space is called by: its identity, its info, its name, or the name of its model."""


@dataclass(frozen=True, slots=True)
class SpaceInfo:
    """What a cache holds of one model; None where its store cannot tell.

    Attributes:
        identity: whose vectors they are.
        name: by which a person calls the space, and the name of its directory where it has one.
        entries: how many, with those twice that two processes have stored at the same time.
        nbytes: of what is stored, on disk or in memory.
        parts: how many files, or whatever goes as a whole.
        dimension: of the vectors; None for none, too.
        oldest_write: when the newest row of the oldest part was written, in UTC.
        newest_write: when the newest row was written, in UTC.
        last_use: when a row was last found or written, in UTC; up to a day later than it says.

    """

    identity: ModelIdentity
    name: str
    entries: int | None
    nbytes: int | None
    parts: int
    dimension: int | None
    oldest_write: datetime | None = None
    newest_write: datetime | None = None
    last_use: datetime | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What goes as a whole: a segment, or a damaged one that was put aside, which has no entries.

    Attributes:
        name: by which its space knows it.
        entries: its rows.
        nbytes: on disk.
        written: when its newest row was written, in UTC.
        used: when a row of it was last found or written, in UTC; up to a day later than it says. None
            where uses are not noted.

    """

    name: str
    entries: int
    nbytes: int
    written: datetime
    used: datetime | None


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What goes of one space, in one store.

    Attributes:
        identity: whose vectors they are.
        name: the space's.
        where: the space as its store shows it, which tells tiers apart.
        parts: how many files go.
        entries: how many rows go with them.
        nbytes: how many bytes are freed; None where the store cannot tell.

    """

    identity: ModelIdentity
    name: str
    where: str
    parts: int
    entries: int
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class CleaningReceipt:
    """What a cleaning has taken or, of a dry run, what it would take.

    Attributes:
        spaces: those of which something goes.
        dry_run: nothing was changed.

    """

    spaces: tuple[Cleaned, ...]
    dry_run: bool = False

    @property
    def parts(self) -> int:
        """How many files go."""
        return sum(each.parts for each in self.spaces)

    @property
    def entries(self) -> int:
        """How many rows go, over all tiers."""
        return sum(each.entries for each in self.spaces)

    @property
    def nbytes(self) -> int:
        """How many bytes are freed, as far as stores can tell."""
        return sum(each.nbytes or 0 for each in self.spaces)
