"""What is done about a model that has changed its dimension: one answer has one."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._core.vectors import matrix_or_list, merged
from kura_cache_adapters._runtime.logs import logger_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.lookup import Lookup
    from kura_cache_adapters._core.vectors import Kept, Part

logger = logger_of("cache")


def changed(lookup: Lookup, parts: Sequence[Part]) -> bool:
    """Tell whether fresh vectors are of another dimension than those that were found."""
    found = lookup.hits.vectors
    return bool(len(found) and _dimensions(parts) - {found.shape[1]})


def warn_of_several(model_name: str, parts: Sequence[Part]) -> None:
    """Warn of a model that answers one call in several dimensions."""
    if len(dimensions := _dimensions(parts)) > 1:
        logger.warning("%s returned vectors of dimensions %s in one call", model_name, dimensions)


async def embed_again(source: Source, lookup: Lookup, chunk_size: int, cache: object) -> Kept:
    """Embed the found texts, too; they are not stored, for the space has the old dimension."""
    logger.warning(
        "%s now returns vectors of another dimension than its %d-dimensional cache %r; embedding "
        "all texts of this call. Give the changed model another model_name or a parameter.",
        source.name,
        lookup.hits.vectors.shape[1],
        cache,
    )
    texts = [lookup.texts[at] for at in lookup.hits.positions]
    async with aclosing(source.ask(texts, lookup.role, chunk_size)) as answers:
        return merged(len(texts), [(at, matrix_or_list(some)) async for at, some in answers])


def _dimensions(parts: Sequence[Part]) -> set[int]:
    return {vectors.shape[1] for _, vectors in parts if isinstance(vectors, np.ndarray)}
