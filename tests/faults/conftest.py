"""What the fault suite prints: its table, where `--fault-table FILE` asks for one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.lab import TABLE

if TYPE_CHECKING:
    import pytest

COLUMNS = ("fault", "way", "rounds", "acknowledged", "lost", "wrong", "raised", "stuck")


def pytest_terminal_summary(config: pytest.Config) -> None:
    """Write the outcomes as a Markdown table."""
    if (file := config.getoption("--fault-table")) is None:
        return
    rows = [[str(getattr(outcome, column)) for column in COLUMNS] for _, outcome in sorted(TABLE.items())]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    Path(file).write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))
