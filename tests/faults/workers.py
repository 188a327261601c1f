"""Processes that work on a cache and are struck by a fault: forked, warm, from one server.

The server (`python -m tests.faults.workers`) runs under the shim (shim.c). It takes a job a line, forks
a child that does it, and answers with a report: what the child said before it ended, and how it ended.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from kura_cache_adapters import CacheOptions
from tests.faults.fault_lab import MANAGERS, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 20  # seconds for one job; whoever takes longer hangs
BATCH = 3  # texts


@dataclass(frozen=True)
class Strike:
    """What happens at the `at`th system call that changes files, counted from the job's start."""

    at: int = 0
    signal: int = 0
    error: int = 0
    lasting: bool = False
    halfway: bool = False


STRIKES = {
    "kill before": Strike(signal=signal.SIGKILL),
    "kill halfway through": Strike(signal=signal.SIGKILL, halfway=True),
    "EIO at": Strike(error=errno.EIO),
    "EIO from": Strike(error=errno.EIO, lasting=True),
    "ENOSPC at": Strike(error=errno.ENOSPC, halfway=True),
    "ENOSPC from": Strike(error=errno.ENOSPC, lasting=True, halfway=True),
}


@dataclass(frozen=True)
class Job:
    """What a worker does: `fill` a cache with batches, `forget` one; `save` a checkpoint, or `delete` it.

    `kill_after`: seconds from the start, or from the first batch.
    """

    way: str
    path: str
    do: str = "fill"
    first: int = 0
    batches: int = 1
    durable: bool = True
    strike: Strike = Strike()
    kill_after: float | None = None


@dataclass
class Report:
    """How a worker ended, and what it had said: the batches it acknowledged, what was wrong or raised.

    `ended`: 0, or minus the signal that ended or stopped it. `calls`: how many system calls of the
    worker changed files. `refused`: what the storage did not take.
    """

    pid: int
    ended: int
    acknowledged: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    wrong: int = 0
    calls: int = 0

    @property
    def texts(self) -> list[str]:
        """All texts of the acknowledged batches."""
        return [text for number in self.acknowledged for text in texts_of(number)]

    @property
    def trouble(self) -> list[str]:
        """Everything that no fault excuses."""
        hung = ["it hung"] * (self.ended == -signal.SIGALRM)
        return [*self.raised, *hung, *["wrong vectors"] * self.wrong]


def texts_of(number: int) -> list[str]:
    """Return the texts of a batch."""
    return [f"text {number}.{at}" for at in range(BATCH)]


class Workers:
    """A server of workers, started under a shim (None: no strikes), and under another program if given."""

    def __init__(self, shim: Path | None, *under: str) -> None:
        environment = os.environ | ({} if shim is None else {"LD_PRELOAD": str(shim)})
        self._server = subprocess.Popen(
            [*under, sys.executable, "-m", "tests.faults.workers"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, job: Job) -> Report:
        """Have a job done; return when its worker has ended or is stopped."""
        return self._ask(asdict(job))

    def resume(self, stopped: Report) -> Report:
        """Let a stopped worker go on; return what it says and how it ends."""
        return self._ask({"resume": stopped.pid})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate(timeout=TIME_LIMIT)

    def _ask(self, message: dict[str, Any]) -> Report:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(message) + "\n")
        self._server.stdin.flush()
        return Report(**json.loads(self._server.stdout.readline()))


class Item(BaseModel):
    """What is saved in checkpoints."""

    name: str
    values: list[float]
    nested: dict[str, Any]


def items_of(number: int) -> list[Item]:
    """Return the models of a checkpoint's version."""
    return [
        Item(name=f"item {at} of {number}", values=[number / 7, at], nested={"version": number})
        for at in range(3 + number)
    ]


