"""What other processes are embedding: nobody pays for it again, and nobody waits for it for ever."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakSet

from kura_cache_adapters._runtime.fork import ForkLock
from kura_cache_adapters._runtime.signals import suppressed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from kura_cache_adapters._core.fail_open import FailOpenSpace
    from kura_cache_adapters.protocols import Claim, Vectors

    Found = tuple[Sequence[bytes], Vectors]
    """Keys, and the vector that is stored of each."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1  # seconds between two looks at what others do
_DISTRUST = 10  # times the patience: so long is nobody waited for after it was lost


@dataclass(frozen=True, slots=True)
class Share:
    """What came of claiming keys: `theirs` another process is embedding, `found` one has just stored.

    The others are this process's to embed, for as long as `claim` is there.
    """

    keys: Collection[bytes]
    theirs: Collection[bytes] = ()
    found: Found | None = None
    claim: Claim | None = None

    def covers(self, keys: Collection[bytes]) -> bool:
        """Tell whether this came of claiming these keys, and maybe others."""
        return set(self.keys).issuperset(keys)


class Sharing:
    """The claims of this process in one space."""

    def __init__(self, space: FailOpenSpace, *, patience: float) -> None:
        """Take a space; `patience` is in seconds, and 0 claims nothing."""
        self.patience = patience
        self._space = space
        self._claims: WeakSet[Claim] = WeakSet()  # a call that ends before its time gives up what it had
        self._lock = ForkLock()
        self._trusted_from = 0.0
        self._turn, self._seen = -1, 0.0  # our last one; when others were seen, on perf_counter's clock
        self._others = True

    def take(self, keys: Sequence[bytes], *, since: float, above: Collection[bytes] = ()) -> Share:
        """Claim keys, then look up what others have stored since they were; some `above` are a caller's.

        What another call here has claimed is looked up too: whose flight it is embeds it under that claim.
        """
        with self._lock:
            ours = [claim.keys for claim in self._claims if claim.keys]
            free = [key for key in keys if key not in above and not any(key in held for held in ours)]
            claim = self._space.claim(free) if free and self.patience else None
            if claim is not None:
                self._note(claim, others=claim.beside > len(ours))
                self._claims.add(claim)
        trusted = claim is not None and time.monotonic() >= self._trusted_from
        theirs = set(free).difference(claim.keys) if claim is not None and trusted else set[bytes]()
        left = [key for key in keys if key not in theirs]
        hits = self._space.load(left) if left and self._seen > since else None
        if hits is None or not len(hits.positions):
            return Share(keys, theirs, claim=claim)
        found = [left[at] for at in hits.positions]
        self.release(found)
        return Share(keys, theirs, (found, hits.vectors), claim)

    def _note(self, claim: Claim, *, others: bool) -> None:
        """Note when others were at work here last: now, when we claimed before, or in between."""
        if others or self._others or claim.turn != self._turn + 1:
            self._seen = time.perf_counter()
        self._turn, self._others = claim.turn, others

    def release(self, keys: Iterable[bytes]) -> None:
        """Give keys up: they are stored, or will not be."""
        with self._lock:
            for claim in list(self._claims):
                with suppressed(Exception):  # any store's any trouble: then it ends with its call
                    claim.release(keys)

    def lose_patience(self) -> None:
        """Wait for nobody for a while: who is waited for in vain may be stopped, or wait for us."""
        self._trusted_from = time.monotonic() + _DISTRUST * self.patience


class Waiting:
    """How long others have been waited for, and how long until the next look at them."""

    def __init__(self, patience: float) -> None:
        """Begin to wait."""
        self._patience = patience
        self._pause = _FIRST_PAUSE
        self._left = -1
        self._since = 0.0

    def pause(self, left: int) -> float:
        """Return the seconds to sleep while so many keys are waited for; none after waiting in vain."""
        now = time.monotonic()
        if left != self._left:
            self._left, self._since = left, now
        elif now - self._since >= self._patience:
            return 0.0
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return self._pause
