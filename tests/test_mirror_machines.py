"""Machines that share a bucket, step by step between each other and killed between any two steps."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import traceback
from collections import Counter
from contextlib import nullcontext, suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from kura_cache_adapters import ArrowStore, open_cache
from kura_cache_adapters._disk import atomic, locks
from kura_cache_adapters._mirror import ledger, pruning, space
from kura_cache_adapters._mirror.bucket import GoneError, Object, is_space
from kura_cache_adapters._segments import forget as forgetting
from kura_cache_adapters._segments import lineage, tombstones
from kura_cache_adapters.errors import SpaceBusyError
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.stores import mirror as mirror_store

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

IDENTITY = ModelIdentity("m", "{}", "{}", "{}")
KEYS = [bytes([number]) * 32 for number in range(6)]
URL = "file:///bucket"


def vector(key: bytes) -> list[float]:
    return [float(key[0]), 1.0]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


class Files:
    """A bucket of plain files, each request of which is one step; it notes who moves what."""

    def __init__(self, at: Path, machine: str, step: Callable[[], None]) -> None:
        self.url = self.place = URL
        self.requests = Counter[str]()
        self._at, self._machine, self._step = at, machine, step

    def spaces(self) -> list[str]:
        self._step()
        return sorted(path.name for path in self._at.iterdir() if is_space(path.name))

    def list(self, space: str) -> dict[str, Object]:
        self._step()
        with suppress(FileNotFoundError):
            found = {path.name: path.stat() for path in (self._at / space).iterdir() if path.suffix != ".new"}
            times = {
                name: datetime.fromtimestamp(each.st_mtime, timezone.utc) for name, each in found.items()
            }
            return {name: Object(each.st_size, times[name]) for name, each in found.items()}
        return {}

    def read(self, space: str, name: str, *, most: int) -> bytes:
        self._step()
        with suppress(FileNotFoundError):
            return (self._at / space / name).read_bytes()[:most]
        raise GoneError(name)

    def fetch(self, space: str, name: str, nbytes: int, file: BinaryIO) -> None:
        self._note("down", name)
        file.write(self.read(space, name, most=nbytes))

    def put(self, space: str, name: str, content: bytes | BinaryIO) -> None:
        self._step()
        self._note("up", name)
        path = self._at / space / name
        path.parent.mkdir(exist_ok=True)
        new = path.with_name(f"{name}.{os.getpid()}.new")
        new.write_bytes(content if isinstance(content, bytes) else content.read())
        with suppress(FileExistsError):
            os.link(new, path)
        new.unlink()

    def delete(self, space: str, names: Collection[str]) -> None:
        for name in sorted(names):
            self._step()
            (self._at / space / name).unlink(missing_ok=True)

    def _note(self, way: str, name: str) -> None:
        with (self._at.parent / f"{self._machine}.moves").open("a") as moves:
            moves.write(f"{way} {name}\n")


class Process:
    """What a machine does at one time."""

    def __init__(self, child: int, connection: socket.socket) -> None:
        self._child, self._connection = child, connection

    def advance(self, steps: int) -> None:
        with suppress(OSError):
            for _ in range(steps):
                if not self._connection.recv(1):
                    return
                self._connection.send(b".")

    def end(self, *, kill: bool) -> bool:
        """Let it go on to its end, or kill it where it is; tell whether it came to its end."""
        if kill:
            os.kill(self._child, signal.SIGKILL)
        self._connection.shutdown(socket.SHUT_RDWR)  # its copy in the other child counts no more
        self._connection.close()
        code = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        assert code in {0, -signal.SIGKILL}
        return code == 0


class Machine:
    """A directory; what is done there is done by processes of their own, which stop before each step."""

    def __init__(self, world: Path, name: str) -> None:
        self.name, self.path, self._world = name, world / name, world
        self.kills = self.prunes = 0

    def start(self, act: Callable[[Path], object]) -> Process:
        mine, its = socket.socketpair()
        child = os.fork()
        if child:
            its.close()
            return Process(child, mine)
        mine.close()
        try:
            self._be_watched(its)
            act(self.path)
        except SpaceBusyError:
            pass
        except BaseException:  # noqa: BLE001 - it is told
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _be_watched(self, parent: socket.socket) -> None:
        def step() -> None:
            with suppress(OSError):
                parent.send(b".")
                parent.recv(1)

        def stepped(call: Callable[..., Any]) -> Callable[..., Any]:
            def told(*args: Any, **named: Any) -> Any:
                step()
                return call(*args, **named)

            return told

        changed: list[tuple[Any, str, Any]] = [
            (mirror_store, "Bucket", lambda *_, **__: Files(self._world / "there", self.name, step)),
            *((module, "each", lambda call, names: list(map(call, names))) for module in (space, pruning)),
            *((atomic, name, stepped(getattr(atomic, name))) for name in ("_replace", "remove")),
            (lineage, "append", stepped(lineage.append)),
            (tombstones, "_MANY", 2),
            (forgetting, "_WRITING", 0.0),
            (ledger, "_REMEMBERED", 1),
            (ledger, "_LONG", 0),
            (pruning, "_YOUNG", timedelta(0)),
            (locks, "_TRIES", 1),  # who stands still holds them: all goes on without, as without locks
            (space, "alone_with", lambda *_, **__: nullcontext()),
        ]
        for module, name, value in changed:
            setattr(module, name, value)

    def do(self, act: Callable[[Path], object]) -> None:
        assert self.start(act).end(kill=False)

    def found(self) -> set[bytes]:
        return found_in(self.path)

    def forgotten(self) -> set[bytes]:
        return set(ArrowStore(self.path).space(IDENTITY).forgotten())

    def moves(self) -> Counter[str]:
        with suppress(FileNotFoundError):
            return Counter((self._world / f"{self.name}.moves").read_text().splitlines())
        return Counter()


def found_in(cache: Path) -> set[bytes]:
    hits = ArrowStore(cache).space(IDENTITY).get_many(KEYS)
    found = [KEYS[position] for position in hits.positions]
    assert hits.vectors.tolist() == [vector(key) for key in found] or not found
    return {*found}


def put(keys: list[bytes], cache: Path) -> None:
    vectors = np.array([vector(key) for key in keys], np.float32)
    ArrowStore(cache).space(IDENTITY).put_many(keys, vectors)


def forget(keys: list[bytes], cache: Path) -> None:
    open_cache(cache).forget(keys)


def drop(cache: Path) -> None:
    if cache.is_dir():
        open_cache(cache).prune(max_bytes=0)


def compact(cache: Path) -> None:
    open_cache(cache).compact()


def move(way: str, cache: Path) -> None:
    getattr(open_cache(cache), way)(URL)


def prune(cache: Path) -> None:
    open_cache(cache).prune(remote=URL)


some_keys = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True)
acts = st.one_of(
    st.builds(partial, st.just(put), some_keys),
    st.builds(partial, st.just(put), some_keys),
    st.builds(partial, st.just(forget), st.lists(st.sampled_from(KEYS), min_size=1, max_size=1)),
    st.builds(partial, st.just(move), st.sampled_from(["push", "pull", "sync", "sync"])),
    *(st.builds(partial, st.just(act)) for act in (compact, prune, prune, drop)),
)


class Machines(RuleBasedStateMachine):
    """Three machines that do what they like, one step of one, some of another, with kills."""

    @initialize()
    def begin(self) -> None:
        self.world = Path(tempfile.mkdtemp())
        self.there = Machine(self.world, "there")  # its objects lie as a cache's files do
        self.there.path.mkdir()
        self.machines = [Machine(self.world, name) for name in "abc"]
        self.dropped = {machine: set[bytes]() for machine in self.machines}

    def held(self) -> set[bytes]:
        return set[bytes]().union(
            *(machine.found() for machine in self.machines), found_in(self.world / "there")
        )

    def forgotten(self) -> set[bytes]:
        return set[bytes]().union(
            *(machine.forgotten() for machine in self.machines), Machine(self.world, "there").forgotten()
        )

    @rule(
        which=st.tuples(st.integers(0, 2), st.integers(0, 2)),
        one=acts,
        other=st.none() | acts,
        turns=st.lists(st.integers(1, 12), max_size=6),
        killed=st.sampled_from([(False, False), (False, False), (True, False), (True, True)]),
    )
    def go(
        self,
        which: tuple[int, int],
        one: partial[None],
        other: partial[None] | None,
        turns: list[int],
        killed: tuple[bool, bool],
    ) -> None:
        acting = [(self.machines[at], act) for at, act in zip(which, (one, other), strict=False) if act]
        before = {machine: (machine.found(), machine.forgotten()) for machine in self.machines}
        held = self.held()
        processes = [machine.start(act) for machine, act in acting]
        for turn, steps in enumerate(turns):
            processes[turn % len(acting)].advance(steps)
        ended = [process.end(kill=kill) for process, kill in zip(processes, killed, strict=False)]
        for (machine, act), whole in zip(acting, ended, strict=True):
            machine.prunes += act.func is prune
            machine.kills += not whole
        self.check(
            {machine: [act for each, act in acting if each is machine] for machine, _ in acting}, before
        )
        gone = set[bytes]().union(*self.dropped.values())
        assert held - self.forgotten() - gone <= self.held(), "the last copy of a vector is gone"

    def check(
        self,
        acting: dict[Machine, list[partial[None]]],
        before: dict[Machine, tuple[set[bytes], set[bytes]]],
    ) -> None:
        for machine, acts in acting.items():
            (found, forgotten), now = before[machine], (machine.found(), machine.forgotten())
            stored = set[bytes]().union(*(act.args[0] for act in acts if act.func is put))
            if any(act.func is drop for act in acts):
                self.dropped[machine] |= {*KEYS} - now[0]  # also what is pulled at the same time
            assert found - now[1] - self.dropped[machine] <= now[0], "a machine has lost a vector"
            assert forgotten - stored <= now[1], "what was forgotten is back"
            self.dropped[machine] -= now[0]

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        machines = [*self.machines, Machine(self.world, "new")]
        for _ in range(3):
            for machine in machines:
                machine.do(partial(move, "sync"))
        before = [machine.moves() for machine in machines]
        for machine in machines:
            machine.do(partial(move, "sync"))
        assert [machine.moves() for machine in machines] == before, "the same bytes are moved again and again"
        held = self.held()
        for machine in machines:
            assert held - machine.forgotten() - self.dropped.get(machine, set()) <= machine.found(), (
                "not shared"
            )
            for name, times in machine.moves().items():
                assert name.endswith(".json") or times <= 1 + machine.kills + 2 * machine.prunes, name
        shutil.rmtree(self.world)


def test_no_turn_of_events_loses_a_vector_or_brings_a_forgotten_one_back() -> None:
    run(8, derandomize=True)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_no_turn_of_events_does_so_in_many() -> None:
    run(400)


def run(examples: int, *, derandomize: bool = False) -> None:
    run_state_machine_as_test(
        Machines,
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            database=None,
            derandomize=derandomize,
            print_blob=False,
            suppress_health_check=[*HealthCheck],
        ),
    )
