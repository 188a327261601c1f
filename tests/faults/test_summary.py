"""The summary of the fault suite's tables loses no line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.summary import summed

if TYPE_CHECKING:
    from pathlib import Path


def test_every_line_is_counted_once(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    faults = ["Ctrl-C, sync", "a flipped bit", "checkpoint: a flipped bit", "never heard of"]
    lines = [f"| {fault} | arrow | 1 | 20 | 3 | 4 | 5 | {at} |" for at, fault in enumerate(faults)]
    table.write_text("\n".join(["| heads |", "| --- |", *lines]))
    sums = summed([table, table])
    assert [sums[kind]["stuck"] for kind in ("Ctrl-C", "a flipped bit")] == [0, 2]
    assert sums["the same damages done to checkpoints"]["stuck"] == 4
    assert sum(counts["lost"] for counts in sums.values()) == 2 * 4 * 3
