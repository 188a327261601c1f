"""What forgetting, verifying and syncing answer with: plain values for people, logs and files of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

KEPT_DAYS = 90.0
"""How long a tombstone stands against copies, backups and machines that were away, unless told."""

VERSION = 1
"""Version of the receipts' and reports' JSON."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is not as it should be: where, and why.

    Attributes:
        where: a file, a directory, or the repr of a store.
        why: what is wrong, and the cure where there is one.
        repaired: whether that is over now.

    """

    where: str
    why: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was done to forget keys in one space of one store.

    Attributes:
        store: the store's repr.
        space: the name of the space, as its directory has it; empty where a store tells no spaces apart.
        keys: which of the keys were there, as 64 hexadecimal characters.
        removed: the names of the files that held their rows, or may have, and are gone.
        unreachable: what may still hold a vector of theirs.

    """

    store: str
    space: str
    keys: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unreachable: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was forgotten, and where.

    Attributes:
        keys: all that were to be forgotten, as 64 hexadecimal characters. Who knows a text can tell whether
            its key is among them, unless the keys were made with a secret.
        days: how long copies that are put back stay hidden.
        at: when it was done, in UTC, as ISO 8601 writes it.
        spaces: what was done in each space of each store.

    """

    keys: tuple[str, ...]
    days: float
    at: str
    spaces: tuple[Forgotten, ...] = ()

    @property
    def there(self) -> int:
        """How many of the keys were there, in whatever tier."""
        return len({key for space in self.spaces for key in space.keys})

    @property
    def unreachable(self) -> tuple[Trouble, ...]:
        """What may still hold a vector of theirs, and why."""
        return tuple(trouble for space in self.spaces for trouble in space.unreachable)

    @property
    def complete(self) -> bool:
        """Whether everything could be reached."""
        return not self.unreachable

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, its version included."""
        return {"version": VERSION, **asdict(self), "there": self.there, "complete": self.complete}

    def to_json(self) -> str:
        """Write it as indented JSON."""
        return json.dumps(self.as_dict(), indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class SpaceReport:
    """What was read of one space of one store.

    Attributes:
        store: the store's repr.
        space: the name of the space, as its directory has it.
        rows: how many were read, a key that is there twice as two.
        damaged: those of them whose checksum is wrong, or whose vector is not fit to use.
        files: how many files or directories of rows were read; entries, where each is by itself.
        set_aside: files of damaged rows that an earlier merge or repair has set aside.
        troubles: what is wrong, file by file; empty when all is well.

    """

    store: str
    space: str
    rows: int = 0
    damaged: int = 0
    files: int = 0
    set_aside: tuple[str, ...] = ()
    troubles: tuple[Trouble, ...] = ()

    @property
    def intact(self) -> int:
        """How many rows are as they were written."""
        return self.rows - self.damaged


@dataclass(frozen=True, slots=True)
class Report:
    """What reading every checksum of a cache has found, space by space."""

    spaces: tuple[SpaceReport, ...] = ()

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """All that is, or was, wrong."""
        return tuple(trouble for space in self.spaces for trouble in space.troubles)

    @property
    def sound(self) -> bool:
        """Whether nothing was wrong that is not repaired now."""
        return all(trouble.repaired for trouble in self.troubles)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, its version included."""
        return {"version": VERSION, **asdict(self), "sound": self.sound}


@dataclass(frozen=True, slots=True)
class SpaceSync:
    """What went between one space and its mirror; of a dry run, what would.

    Attributes:
        space: the name of the space, as its directory has it.
        pushed: how many files went up.
        pulled: how many came down.
        pushed_bytes: in these.
        pulled_bytes: in those.
        refused: what was not taken from there, or not given, and why.

    """

    space: str
    pushed: int = 0
    pulled: int = 0
    pushed_bytes: int = 0
    pulled_bytes: int = 0
    refused: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True)
class SyncReceipt:
    """What went between a cache and its mirror in an object store.

    Attributes:
        url: the mirror's, without options.
        spaces: what went, space by space.
        requests: how many that took, by kind: list, get, put, delete. A large file that is put takes more.
        dry_run: nothing was changed.

    """

    url: str
    spaces: tuple[SpaceSync, ...] = ()
    requests: Mapping[str, int] = field(default_factory=dict)
    dry_run: bool = False

    @property
    def pushed(self) -> int:
        """How many files went up."""
        return sum(each.pushed for each in self.spaces)

    @property
    def pulled(self) -> int:
        """How many files came down."""
        return sum(each.pulled for each in self.spaces)

    @property
    def refused(self) -> tuple[Trouble, ...]:
        """What was not taken from there, or not given, and why."""
        return tuple(trouble for each in self.spaces for trouble in each.refused)


@dataclass(frozen=True, slots=True)
class RoleDrift:
    """How far the vectors that a model returns now are from its cached ones, in one role.

    Attributes:
        role: what the texts were embedded as.
        cached: how many of the texts are in the cache.
        sampled: how many of these were embedded again.
        largest: the largest absolute difference of two numbers; None where nothing was compared.
        cosine_min: the smallest cosine of an old and a new vector.
        cosine_median: the median of them.
        dimensions: of the cached vectors and of the new ones.
        changed: whether another model answers.

    """

    role: str
    cached: int
    sampled: int = 0
    largest: float | None = None
    cosine_min: float | None = None
    cosine_median: float | None = None
    dimensions: tuple[int, int] | None = None
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a model has moved from what is cached of it, role by role.

    Attributes:
        model_name: the model's.
        space: the name of the space that holds the cached vectors.
        tolerance: the cosine distance at the median up to which it counts as the same model.
        roles: what was compared in each role.

    """

    model_name: str
    space: str
    tolerance: float
    roles: tuple[RoleDrift, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether another model answers, in any role."""
        return any(role.changed for role in self.roles)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, its version included."""
        return {"version": VERSION, **asdict(self), "changed": self.changed}
