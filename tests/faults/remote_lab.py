"""Lab: a cache on this machine with a store on a server behind it, under a fault of the server."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from kura_cache_adapters import ArrowStore, Breaker, CachedEmbeddingModel, Remote, TieredStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.fault_lab import TABLE, Ledger, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore
    from kura_cache_adapters.stores.remote import RemoteSpace

READ, CONNECT = 0.25, 0.5  # seconds
BREAKER = Breaker(rest=0.2, longest=0.4)
OPEN = 0.003  # seconds that a call may cost while the server is left alone
SLACK = 0.25  # seconds that a machine of two cores, with other tests at work on it, may be late


class WatchedRemote(Remote):
    """A guarded store whose calls are timed."""

    def __init__(self, store: EmbeddingStore, **options: Any) -> None:
        super().__init__(store, **options)
        self.calls: list[tuple[bool, float]] = []
        """Of each: whether the server was left alone from its beginning to its end, and how long it took."""

    def space(self, identity: ModelIdentity) -> RemoteSpace:
        space: Any = super().space(identity)
        if "get_many" not in vars(space):
            space.get_many = partial(self._timed, "read", space.get_many)
            space.put_many = partial(self._timed, "write", space.put_many)
        return space

    def _timed(self, action: str, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        circuit = self.guard.circuits[action]
        alone, begun = not circuit.closed, time.monotonic()
        try:
            return call(*given, **named)
        finally:
            self.calls.append((alone and not circuit.closed, time.monotonic() - begun))

    def late(self) -> int:
        """Count the calls over the deadline; one more if they waited for a server that was left alone."""
        alone = sorted(took for left_alone, took in self.calls if left_alone)
        usual = (
            alone[(len(alone) - 1) * 9 // 10] if alone else 0.0
        )  # in the others, other tests had the cores
        return sum(took > READ + CONNECT + SLACK for _, took in self.calls) + (usual > OPEN)


@dataclass
class RemoteLab:
    """Machines, each with a directory of its own, that share a store on a server.

    `keeps` says that what the server has taken outlives the fault: then another machine finds it.
    """

    fault: str
    way: str
    path: Path
    open_store: Callable[[], EmbeddingStore]
    keeps: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger("arrow", self.path / "here", f"remote: {self.fault}")
        self.numbers = count()
        self.store, self.cached, self.remote = self.machine("here")

    def machine(self, name: str) -> tuple[TieredStore, CachedEmbeddingModel, WatchedRemote]:
        """Open the cache of a machine."""
        guarded = {"read_timeout": READ, "connect_timeout": CONNECT, "breaker": BREAKER, **self.options}
        remote = WatchedRemote(self.open_store(), **guarded)
        store = TieredStore(ArrowStore(self.path / name), remote)
        model = FakeEmbeddingModel(self.ledger.model_name, dimension=self.ledger.dimension)
        return store, CachedEmbeddingModel(model, store), remote

    def ask(self, new: int = 3) -> None:
        """Embed new texts, and some that were asked for before."""
        texts = [f"text {next(self.numbers)}" for _ in range(new)]
        self.ledger.ask(self.cached, [*texts, *sorted(self.ledger.acknowledged)[:new]])

    def ask_for(self, seconds: float) -> None:
        """Embed texts one call after the other."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.ask()

    def recover(self) -> None:
        """Ask until the server is found well, and all that waited or was owed is written."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            self.ask(1)
            circuits = self.remote.guard.circuits.values()
            if all(circuit.closed for circuit in circuits) and self.remote.backlog.flush(1.0):
                return
            time.sleep(0.01)
        self.ledger.outcome.stuck += 1

    def judge(self) -> Outcome:
        """Close the cache; look for everything on another machine and on this one; weigh the calls' times."""
        self.ledger.outcome.stuck += self.remote.late()
        self.store.close()
        if self.keeps:
            store, there, _ = self.machine("there")
            self.ledger.ask(there, sorted(self.ledger.acknowledged))
            self.ledger.outcome.lost += there.stats.misses
            store.close()
        outcome = self.ledger.audit()
        way = f"arrow, {self.way}"
        TABLE[outcome.fault, way] = TABLE.get((outcome.fault, way), Outcome(outcome.fault, way)) + TABLE.pop(
            (outcome.fault, outcome.way)
        )
        return outcome
