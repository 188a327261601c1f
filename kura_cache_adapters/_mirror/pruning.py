"""Prunes a bucket: what files here are proven to hold as well, and what is beyond bounds over all spaces."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import reading
from kura_cache_adapters._mirror.bucket import GoneError
from kura_cache_adapters._mirror.checking import fetch
from kura_cache_adapters._mirror.transfers import each
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters._segments import lineage
from kura_cache_adapters._segments.bounds import Bounds, Upkeep
from kura_cache_adapters._segments.format import ending_of, rows_of
from kura_cache_adapters._segments.gathering import as_bytes
from kura_cache_adapters._segments.listing import Listing
from kura_cache_adapters._segments.search import Search
from kura_cache_adapters._segments.space import SegmentSpace
from kura_cache_adapters._segments.tombstones import Tombstones, is_tombstone
from kura_cache_adapters.checks import key_matrix
from kura_cache_adapters.errors import DamagedSegmentError
from kura_cache_adapters.spaces import Cleaned, CleaningReceipt, Part

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from kura_cache_adapters._mirror.bucket import Object
    from kura_cache_adapters._mirror.plan import Names
    from kura_cache_adapters._mirror.space import SpaceMirror
    from kura_cache_adapters.identity import ModelIdentity

_logger = logger_of("store")

_AT_ONCE = 16 * 1024  # rows
_YOUNG = timedelta(hours=1)  # by the bucket's clock


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to go of one space, and which files stand for it."""

    mirror: SpaceMirror
    identity: ModelIdentity
    names: Names
    kept: frozenset[str]
    replaced: list[Part]
    rest: list[Part]


def prune(mirrors: Iterable[SpaceMirror], bounds: Bounds, *, dry_run: bool) -> CleaningReceipt:
    """Delete what is replaced and, the oldest first over all spaces, what is beyond bounds."""
    plans = [plan for mirror in mirrors if (plan := _planned(mirror, bounds, dry_run=dry_run))]
    beyond = bounds.beyond(
        [(plan.mirror, part) for plan in plans for part in plan.rest], datetime.now(timezone.utc)
    )
    cleaned = []
    for plan in plans:
        doomed = plan.replaced + [part for mirror, part in beyond if mirror is plan.mirror]
        if doomed and not dry_run:
            _delete(plan, {part.name for part in doomed})
        if doomed:
            cleaned.append(_told(plan, doomed))
    return CleaningReceipt(tuple(cleaned), dry_run)


def _planned(mirror: SpaceMirror, bounds: Bounds, *, dry_run: bool) -> _Plan | None:
    if (identity := mirror.identity()) is None:
        return None
    if not dry_run:
        _merge(mirror, identity, bounds)
    names = mirror.names()
    if not dry_run and (claimed := names.replaced_by(names.here)):
        mirror.push(names, names.standing_for(claimed))
        names = mirror.names()
    there = mirror.bucket.list(mirror.path.name)
    kept = frozenset(name for name in names.here if dry_run or _is_there(mirror, name, there))
    claimed = names.replaced_by(kept) & there.keys()
    replaced = claimed if dry_run else _proven(mirror, sorted(claimed), kept, there)
    parts = [_part(name, found) for name, found in there.items() if lineage.NAME.fullmatch(name)]
    rest = [part for part in parts if part.name not in replaced and ending_of(part.name)]
    return _Plan(mirror, identity, names, kept, [part for part in parts if part.name in replaced], rest)


def _merge(mirror: SpaceMirror, identity: ModelIdentity, bounds: Bounds) -> None:
    """Merge what has come together there, but for what others have not taken yet: they would take it all."""
    there = mirror.bucket.list(mirror.path.name)
    newest = max((found.written for found in there.values()), default=datetime.now(timezone.utc))
    upkeep = Upkeep(mirror.path.parent, mirror.format.suffix, Bounds(older_than=bounds.older_than))
    space = SegmentSpace(mirror.path, identity, mirror.format, upkeep, quiet=True)
    if mirror.path.is_dir():
        space.sweep()
        space.merge_due([name for name, found in there.items() if found.written <= newest - _YOUNG])
    space.close()


def _is_there(mirror: SpaceMirror, name: str, there: dict[str, Object]) -> bool:
    with suppress(FileNotFoundError):  # merged since it was listed
        return name in there and there[name].nbytes == reading.size(mirror.path / name)
    return False