def _fill(job: Job, tell: Callable[..., None]) -> None:
    ledger = Ledger(job.way, Path(job.path), "in a worker")
    cached = ledger.open(CacheOptions(durable=job.durable))
    for number in range(job.first, job.first + job.batches):
        failures = cached.stats.save_failures
        texts = texts_of(number)
        wrong = ledger.count_wrong(texts, cached.embed_array_sync(texts))
        refused = cached.stats.save_failures > failures
        tell("refused" if refused else "acknowledged", [number])
        tell("wrong", wrong)


def _save(job: Job, tell: Callable[..., None]) -> None:
    try:
        MANAGERS[job.way](Path(job.path)).save_checkpoint("name", items_of(job.first))
    except OSError:  # what save_checkpoint promises when the disk refuses
        tell("refused", [job.first])
    else:
        tell("acknowledged", [job.first])


def _delete(job: Job, tell: Callable[..., None]) -> None:
    try:
        MANAGERS[job.way](Path(job.path)).delete_checkpoint("name")
    except OSError:
        tell("refused", [job.first])
    else:
        tell("acknowledged", [job.first])


def _forget(job: Job, tell: Callable[..., None]) -> None:
    cached = Ledger(job.way, Path(job.path), "in a worker").open()
    keys = [bytes.fromhex(cached.cache_key(text)) for text in texts_of(job.first)]
    assert cached.cache is not None
    try:
        cached.cache.store.space(cached.identity().shared).delete_many(keys)
    except OSError:  # what delete_many promises when the disk refuses
        tell("refused", [job.first])
    else:
        tell("acknowledged", [job.first])


_DO = {"fill": _fill, "forget": _forget, "save": _save, "delete": _delete}


def _work(job: Job, pipe: int) -> None:
    """Do a job in a forked child and say what became of it."""

    def tell(what: str, value: object) -> None:
        os.write(pipe, f"{json.dumps([what, value])}\n".encode())

    signal.alarm(TIME_LIMIT)
    library = ctypes.CDLL(None)
    strike = job.strike
    if hasattr(library, "arm"):
        library.arm(ctypes.c_long(strike.at), strike.signal, strike.error, strike.lasting, strike.halfway)
    try:
        _DO[job.do](job, tell)
    except Exception as error:  # noqa: BLE001 - a cache never breaks the program: none is allowed
        tell("raised", [repr(error)])
    tell("calls", library.disarm() if hasattr(library, "arm") else 0)


def _report(pid: int, pipe: int) -> Report:
    """Wait for a worker's end or stop and read what it has said."""
    _, status = os.waitpid(pid, os.WUNTRACED)
    ended = -os.WSTOPSIG(status) if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
    report = Report(pid, ended)
    while said := os.read(pipe, 1 << 20) if ended != -signal.SIGSTOP else b"":
        for line in said.splitlines():
            what, value = json.loads(line)
            setattr(report, what, getattr(report, what) + value)
    return report


def _start(job: Job) -> tuple[int, int]:
    ours, theirs = os.pipe()
    if pid := os.fork():
        os.close(theirs)
        return pid, ours
    _work(job, theirs)
    os._exit(0)


def _serve() -> None:
    logging.disable()
    with suppress(ImportError):
        import datasets  # noqa: F401 - so that no worker waits for it
    pipes: dict[int, int] = {}
    for line in sys.stdin:
        message = json.loads(line)
        if pid := message.get("resume"):
            os.kill(pid, signal.SIGCONT)
        else:
            job = Job(**{**message, "strike": Strike(**message["strike"])})
            pid, pipes[pid] = _start(job)
            if job.kill_after is not None:
                if job.do == "fill":
                    select.select([pipes[pid]], [], [], TIME_LIMIT)  # its first word
                time.sleep(job.kill_after)
                os.kill(pid, signal.SIGKILL)
        report = _report(pid, pipes[pid])
        if report.ended != -signal.SIGSTOP:
            os.close(pipes.pop(pid))
        print(json.dumps(asdict(report)), flush=True)  # noqa: T201 - the answer
    for pid in pipes:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
