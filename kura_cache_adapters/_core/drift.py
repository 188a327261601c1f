"""How far a model has moved from what is cached of it: a sample is embedded again, and compared."""

from __future__ import annotations

import random
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters._core.engine import first_positions
from kura_cache_adapters._core.vectors import as_matrix, matrix_or_list
from kura_cache_adapters._runtime.loop import in_thread
from kura_cache_adapters.identity import DOCUMENT
from kura_cache_adapters.receipts import Drift, RoleDrift

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.keys import Keys
    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.protocols import EmbeddingStore, Vectors, VectorSpace

TOLERANCE = 1e-3
"""The cosine distance at the median beyond which another model answers, unless told.

Two calls of text-embedding-ada-002 were seen to differ by up to 1e-4 in each of 1,536 numbers
(openai-cookbook#223): of unit vectors, a distance of 1536 * 1e-8 / 2 = 8e-6 at most. Rounding to bfloat16,
which has 8 bits, moves it as little: 2**-17. Two models have hardly anything in common.
"""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which texts are compared, how many of them, and how far apart vectors of one model may be."""

    texts: list[str]
    sample: int
    tolerance: float
    chunk_size: int


async def drift(
    source: Source, keys_now: Callable[[], Keys], store: EmbeddingStore | None, sampling: Sampling
) -> Drift:
    """Compare cached vectors of a sample with new ones, in every role; nothing is stored."""
    await in_thread("model", source.prepare)
    keys = keys_now()
    identity = keys.identity.shared
    nothing = Drift(source.name, identity.directory, sampling.tolerance)
    if store is None:
        return nothing
    space, roles = store.space(identity), (DOCUMENT, *keys.roles)
    found = [await _role_drift(source, keys, space, role, sampling) for role in roles]
    return replace(nothing, roles=tuple(found))


async def _role_drift(
    source: Source, keys: Keys, space: VectorSpace, role: Role, sampling: Sampling
) -> RoleDrift:
    cached, chosen, old = await in_thread("store", _sampled, keys, space, role, sampling)
    if not chosen:
        return RoleDrift(role, cached)
    new = await _embedded(source, chosen, role, sampling.chunk_size)
    return _compared(RoleDrift(role, cached, len(chosen)), old, new, sampling.tolerance)


def _sampled(
    keys: Keys, space: VectorSpace, role: Role, sampling: Sampling
) -> tuple[int, list[str], Vectors]:
    """Choose among the cached texts; return their number, the chosen ones, and their vectors."""
    known = keys(sampling.texts, role)
    at = first_positions(known)
    hits = space.get_many([known[each] for each in at]).checked(len(at))
    count = len(hits.positions)
    chosen = sorted(random.sample(range(count), min(sampling.sample, count)))
    return count, [sampling.texts[at[hits.positions[each]]] for each in chosen], hits.vectors[chosen]


async def _embedded(source: Source, texts: list[str], role: Role, chunk_size: int) -> Vectors:
    vectors: dict[int, Any] = {}
    async with aclosing(source.ask(texts, role, chunk_size)) as answers:
        async for positions, answer in answers:
            vectors |= zip(positions, answer, strict=True)
    return as_matrix(matrix_or_list([vectors[at] for at in range(len(texts))]))


def _compared(found: RoleDrift, old: Vectors, new: Vectors, tolerance: float) -> RoleDrift:
    sizes = (old.shape[1], new.shape[1])
    if sizes[0] != sizes[1]:
        return replace(found, dimensions=sizes, changed=True)
    cosines = _cosines(old.astype(np.float64), new.astype(np.float64))
    median = float(np.median(cosines))
    return replace(
        found,
        largest=float(np.abs(old - new).max()),
        cosine_min=float(cosines.min()),
        cosine_median=median,
        dimensions=sizes,
        changed=not 1 - median <= tolerance,  # so is one that answers with NaN
    )


def _cosines(old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each pair; 1 for two that are equal, also where both are zero."""
    lengths = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    products = np.einsum("ij,ij->i", old, new)
    cosines = np.divide(products, lengths, out=np.zeros(len(old)), where=lengths > 0)
    return np.where((old == new).all(axis=1), 1.0, cosines)
