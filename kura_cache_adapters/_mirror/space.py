"""Keeps one space's directory and its objects alike: what is new goes up or down, whole and checked."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import atomic, locks, reading
from kura_cache_adapters._mirror.bucket import PAGE, GoneError, Object
from kura_cache_adapters._mirror.checking import check, check_dimension, fetch, is_identity
from kura_cache_adapters._mirror.ledger import Ledger, shorten_lineage, stamp_of
from kura_cache_adapters._mirror.moves import Moved, told
from kura_cache_adapters._mirror.plan import Names
from kura_cache_adapters._mirror.transfers import alone_with, each
from kura_cache_adapters._observe.log import describe
from kura_cache_adapters._runtime.signals import pass_on_signals, suppressed
from kura_cache_adapters._segments import lineage, marks
from kura_cache_adapters._segments.beside import read_identity
from kura_cache_adapters._segments.format import ending_of, row_count
from kura_cache_adapters._segments.parts import parts_in
from kura_cache_adapters._segments.space import SegmentSpace
from kura_cache_adapters._segments.tombstones import is_tombstone
from kura_cache_adapters.errors import DamagedSegmentError, OtherVersionError, UnreachableError
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.receipts import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kura_cache_adapters._mirror.bucket import Bucket
    from kura_cache_adapters._segments.format import SegmentFormat
    from kura_cache_adapters.receipts import SpaceSync

_BESIDE = {marks.IDENTITY_FILE: 1 << 20, marks.ANSWERER_FILE: 1 << 10}  # bytes, at most
_LONGEST_LINEAGE = 16 << 20  # bytes
_LONGEST_ROW = 1 << 20  # bytes of a row: no model has vectors of 100,000 numbers
_LONGEST_TOMBSTONE = 64 << 20  # bytes


@dataclass
class SpaceMirror:
    """One space on disk and in a bucket."""

    bucket: Bucket
    path: Path
    format: SegmentFormat
    patience: float = 5.0  # seconds for another process that syncs this space
    most: int | None = None  # bytes that the cache's directory may have: then the newest are taken
    _refused: dict[str, str] = field(default_factory=dict)  # stamps, by names
    _listed: dict[str, Object] = field(default_factory=dict)
    _listed_at: float = float("-inf")

    @property
    def pages(self) -> int:
        """How many requests a listing takes, as of the last one."""
        return 1 + len(self._listed) // PAGE

    def sync(
        self, *, push: bool, pull: bool, dry_run: bool = False, age: float = 0.0, merged: bool = True
    ) -> SpaceSync:
        """Pull what is new there, push what is new here, and tell what that was.

        The listing may be of so many seconds ago: what is new here goes there, whatever else is. What was
        merged of what is there goes only with a listing that is new: others merge the same.

        Raises UnreachableError where the store cannot be reached, OSError where the directory takes nothing.
        """
        if dry_run:
            return self._planned(push=push, pull=pull)
        ledger = self._ledger.path if self.path.is_dir() else None
        with alone_with(ledger, shared=self.format.shared, patience=self.patience):
            there = self._list(age)
            pulled = self._pull(there) if pull else {}
            names = self._names(there)
            pushed = self._push(names, names.to_push(merged=merged), there) if push else {}
            up, down = ({name for name, one in some.items() if one.nbytes} for some in (pushed, pulled))
            self._note_shared(names, up, down)
            now = datetime.now(timezone.utc)
            there.update((name, Object(one.nbytes, now)) for name, one in pushed.items() if one.nbytes)
        return told(self.path.name, pushed, pulled)

    def _list(self, age: float) -> dict[str, Object]:
        if time.monotonic() - self._listed_at > age:
            self._listed, self._listed_at = self.bucket.list(self.path.name), time.monotonic()
        return self._listed

    def names(self) -> Names:
        """Return what is here and what is there."""
        return self._names(self.bucket.list(self.path.name))

    def shared(self) -> frozenset[str]:
        """Return the names that were here and there at once, but for what has been damaged here since."""
        noted = frozenset(self._ledger.names())
        aside = [path.name[1:].removesuffix(".damaged") for path in marks.set_aside_in(self.path)]
        if not aside:
            return noted
        made_of = lineage.parsed(lineage.read(self.path / lineage.FILE))
        names = Names(frozenset(), frozenset(), noted, made_of)
        damaged = names.leaves(aside)
        return frozenset(name for name in noted if damaged.isdisjoint(names.leaves([name])))

    def identity(self) -> ModelIdentity | None:
        """Read whose space it is, here or else there; None where that does not tell the truth."""
        if (self.path / marks.IDENTITY_FILE).exists():
            return read_identity(self.path)
        with suppressed(ValueError, GoneError):
            file = marks.IDENTITY_FILE
            identity = ModelIdentity.from_json(self.bucket.read(self.path.name, file, most=_BESIDE[file]))
            return identity if identity.directory == self.path.name else None
        return None

    def lacks(self) -> bool:
        """Tell whether a segment is there, or was, whose rows are not here."""
        made_of = lineage.parsed(lineage.read(self.path / lineage.FILE))
        names = Names(self._here(), self._good({**self._listed}), self.shared(), made_of)
        held = names.leaves(names.there | names.shared)
        return not {*filter(ending_of, held)} <= names.leaves(names.here)

    def push(self, names: Names, wanted: Iterable[str]) -> SpaceSync:
        """Put files of this directory into the bucket."""
        return told(self.path.name, self._push(names, wanted, self.bucket.list(self.path.name)), {})

    @property
    def _ledger(self) -> Ledger:
        return Ledger(self.path, self.bucket.place, self.format.shared)

    def _ours(self, name: str) -> bool:
        return bool(lineage.NAME.fullmatch(name)) and (
            is_tombstone(name) or ending_of(name) == self.format.suffix
        )

    def _here(self) -> frozenset[str]:
        with suppressed(FileNotFoundError):
            reading.refuse_link(self.path)
            return frozenset(name for name in os.listdir(self.path) if self._ours(name))  # noqa: PTH208
        return frozenset()

    def _names(self, there: dict[str, Object]) -> Names:
        """Read what was noted here, and there of files that are unknown here."""
        here, shared = self._here(), self.shared()
        self._refused.update(self._ledger.refused())
        noted = lineage.read(self.path / lineage.FILE)
        known = lineage.parsed(noted).keys()
        good = self._good(there)
        unknown = sorted(name for name in good - here - shared - known if lineage.BESIDE + name in there)
        lines = each(self._lineage_of, unknown)
        made_of = lineage.parsed(lineage.APART.join([noted, *lines]))
        return Names(here, good, shared, made_of, begun=marks.IDENTITY_FILE in there)

    def _lineage_of(self, name: str) -> str:
        with suppressed(UnreachableError):  # it tells nothing then
            lines = self.bucket.read(self.path.name, lineage.BESIDE + name, most=_LONGEST_LINEAGE)
            return lines.decode("ascii", "replace")
        return ""

    def _good(self, there: dict[str, Object]) -> frozenset[str]:
        return frozenset(name for name in there if self._ours(name) and self._believed(name, there[name]))

    def _believed(self, name: str, found: Object) -> bool:
        most = _LONGEST_TOMBSTONE if is_tombstone(name) else (1 + row_count(name)) * _LONGEST_ROW
        return 0 < found.nbytes <= most and self._refused.get(name) != stamp_of(found)

    def _planned(self, *, push: bool, pull: bool) -> SpaceSync:
        there = self.bucket.list(self.path.name)
        names = self._names(there)
        up = {name: Moved(reading.size(self.path / name)) for name in (names.to_push() if push else ())}
        new = self._fitting(names.to_pull(), there) if pull else ()
        down = {name: Moved(there[name].nbytes) for name in new}
        return told(self.path.name, up, down)

    def _pull(self, there: dict[str, Object]) -> dict[str, Moved]:
        """Take down what is new; in the place of what is refused, what it was made of."""
        moved, dimension = dict[str, Moved](), self._dimension()
        while True:
            names = self._names(there)
            new = [name for name in names.to_pull() if name not in moved]  # else it was dropped meanwhile
            if not (wanted := self._fitting(new, there)):
                return moved
            marks.make_space(self.path, durable=True, shared=self.format.shared)
            self._pull_beside(there)
            self._note_lineage(names)
            for part in _tombstones_first(wanted):
                moved.update(zip(part, each(partial(self._pulled, there, dimension), part), strict=True))
            gone = [name for name, one in moved.items() if not one.nbytes]
            self._refused.update((name, stamp_of(there[name])) for name in gone)
            self._ledger.note((), {name: self._refused[name] for name in gone if moved[name].lasts})

    def _fitting(self, wanted: list[str], there: dict[str, Object]) -> list[str]:
        if self.most is None:
            return wanted
        tombstones, segments = _tombstones_first(wanted)
        newest = sorted(segments, key=lambda name: there[name].written, reverse=True)
        cache = marks.spaces_in(self.path.parent)
        held = sum(part.nbytes for space in cache for part in parts_in(space, self.format.suffix))
        sums = accumulate((there[name].nbytes for name in newest), initial=held)
        fitting = sum(total <= self.most for total in sums) - 1
        return tombstones + newest[: max(0, fitting)]

    def _pull_beside(self, there: dict[str, Object]) -> None:
        for name, most in _BESIDE.items():
            if name not in there or there[name].nbytes > most or os.path.lexists(self.path / name):
                continue
            content = self.bucket.read(self.path.name, name, most=most)
            if name != marks.IDENTITY_FILE or is_identity(content, self.path.name):
                self._write(name, content)

    def _write(self, name: str, content: bytes) -> None:
        with (
            atomic.published(self.path / name, durable=True) as temporary,
            atomic.create(temporary, shared=self.format.shared) as file,
        ):
            file.write(content)

    def _pulled(self, there: dict[str, Object], dimension: int | None, name: str) -> Moved:
        place = self.path / name
        try:
            with suppressed(FileNotFoundError):
                self._take(place, there[name], dimension)
                return Moved(there[name].nbytes)
            self._take(place, there[name], dimension)  # who forgets has removed what was half there
        except GoneError:  # it was pruned there since it was listed
            return Moved()
        except DamagedSegmentError as error:
            pass_on_signals(error)
            trouble = Trouble(f"{self.bucket.url}/{self.path.name}/{name}", describe(error))
            return Moved(0, trouble, lasts=not isinstance(error, OtherVersionError))
        return Moved(there[name].nbytes)

    def _take(self, place: Path, found: Object, dimension: int | None) -> None:
        with atomic.published(place, durable=True) as temporary:
            fetch(self.bucket, place, found, temporary, self.format)
            check_dimension(temporary, place.name, self.format, dimension)

    def _dimension(self) -> int | None:
        """Return the dimension of the largest segment that is here, which one of another may not join."""
        for name in sorted(filter(ending_of, self._here()), reverse=True):
            with suppressed(OSError):
                return self.format.read(self.path / name).dimension
        return None

    def _push(self, names: Names, wanted: Iterable[str], there: dict[str, Object]) -> dict[str, Moved]:
        new = [name for part in _tombstones_first(wanted) for name in part]
        for name in _BESIDE if new else ():
            if name not in there and (self.path / name).is_file():
                content = reading.read_file(self.path / name, most=_BESIDE[name])
                self.bucket.put(self.path.name, name, content)
        return dict(zip(new, each(partial(self._pushed, names), new), strict=True))

    def _pushed(self, names: Names, name: str) -> Moved:
        """Put a file, and before it what it was made of: who sees it knows that."""
        path = self.path / name
        try:
            check(path, name, self.format)
            with path.open("rb") as file:
                if name in names.made_of:
                    self.bucket.put(self.path.name, lineage.BESIDE + name, names.lineage(name).encode())
                self.bucket.put(self.path.name, name, file)
                return Moved(os.fstat(file.fileno()).st_size)
        except FileNotFoundError:  # merged since it was listed: another file holds its rows
            return Moved()
        except OSError as error:  # it is damaged, a link, or another user's: the others go all the same
            pass_on_signals(error)
            lasts = reading.lasts(error) or isinstance(error, PermissionError)
            if isinstance(error, UnreachableError) or not lasts:
                raise
            return Moved(0, Trouble(str(path), describe(error)))

    def _note_shared(self, names: Names, pushed: set[str], pulled: set[str]) -> None:
        """Note what is here and there: should it go from one of them, it stays away."""
        if not self.path.is_dir():
            return
        self._note_lineage(names)
        new = names.shared_by(pushed | pulled) - {*self._ledger.names()}
        if new - pushed and any(map(is_tombstone, names.here)):
            self._sweep()  # before it is noted: a kill leaves it to the next sync
        self._ledger.note(new, {})
        with locks.try_lock(self.path) as alone:  # as merges hold it: what they have made by now is known
            if alone:
                made_of = lineage.parsed(lineage.read(self.path / lineage.FILE))
                now = replace(names, here=self._here(), made_of=made_of)
                self._ledger.shorten(now)
                shorten_lineage(self.path, now, shared=self.format.shared)

    def _note_lineage(self, names: Names) -> None:
        """Note what files there were made of, so that nobody asks again; merges note theirs from now on."""
        path = self.path / lineage.FILE
        new = (names.there & names.made_of.keys()) - lineage.parsed(lineage.read(path)).keys()
        lineage.append(path, "".join(map(names.lineage, sorted(new))), shared=self.format.shared)

    def _sweep(self) -> None:
        space = SegmentSpace(self.path, None, self.format, quiet=True)
        try:
            space.sweep()
        finally:
            space.close()


def _tombstones_first(names: Iterable[str]) -> tuple[list[str], list[str]]:
    some = [*names]
    return [name for name in some if is_tombstone(name)], [name for name in some if not is_tombstone(name)]
