"""Every row of the scoreboard is a law for every one of our stores and adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.peers import OURS, System, reachable
from tests.scoreboard import CASES
from tests.scoreboard.lab import Lab, NotApplicableError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("title", CASES)
def test_ours_is_right(title: str, kind: type[System], tmp_path: Path) -> None:
    (tmp_path / "reachable").mkdir()
    if (why := reachable(kind, tmp_path / "reachable")) is not None:
        pytest.skip(why)
    (tmp_path / "cache").mkdir()
    try:
        CASES[title](Lab(kind, tmp_path / "cache"))
    except NotApplicableError:
        return
