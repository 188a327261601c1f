"""Workers killed at random moments: what they had acknowledged is found, and checkpoints are whole."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.faults.fault_lab import FORMATS, MANAGERS, WAYS, Ledger
from tests.faults.workers import Item, Job, Workers, items_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.workers import Report

pytestmark = pytest.mark.usefixtures("unflushed")

ENDLESS = 10**6
CHECKPOINTS = [name for name in WAYS if name in MANAGERS]
durable_or_fast = pytest.mark.parametrize("durable", [True, False], ids=["durable", "fast"])


def kill_again_and_again(workers: Workers, ledger: Ledger, *, durable: bool, rounds: int) -> int:
    """Fill one directory with workers that are killed; audit it after each; return how many fell."""
    chance = random.Random(f"{ledger.way} {durable}")
    killed = 0
    for round_ in range(rounds):
        job = Job(
            ledger.way,
            str(ledger.path),
            first=1000 * round_,
            batches=ENDLESS,
            durable=durable,
            kill_after=chance.uniform(0, 0.15),
        )
        report = workers.run(job)
        assert not report.trouble
        assert ledger.audit(report.texts).good
        killed += report.ended == -signal.SIGKILL
    assert ledger.acknowledged
    return killed


ROUNDS = [
    *[(way, 4) for way in FORMATS],
    *[pytest.param(way, 30, marks=[pytest.mark.long, pytest.mark.timeout(600)]) for way in WAYS],
]


@durable_or_fast
@pytest.mark.parametrize(("way", "rounds"), ROUNDS)
def test_a_kill_at_any_moment_loses_nothing(
    tmp_path: Path,
    plain_workers: Workers,
    way: str,
    rounds: int,
    durable: bool,  # noqa: FBT001
) -> None:
    ledger = Ledger(way, tmp_path / "cache", "kill -9 at random moments")
    assert kill_again_and_again(plain_workers, ledger, durable=durable, rounds=rounds) == rounds


def save_and_kill(workers: Workers, way: str, path: Path, rounds: int) -> int:
    """Save a checkpoint by workers that are killed: it is the old one or the new; return how many fell."""
    chance = random.Random(way)
    manager = MANAGERS[way](path)
    manager.save_checkpoint("name", items_of(0))
    current, killed = items_of(0), 0
    for version in range(1, rounds):
        report: Report = workers.run(
            Job(way, str(path), do="save", first=version, kill_after=chance.uniform(0, 0.02))
        )
        assert not report.trouble
        found = MANAGERS[way](path).load_checkpoint("name", Item)
        assert found == items_of(version) or (found == current and not report.acknowledged)
        assert MANAGERS[way](path).list_checkpoints() == ["name"]
        current = found
        killed += report.ended == -signal.SIGKILL
    return killed


@pytest.mark.parametrize("way", CHECKPOINTS)
def test_a_killed_save_leaves_the_old_checkpoint_or_the_new_one(
    tmp_path: Path,
    plain_workers: Workers,
    way: str,
) -> None:
    save_and_kill(plain_workers, way, tmp_path, rounds=10)


@pytest.mark.long
@pytest.mark.parametrize("way", CHECKPOINTS)
def test_hundreds_of_killed_saves_leave_the_old_checkpoint_or_the_new_one(
    tmp_path: Path,
    plain_workers: Workers,
    way: str,
) -> None:
    assert save_and_kill(plain_workers, way, tmp_path, rounds=100) > 20
