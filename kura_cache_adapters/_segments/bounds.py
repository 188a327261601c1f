"""What is too much for a cache or too old, and a store's directory that is kept within such bounds."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, TypeVar

from kura_cache_adapters._disk import locks
from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import pass_on_signals
from kura_cache_adapters._segments.marks import spaces_in
from kura_cache_adapters._segments.parts import parts_in, remove_parts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kura_cache_adapters.spaces import Part

logger = logger_of("store")

_OwnerT = TypeVar("_OwnerT")
_PAUSE = 60.0  # seconds between two looks at a directory that grows little
_STEP = 64  # it may grow by this part of its bound between two looks
_USES = 86_400.0  # seconds: a use is noted once a day


@dataclass(frozen=True, slots=True)
class Bounds:
    """What goes, in seconds and bytes; None sets no bound."""

    older_than: float | None = None
    unused_for: float | None = None
    max_bytes: int | None = None

    @classmethod
    def of(
        cls,
        *,
        older_than: timedelta | float | None = None,
        unused_for: timedelta | float | None = None,
        max_bytes: int | None = None,
    ) -> Bounds:
        """Take bounds as a caller writes them; raise ValueError for none at all, or a negative one."""
        bounds = cls(_seconds(older_than), _seconds(unused_for), max_bytes)
        if bounds == cls():
            message = "say what is to go: older_than=, unused_for= or max_bytes="
            raise ValueError(message)
        named = {"older_than": older_than, "unused_for": unused_for, "max_bytes": max_bytes}
        _refuse({name: value for name, value in named.items() if not (_seconds(value) or 0) >= 0}, "negative")
        return bounds

    @classmethod
    def of_store(cls, *, max_bytes: int | None, ttl: timedelta | float | None) -> Bounds:
        """Take a store's options; raise ValueError for one that nothing could be kept within."""
        named = {"max_bytes": max_bytes, "ttl": ttl}
        _refuse({n: v for n, v in named.items() if v is not None and not (_seconds(v) or 0) > 0}, "so small")
        return cls(older_than=_seconds(ttl), max_bytes=max_bytes)

    def beyond(self, held: Iterable[tuple[_OwnerT, Part]], now: datetime) -> list[tuple[_OwnerT, Part]]:
        """Return which parts go, oldest first: those that are too old, and then what is too much."""
        ordered = sorted(held, key=lambda each: each[1].written)
        kept = sum(part.nbytes for _, part in ordered if not self._is_old(part, now))
        doomed: list[tuple[_OwnerT, Part]] = []
        for owner, part in ordered:
            old = self._is_old(part, now)
            if old or (self.max_bytes is not None and kept > self.max_bytes):
                doomed.append((owner, part))
                kept -= 0 if old else part.nbytes
        return doomed

    def _is_old(self, part: Part, now: datetime) -> bool:
        age, idle = ((now - then).total_seconds() for then in (part.written, part.used or now))
        return (self.older_than is not None and age > self.older_than) or (
            self.unused_for is not None and idle > self.unused_for + _USES
        )


class Upkeep:
    """Keeps a store's directory within bounds as this process writes there, over all models in it."""

    def __init__(self, path: Path, suffix: str, bounds: Bounds) -> None:
        """Name the directory, and the ending of its segments."""
        self.bounds = bounds
        self._path = path
        self._suffix = suffix
        self._grown = 0
        self._again_at = 0.0
        self._log = OnceLog(logger)

    def written(self, nbytes: int) -> None:
        """Take so many bytes that were just written; drop what is too much or too old when that is due."""
        most, self._grown = self.bounds.max_bytes, self._grown + nbytes
        if self.bounds == Bounds() or not (
            time.monotonic() >= self._again_at or (most is not None and self._grown > most // _STEP)
        ):
            return
        self._grown, self._again_at = 0, time.monotonic() + _PAUSE
        try:
            self._drop()
        except OSError as error:
            pass_on_signals(error)
            self._log.report("drop", "Could not keep %s within bounds: %s", self._path, describe(error))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what it was made of: it grows anew elsewhere, where another clock goes."""
        return type(self), (self._path, self._suffix, self.bounds)

    def _drop(self) -> None:
        held = [(space, part) for space in spaces_in(self._path) for part in parts_in(space, self._suffix)]
        doomed: defaultdict[Path, list[Part]] = defaultdict(list)
        for space, part in self._beyond(held):
            doomed[space].append(part)
        for space, parts in doomed.items():
            with locks.try_lock(space) as alone:  # a merge may have read them: then at the next write
                gone = remove_parts(space, parts) if alone else []
            self._again_at = self._again_at if alone else 0.0
            logger.info("Dropped %d segments of %s, which are too old or too much", len(gone), space)

    def _beyond(self, held: list[tuple[Path, Part]]) -> list[tuple[Path, Part]]:
        """Return what goes, but never the newest part, as old as the file system's clock says."""
        newest = max((part.written for _, part in held), default=datetime.max.replace(tzinfo=timezone.utc))
        most = self.bounds.max_bytes
        room = replace(self.bounds, max_bytes=None if most is None else most - most // _STEP)
        doomed = room.beyond(held, min(newest, datetime.now(timezone.utc)))
        return [each for each in doomed if each[1].written < newest]


def _seconds(value: timedelta | float | None) -> float | None:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _refuse(wrong: dict[str, timedelta | float | None], what: str) -> None:
    if wrong:
        message = f"{' and '.join(f'{name}={value!r}' for name, value in wrong.items())} must not be {what}"
        raise ValueError(message)
