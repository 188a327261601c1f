"""What a space lies beside: others of the same model's name, and segments that another format wrote."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import reading
from kura_cache_adapters._observe.log import describe
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters._runtime.signals import suppressed
from kura_cache_adapters._segments import marks
from kura_cache_adapters._segments.format import ending_of, row_count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kura_cache_adapters.identity import ModelIdentity

logger = logger_of("store")

_HASH = 16  # characters at the end of a space's name
_LOOKED_AT = 100  # spaces: a model of many tenants is not read through

_told: set[tuple[str, str]] = set()


def read_identity(space: Path) -> ModelIdentity | None:
    """Read whose space a directory is; None where it does not say so, or, with a warning, not the truth."""
    try:
        reading.refuse_link(space)
        identity = marks.identity_in(space)
    except FileNotFoundError:  # it is being made
        return None
    except (OSError, ValueError) as error:
        logger.warning("Ignored %s: %s", space / marks.IDENTITY_FILE, describe(error))
        return None
    return identity if identity.directory == space.name else None


def endings_in(space: Path) -> dict[str, int]:
    """Return how many rows a space has in each format, by the endings of its segments."""
    rows: dict[str, int] = {}
    with suppressed(OSError):
        for name in os.listdir(space):  # noqa: PTH208 - names are all that is wanted
            if ending := ending_of(name):
                rows[ending] = rows.get(ending, 0) + row_count(name)
    return rows


def announce(space: Path, identity: ModelIdentity, ending: str) -> None:
    """Log, once in a process, what is about to be written beside: what is there is not found from there."""
    here = endings_in(space)
    if ending in here:
        return
    if here:
        _tell_of_formats(space, here, ending)
    elif (str(space.parent), identity.model_name) not in _told:
        _tell_of_others(space, identity)


def _tell_of_formats(space: Path, here: dict[str, int], ending: str) -> None:
    if (str(space), ending) in _told:
        return
    _told.add((str(space), ending))
    held = ", ".join(f"{rows:,} entries in {other}" for other, rows in sorted(here.items()))
    logger.warning(
        "%s holds %s of this model, which a store that reads %s does not find", space, held, ending
    )


def _tell_of_others(space: Path, identity: ModelIdentity) -> None:
    others = [(identity.differences(other), path) for path, other in _neighbours(space, identity)]
    if not others:
        return
    _told.add((str(space.parent), identity.model_name))
    fields, path = min(others, key=lambda one: len(one[0]))
    rows = sum(endings_in(path).values())
    message = "A new space for %s in %s beside %d of the same model; the nearest: %s: %d entries"
    logger.info(message, identity.model_name, space.parent, len(others), "; ".join(map(str, fields)), rows)


def _neighbours(space: Path, identity: ModelIdentity) -> Iterator[tuple[Path, ModelIdentity]]:
    """Iterate over the spaces of the same model's name, as far as it is worth the time."""
    stem = space.name[:-_HASH]
    with suppressed(OSError), os.scandir(space.parent) as entries:
        alike = (each.name for each in entries if each.name[:-_HASH] == stem and each.name != space.name)
        for name in islice(alike, _LOOKED_AT):
            other = read_identity(space.parent / name)
            if other is not None and other.model_name == identity.model_name:
                yield space.parent / name, other