def _proven(
    mirror: SpaceMirror, claimed: Collection[str], kept: frozenset[str], there: dict[str, Object]
) -> set[str]:
    """Return which objects hold no more than what is kept: anybody may have written their lineage."""
    held = _Held(mirror, kept)
    proven = {name for some in _batches(claimed) for name in held.covered({at: there[at] for at in some})}
    if left := {*claimed} - proven:
        message = "Left %d objects in %s/%s that are said to be replaced: not all they hold is here, as %s"
        _logger.warning(message, len(left), mirror.bucket.url, mirror.path.name, min(left))
    return proven


def _batches(names: Iterable[str]) -> list[list[str]]:
    """Put names together, of so many rows that looking them all up is worth it and fits into memory."""
    batches: list[list[str]] = [[]]
    rows = 0
    for name in names:
        rows += 1 + rows_of(name)
        if rows > _AT_ONCE:
            rows = 1 + rows_of(name)
            batches.append([])
        batches[-1].append(name)
    return batches


class _Held:
    """What the files that are kept hold: rows, each by its checksum, and what is forgotten."""

    def __init__(self, mirror: SpaceMirror, kept: Collection[str]) -> None:
        """Open the files; one that is gone or damaged holds nothing."""
        self._mirror = mirror
        opened = Listing(mirror.path, mirror.format, quiet=True).refresh()
        self._segments = [segment for name, segment in opened.items() if name in kept]
        self._tombstones = Tombstones(mirror.path, shared=mirror.format.shared)
        self._tombstones.read([name for name in kept if is_tombstone(name)])

    def covered(self, found: dict[str, Object]) -> list[str]:
        """Read objects; return those of which each key is held, or forgotten."""
        with TemporaryDirectory() as directory:
            read = each(lambda name: self._keys(Path(directory) / name, found[name]), [*found])
        keys_of = {name: keys for name, keys in zip(found, read, strict=True) if keys is not None}
        wanted = sorted(frozenset[bytes]().union(*keys_of.values()) - self._tombstones.keys)
        search = Search(key_matrix(wanted))
        search.visit(self._segments)
        missing = {key for key, known in zip(wanted, search.found, strict=True) if not known}
        return [name for name, keys in keys_of.items() if keys.isdisjoint(missing)]

    def _keys(self, path: Path, found: Object) -> set[bytes] | None:
        """Read an object by way of a file, which goes; nothing where it is not what its name says."""
        try:
            fetch(self._mirror.bucket, self._mirror.path / path.name, found, path, self._mirror.format)
            if is_tombstone(path.name):
                return {*Tombstones(path.parent, shared=True).standing(path.name)}
            return {*as_bytes(self._mirror.format.read(path))}
        except (GoneError, DamagedSegmentError) as error:
            pass_on_signals(error)
            return None
        finally:
            path.unlink(missing_ok=True)


def _part(name: str, found: Object) -> Part:
    return Part(name, rows_of(name), found.nbytes, found.written, found.written)


def _delete(plan: _Plan, gone: set[str]) -> None:
    """Delete objects, then what was said of them; put back what another who prunes has taken for replaced."""
    mirror = plan.mirror
    mirror.bucket.delete(mirror.path.name, gone)
    mirror.bucket.delete(mirror.path.name, _said_of_none(mirror.bucket.list(mirror.path.name), gone))
    left = mirror.names()
    mirror.push(left, plan.kept - left.there - gone)


def _said_of_none(there: dict[str, Object], gone: set[str]) -> list[str]:
    """Return the lineages of what has gone, also by one who was killed; a young one waits for its object."""
    said = {name: name.removeprefix(lineage.BESIDE) for name in there if name.startswith(lineage.BESIDE)}
    old = max((found.written for found in there.values()), default=datetime.now(timezone.utc)) - _YOUNG
    alone = ((name, file) for name, file in said.items() if file not in there)
    return [name for name, file in alone if file in gone or there[name].written <= old]


def _told(plan: _Plan, doomed: list[Part]) -> Cleaned:
    rows, nbytes = sum(part.entries for part in doomed), sum(part.nbytes for part in doomed)
    where = plan.mirror.bucket.url
    return Cleaned(plan.identity, plan.mirror.path.name, where, len(doomed), rows, nbytes)
