"""Embeds some texts again, to see that vectors from elsewhere are this model's before they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._core.calls import Bare
from kura_cache_adapters._core.vectors import as_matrix
from kura_cache_adapters._observe.counters import Counters
from kura_cache_adapters.checks import check_dimension
from kura_cache_adapters.options import CacheOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kura_cache_adapters._adopt.fit import Fit
    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.protocols import Vectors

TOLERANCE = 0.02
"""As a part of a vector's length: what providers answer drifts by less; other models' vectors are far off."""


class Check:
    """Compares the first vectors that are found with the model's."""

    def __init__(self, source: Source, role: Role, count: int, tolerance: float) -> None:
        """Take a model, how many texts to embed again, and how far apart vectors may be."""
        self.due = count > 0
        self._source = source
        self._role = role
        self._count = count
        self._tolerance = tolerance

    def __call__(self, where: str, texts: Sequence[str], found: Fit) -> None:
        """Raise ValueError if what is found of texts differs from what the model embeds; once, if at all."""
        if not self.due or not found.positions:
            return
        self.due = False
        asked = [texts[at] for at in found.positions[: self._count]]
        again = Bare(self._source, {}, CacheOptions(), Counters()).answer_sync(asked, self._role, as_matrix)
        check_dimension(found.vectors.shape[1], again, where)
        if (apart := _distance(found.vectors[: self._count], again)) > self._tolerance:
            message = (
                f"{where} has other vectors than {self._source.name} makes: of {len(asked)} texts that were "
                f"embedded again, the largest difference is {apart:.3g} of a vector's length, and "
                f"{self._tolerance:g} is allowed; nothing was stored"
            )
            raise ValueError(message)


def _distance(given: Vectors, again: Vectors) -> float:
    """Return the largest distance of two vectors, as a part of their length."""
    lengths = np.maximum(np.linalg.norm(again, axis=1), np.finfo(again.dtype).tiny)
    return float((np.linalg.norm(given - again, axis=1) / lengths).max())
