"""Reads every checksum of a space, and repairs it: intact rows are written anew, the rest is set aside."""

from __future__ import annotations

import copy
import os
import stat
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._disk import atomic, locks, reading
from kura_cache_adapters._observe.log import describe
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters._segments import marks
from kura_cache_adapters._segments.claims import DIRECTORY, GATE
from kura_cache_adapters._segments.format import row_count
from kura_cache_adapters._segments.rows import checksums_of, chunk_rows, prefixes_of
from kura_cache_adapters._segments.tombstones import is_tombstone
from kura_cache_adapters.errors import DamagedSegmentError, OtherVersionError
from kura_cache_adapters.receipts import SpaceReport, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kura_cache_adapters._segments.format import Segment
    from kura_cache_adapters._segments.listing import Listing
    from kura_cache_adapters._segments.merge import Merger
    from kura_cache_adapters._segments.writer import Writer
    from kura_cache_adapters.protocols import Vectors

_PATIENCE = 30  # seconds for the lock, which a merge on a slow disk may hold
_LISTINGS = 3  # merges under our hands put rows into new files


@dataclass(frozen=True, slots=True)
class _Finding:
    """Something wrong, and what repairs it: called under the lock; tells whether nothing is left to do."""

    path: Path
    why: str
    cure: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of one segment; the dimension of one that could not be read is 0."""

    path: Path
    rows: int = 0
    damaged: int = 0
    dimension: int = 0
    finding: _Finding | None = None


def verify(listing: Listing, merger: Merger, writer: Writer, *, repair: bool) -> SpaceReport:
    """Read all that a space has on disk, and repair it where that is asked for."""
    return _Verifier(listing, merger, writer).report(repair=repair)


class _Verifier:
    def __init__(self, listing: Listing, merger: Merger, writer: Writer) -> None:
        self._path, self._listing, self._merger, self._writer = listing.path, listing, merger, writer
        self._format = copy.copy(listing.format)
        self._format.mapped = False  # a bad sector under a map is a signal, of which nobody could tell

    def report(self, *, repair: bool) -> SpaceReport:
        parts = self._segments()
        findings = [
            *(part.finding for part in parts if part.finding),
            *self._strangers(parts),
            *self._tombstones(),
            *self._identity(),
            *self._claims(),
            *self._leftovers(),
        ]
        troubles = self._repaired(findings) if repair and findings else [*map(_trouble, findings)]
        return SpaceReport(
            store="",
            space=self._path.name,
            rows=sum(part.rows for part in parts),
            damaged=sum(part.damaged for part in parts),
            files=len(parts),
            set_aside=tuple(path.name for path in marks.set_aside_in(self._path)),
            troubles=tuple(troubles),
        )

    def _segments(self) -> list[_Read]:
        """Read every segment, also those that appear meanwhile, and leave out what was merged away."""
        parts: dict[str, _Read | None] = {}
        for _ in range(_LISTINGS):
            names = self._listing.segments()
            if not (new := names - parts.keys()):
                break
            parts |= {name: self._segment(name) for name in sorted(new)}
        return [part for name in names if (part := parts.get(name)) is not None]

    def _segment(self, name: str) -> _Read | None:
        """Read one segment; None for one that is gone."""
        path = self._path / name
        try:
            segment = self._format.read(path)
            damaged, ordered = checked(segment)
            flaw = f"{damaged} of its {len(segment)} rows are damaged" if damaged else ""
            flaw = flaw or ("" if ordered else "its rows are not where they are looked for")
            flaw = flaw or ("" if len(segment) == row_count(name) else f"it has {len(segment)} rows")
            flaw = flaw or self._flaw(path)
        except OSError as error:
            pass_on_signals(error)
            return _Read(path, finding=_unreadable(path, error)) if os.path.lexists(path) else None
        finding = _Finding(path, flaw, partial(self._rewrite, name)) if flaw else None
        return _Read(path, len(segment), damaged, segment.dimension, finding)

    def _flaw(self, path: Path) -> str:
        """Say what beside the rows other readers would stumble over."""
        flaw: Callable[[Path], str] = getattr(self._format, "flaw", lambda _: "")
        return flaw(path)

    def _rewrite(self, name: str) -> None:
        if os.path.lexists(self._path / name):
            self._merger.rewrite(name, self._format.read(self._path / name), self._listing.tombstones.keys)

    def _strangers(self, parts: list[_Read]) -> Iterator[_Finding]:
        """Find segments of another dimension than most rows have: a look-up serves one."""
        rows = Counter[int]()
        for part in parts:
            rows[part.dimension] += part.rows
        most = max(rows, key=rows.__getitem__, default=0)
        for part in parts:
            if part.dimension not in {0, most}:
                why = f"its vectors have {part.dimension} dimensions, and most here {most}"
                yield _Finding(part.path, why, partial(_set_aside, part.path))

    def _tombstones(self) -> Iterator[_Finding]:
        tombstones = self._listing.tombstones
        for path in sorted(path for path in self._path.iterdir() if is_tombstone(path.name)):
            try:
                tombstones.check(path.name)
            except FileNotFoundError:
                continue
            except OSError as error:
                pass_on_signals(error)
                finding = _unreadable(path, error)
                why = f"what it says is forgotten may come back: {finding.why}"
                yield replace(finding, why=why, cure=finding.cure and partial(self._save_tombstone, path))

    def _save_tombstone(self, path: Path) -> None:
        self._listing.tombstones.salvage(path.name)
        _set_aside(path)

    def _identity(self) -> Iterator[_Finding]:
        path = self._path / marks.IDENTITY_FILE
        try:
            right = marks.identity_in(self._path).directory == self._path.name
            why = "" if right else "it is that of another space"
        except FileNotFoundError:
            why = "it is missing"
        except (OSError, ValueError) as error:
            pass_on_signals(error)
            why = describe(error)
        if why:
            yield _Finding(path, why, partial(self._write_identity, path))

    def _write_identity(self, path: Path) -> None:
        if os.path.lexists(path):
            _set_aside(path)
        if not self._writer.describe(durable=True):
            message = "its model writes it again with its next vectors"
            raise DamagedSegmentError(message)

    def _claims(self) -> Iterator[_Finding]:
        path = self._path / DIRECTORY
        if not (_may_be(stat.S_ISDIR, path) and _may_be(stat.S_ISREG, path / GATE)):
            why = "no process can claim texts, so that several pay for the same"
            yield _Finding(path, why, partial(atomic.remove, path))

    def _leftovers(self) -> Iterator[_Finding]:
        for path in atomic.stale_temporaries(self._path):
            yield _Finding(path, "a killed writer has left it", partial(atomic.remove, path))

    def _repaired(self, findings: list[_Finding]) -> list[Trouble]:
        with locks.patient_lock(self._path, patience=_PATIENCE) as alone:
            self._listing.refresh()
            troubles = [_cured(finding) if alone else _trouble(finding) for finding in findings]
        self._listing.refresh()
        return troubles


def checked(segment: Segment) -> tuple[int, bool]:
    """Read all rows; return how many are damaged, and whether they lie in the order of a search."""
    step = chunk_rows(segment.dimension * segment.dtype.itemsize)
    keys = segment.keys_at(np.arange(len(segment)))
    damaged = 0
    for start in range(0, len(segment), step):
        at = np.arange(start, min(start + step, len(segment)))
        vectors: Vectors = np.empty((len(at), segment.dimension), segment.dtype)
        segment.vectors_at(at, vectors)
        damaged += int((checksums_of(keys[at], vectors) != segment.checksums_at(at)).sum())
        segment.release()
    prefixes = segment.prefixes
    ordered = (prefixes == prefixes_of(keys)).all() and (prefixes[1:] >= prefixes[:-1]).all()
    return damaged, bool(ordered)


def _unreadable(path: Path, error: OSError) -> _Finding:
    """Set aside what is wrong for good, and is no other release's."""
    damaged = reading.lasts(error) and not isinstance(error, OtherVersionError)
    return _Finding(path, describe(error), partial(_set_aside, path) if damaged else None)


def _may_be(kind: Callable[[int], bool], path: Path) -> bool:
    """Tell whether a path is of a kind, or nothing."""
    return not os.path.lexists(path) or kind(path.lstat().st_mode)


def _set_aside(path: Path) -> None:
    if os.path.lexists(path):
        marks.set_aside(path)


def _trouble(finding: _Finding) -> Trouble:
    return Trouble(str(finding.path), finding.why)


def _cured(finding: _Finding) -> Trouble:
    where, why = str(finding.path), finding.why
    if finding.cure is None:
        return Trouble(where, why)
    try:
        finding.cure()
    except OSError as error:
        pass_on_signals(error)
        return Trouble(where, f"{why}; not repaired: {describe(error)}")
    return Trouble(where, why, repaired=True)
