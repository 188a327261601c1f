"""What the fault suite prints: its table, where `--fault-table FILE` asks for one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.fault_lab import TABLE
from tests.faults.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = ("fault", "way", "rounds", "acknowledged", "lost", "wrong", "raised", "stuck")


def pytest_terminal_summary(config: pytest.Config) -> None:
    """Write the outcomes as a Markdown table."""
    if (file := config.getoption("--fault-table")) is None:
        return
    rows = [[str(getattr(outcome, column)) for column in COLUMNS] for _, outcome in sorted(TABLE.items())]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    Path(file).write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library that strikes at system calls."""
    return built("shim.c", tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library that shifts the clock."""
    return built("clock.c", tmp_path_factory.mktemp("clock"))


def built(name: str, directory: Path) -> Path:
    """Build a library that is loaded before the C library."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("what is loaded before the C library needs Linux and gcc")
    library, source = directory / "library.so", Path(__file__).with_name(name)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture(scope="session")
def workers(shim: Path) -> Iterator[Workers]:
    """Start workers that can be struck at their system calls."""
    with Workers(shim) as workers:
        yield workers


@pytest.fixture(scope="session")
def plain_workers() -> Iterator[Workers]:
    """Start workers that can be killed at any moment."""
    if not hasattr(os, "fork"):
        pytest.skip("workers are forked")
    with Workers(None) as workers:
        yield workers


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush nothing in this process: where there is no power cut, it would only take time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
