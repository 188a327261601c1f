"""A crowd: processes that use one cache, and are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from tests.faults.fault_lab import Ledger


UNIVERSE = 1500
WRONG, RAISED, NOTHING = 3, 4, 5
processes: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    processes.set_forkserver_preload(["tests.faults.crowd"])


def start(work: Callable[..., object], *values: object) -> BaseProcess:
    process: BaseProcess = processes.Process(target=work, args=values)
    process.start()
    return process


def some_of(chance: random.Random, count: int, universe: int = UNIVERSE) -> list[str]:
    return [f"text {number}" for number in chance.choices(range(universe), k=count)]


def check(ledger: Ledger) -> None:
    """Leave the process with a code that says what went wrong, if anything has."""
    if ledger.outcome.wrong or ledger.outcome.raised:
        os._exit(WRONG if ledger.outcome.wrong else RAISED)


def whole_lines(log: Path) -> list[str]:
    """Return the lines of a log whose writer was killed: the last may be cut."""
    return log.read_text().split("\n")[:-1] if log.exists() else []


def stop(writer: BaseProcess, ledger: Ledger) -> None:
    writer.kill()
    writer.join()
    ledger.outcome.wrong += writer.exitcode == WRONG
    ledger.outcome.raised += writer.exitcode not in {WRONG, -signal.SIGKILL}
