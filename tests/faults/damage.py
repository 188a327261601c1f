"""What can happen to a file, and caches and checkpoints that it happens to, in a process of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import traceback
import warnings
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from tests.faults.fault_lab import TABLE, Ledger, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from random import Random

    from kura_cache_adapters import CachedEmbeddingModel

    Damage = Callable[[Path, Random], object]

_SECONDS = 60  # for one round: more is a hang
GROUPS = [[f"text {group} {number}" for number in range(6)] for group in range(3)]
TEXTS = [text for group in GROUPS for text in group]


def flip(file: Path, chance: Random) -> None:
    """Flip a bit in place, so that whoever has the file mapped sees it."""
    with file.open("r+b") as opened:
        at = chance.randrange(file.stat().st_size)
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 1 << chance.randrange(8)]))


def _cut(size: Callable[[int, Random], int]) -> Damage:
    return lambda file, chance: os.truncate(file, size(file.stat().st_size, chance))


def _replaced(by: Callable[[Path], object]) -> Damage:
    def replace(file: Path, _: Random) -> None:
        file.unlink()
        by(file)

    return replace


def _socket(file: Path) -> None:
    name = os.open(file.parent, os.O_RDONLY)  # a socket's address is short: name it from where it is
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{name}/{file.name}")
    os.close(name)


def _in_part(file: Path, chance: Random) -> None:
    content = bytearray(file.read_bytes())
    at = chance.randrange(len(content))
    content[at : at + 512] = chance.randbytes(len(content[at : at + 512]))
    file.write_bytes(content)


DAMAGES: dict[str, Damage] = {
    "a flipped bit": flip,
    "cut to nothing": _cut(lambda _, __: 0),
    "cut to one byte": _cut(lambda _, __: 1),
    "cut to half": _cut(lambda size, _: size // 2),
    "cut by one byte": _cut(lambda size, _: size - 1),
    "cut anywhere": _cut(lambda size, chance: chance.randrange(size)),
    "longer by a hole": _cut(lambda size, chance: size + chance.randrange(1 << 20)),
    "zeroed": lambda file, _: file.write_bytes(bytes(file.stat().st_size)),
    "garbage": lambda file, chance: file.write_bytes(chance.randbytes(5000)),
    "garbage in a part": _in_part,
    "doubled": lambda file, _: file.write_bytes(file.read_bytes() * 2),
    "deleted": lambda file, _: file.unlink(),
    "a directory": _replaced(os.mkdir),
    "a FIFO": _replaced(os.mkfifo),
    "a socket": _replaced(_socket),
    "a dangling link": _replaced(lambda file: file.symlink_to("nowhere")),
    "a link to a device": _replaced(lambda file: file.symlink_to("/dev/zero")),
    "a link to itself": _replaced(lambda file: file.symlink_to(file.name)),
}


def segments(path: Path) -> list[Path]:
    """List what a cache has written below a path, a dataset as the directory that it is."""
    inside = sorted(file for file in path.rglob("[0-9]*-*") if not file.name.endswith(".damaged"))
    return [file for file in inside if file.parent.suffix != ".hf"]


def contents(segment: Path) -> list[Path]:
    """List the files of a segment."""
    return sorted(segment.iterdir()) if segment.is_dir() else [segment]


@dataclass
class Stored:
    """A cache of three segments with six entries each, to be damaged as often as wanted."""

    way: str
    path: Path

    def __post_init__(self) -> None:
        ledger = Ledger(self.way, self.path / "whole", "")
        self.held: dict[str, list[str]] = {}
        for group in GROUPS:
            before = segments(ledger.path)
            ledger.ask(ledger.open(), group)
            new = [file for file in segments(ledger.path) if file not in before]
            self.held |= {str(file.relative_to(ledger.path)): group for file in new}
        self.rounds = 0

    def damaged(
        self, fault: str, damage: Callable[[Path, list[Path]], Iterable[Path]], *, mapped: bool
    ) -> Outcome:
        """Let a damage loose on a copy, before it is opened or afterwards; audit what is left.

        The damage is given the copy and its segments, and tells which of them it has spared: their
        entries must be found.
        """
        path = self.path / f"round {self.rounds}"
        self.rounds += 1
        shutil.copytree(self.path / "whole", path)
        ledger = Ledger(self.way, path, fault, damaging=True)
        before = ledger.open()
        if mapped:
            ledger.ask(before, TEXTS)
        spared = list(damage(path, [path / name for name in self.held]))
        self._find_spared(ledger, before, spared)
        ledger.ask(before, [*TEXTS, "new"])
        self._find_spared(ledger, ledger.open(), spared)
        ledger.ask(before, ["newer"])
        outcome = ledger.audit()
        shutil.rmtree(path)
        return outcome

    def one(self, fault: str, damage: Damage, chance: Random, *, mapped: bool) -> Outcome:
        """Damage one file, chosen by chance, and spare the others."""

        def choose(_: Path, whole: list[Path]) -> list[Path]:
            victim = chance.choice(whole)
            damage(chance.choice(contents(victim)), chance)
            return [segment for segment in whole if segment != victim]

        return self.damaged(fault, choose, mapped=mapped)

    def _find_spared(self, ledger: Ledger, cached: CachedEmbeddingModel, spared: list[Path]) -> None:
        texts = {text for file in spared for text in self.held[str(file.relative_to(ledger.path))]}
        ledger.outcome.lost += len(cached.missing(sorted(texts)))
        ledger.ask(cached, sorted(texts))


def in_child(rounds: Callable[[], Iterator[Outcome]]) -> list[Outcome]:
    """Run rounds in a forked child and collect their outcomes; its death or a hang is one that raised."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: ours survive it
        child = os.fork()
    if not child:
        _report(rounds, writer)
    os.close(writer)
    with os.fdopen(reader) as lines:
        outcomes = [Outcome(*json.loads(line)) for line in lines]
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        last = outcomes[-1] if outcomes else Outcome("none", "none")
        outcomes.append(Outcome(f"died after: {last.fault}", last.way, raised=1))
    for outcome in outcomes:
        key = (outcome.fault, outcome.way)
        TABLE[key] = TABLE.get(key, Outcome(*key)) + outcome
    return outcomes


def _report(rounds: Callable[[], Iterator[Outcome]], writer: int) -> None:
    code = 1
    try:
        with os.fdopen(writer, "w") as lines:
            signal.alarm(_SECONDS)
            for outcome in rounds():
                signal.alarm(_SECONDS)
                print(json.dumps(astuple(outcome)), file=lines, flush=True)
        code = 0
    except BaseException:  # noqa: BLE001 - said, and then seen in the exit code
        traceback.print_exc()
    finally:
        os._exit(code)
