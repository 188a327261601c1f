"""What of vectors from elsewhere is fit to be stored."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters._core.vectors import exact_matrix, finite_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kura_cache_adapters.protocols import Vectors


@dataclass(frozen=True, slots=True)
class Fit:
    """Where there are vectors, rising; the vectors, shape (k, D); and how many entries hold none."""

    positions: list[int]
    vectors: Vectors
    damaged: int = 0


def fit(vectors: Sequence[Any]) -> Fit:
    """Return what are finite vectors, of the dimension that most of them have; None is an absent one."""
    if isinstance(vectors, np.ndarray):
        there, given = [*range(len(vectors))], vectors
    else:
        there = [at for at, vector in enumerate(vectors) if vector is not None]
        given = [vectors[at] for at in there]
    whole = exact_matrix(given) if there else np.empty((0, 0), np.float32)
    if whole is not None and finite_rows(whole).all():
        return Fit(there, whole)
    rows = {at: exact_matrix([vector]) for at, vector in zip(there, given, strict=True)}
    return _sifted(
        {at: row for at, row in rows.items() if row is not None and finite_rows(row).all()}, len(there)
    )


def _sifted(rows: dict[int, Vectors], entries: int) -> Fit:
    if not rows:
        return Fit([], np.empty((0, 0), np.float32), entries)
    dimension = Counter(row.shape[1] for row in rows.values()).most_common(1)[0][0]
    alike = {at: row for at, row in rows.items() if row.shape[1] == dimension}
    return Fit([*alike], np.concatenate([*alike.values()]), entries - len(alike))
