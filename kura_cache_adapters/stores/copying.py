"""Copies the entries of one store into another, of whatever format."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore, VectorSpace

_ROWS = 4096  # read, and written, at once


def copy(source: EmbeddingStore, target: EmbeddingStore, spaces: Iterable[ModelIdentity]) -> int:
    """Copy what the target has not yet, some rows at a time; return how many entries that were."""
    return sum(_copied(source.space(each.shared), target.space(each.shared)) for each in spaces)


def _copied(source: VectorSpace, target: VectorSpace) -> int:
    copied, keys = 0, iter([*source.keys()])
    while some := [*islice(keys, _ROWS)]:
        there = {*target.get_many(some).checked(len(some)).positions.tolist()}
        wanted = [key for at, key in enumerate(some) if at not in there]
        hits = source.get_many(wanted).checked(len(wanted))
        if len(hits.positions):
            target.put_many([wanted[at] for at in hits.positions], hits.vectors)
        copied += len(hits.positions)
    return copied
