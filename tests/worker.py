"""A process of its own that fills or reads a cache: `python -m tests.worker fill|read URL ...`."""

from __future__ import annotations

import sys

import numpy as np

from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters.testing import FakeEmbeddingModel


def main(command: str, url: str, dtype: str, dimension: str, numbers: str, batch: str) -> None:
    """Embed a range of numbered texts in batches, saying after each which are acknowledged.

    `read` exits with an error unless every text is a hit; both do unless every vector is right.
    """
    model = FakeEmbeddingModel(dimension=int(dimension), dtype=getattr(np, dtype))
    first, last = map(int, numbers.split("-"))
    cached = CachedEmbeddingModel(model, url)
    for start in range(first, last, int(batch)):
        texts = [f"text {number}" for number in range(start, min(last, start + int(batch)))]
        found = cached.embed_array_sync(texts)
        if found.astype(np.float64).tobytes() != model.array(texts).astype(np.float64).tobytes():
            sys.exit("a wrong vector")
        print(start + len(texts), flush=True)  # noqa: T201 - the acknowledgement
    if command == "read" and model.calls:
        sys.exit(f"{len(model.texts)} texts were not in the cache")
    if cached.stats.load_failures or cached.stats.save_failures or cached.stats.invalid_entries:
        sys.exit(f"trouble: {cached.stats}")


if __name__ == "__main__":
    main(*sys.argv[1:])
