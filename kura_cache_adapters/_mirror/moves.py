"""Tells what became of the files that went between a space and its mirror."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kura_cache_adapters.receipts import SpaceSync

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kura_cache_adapters.receipts import Trouble


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of one file: its bytes, or why it was not taken, and whether it never will be as it is."""

    nbytes: int = 0
    trouble: Trouble | None = None
    lasts: bool = False


def told(space: str, pushed: Mapping[str, Moved], pulled: Mapping[str, Moved]) -> SpaceSync:
    """Sum up what went up and what came down."""
    up, down = ([one for one in each.values() if one.nbytes] for each in (pushed, pulled))
    troubles = (one.trouble for one in [*pushed.values(), *pulled.values()])
    return SpaceSync(
        space,
        len(up),
        len(down),
        sum(one.nbytes for one in up),
        sum(one.nbytes for one in down),
        tuple(trouble for trouble in troubles if trouble is not None),
    )
