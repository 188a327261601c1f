"""Embeds a file into another file, some rows at a time."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._core.calls import Cached
from kura_cache_adapters._corpora.sources import checked, read_rows, texts_of
from kura_cache_adapters._corpora.targets import refuse_present, target_class
from kura_cache_adapters._disk import atomic

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import pyarrow as pa

    from kura_cache_adapters._core.ahead import Ahead
    from kura_cache_adapters._corpora.targets import Target
    from kura_cache_adapters.identity import Role

EMBEDDING = "embedding"
"""The column of the vectors."""


def embed_file(  # noqa: PLR0913 - each may matter
    ahead: Ahead,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    column: str,
    batch: int,
    role: Role,
    overwrite: bool,
) -> int:
    """Embed a file's texts; return how many."""
    source, target = Path(source), Path(target)
    kind = target_class(target)
    refuse_present(target, overwrite=overwrite)
    rows, schema = checked(source, column, batch, EMBEDDING if kind.has_columns else None)
    ahead.series(batch, role)  # raises for what it does not know
    with atomic.published(target, durable=True) as temporary:
        cached = isinstance(ahead.calls, Cached)  # then a second time costs nothing
        for wide in (False, True) if cached else (True,):
            with atomic.create_over_leftovers(temporary, target) as file:
                batches = read_rows(source, batch, schema)
                if _fill(ahead, batches, kind(file, EMBEDDING), column, batch, role, rows, wide=wide):
                    break
            temporary.unlink()
    return rows


def _fill(  # noqa: PLR0913, PLR0917 - of the function above
    ahead: Ahead,
    source: Iterator[pa.RecordBatch],
    target: Target,
    column: str,
    batch: int,
    role: Role,
    count: int,
    *,
    wide: bool,
) -> bool:
    """Write all rows with their vectors; stop, and tell, where float32 cannot hold one of them."""
    batches = ahead.in_order(
        source,
        lambda rows: ahead.begin(texts_of(rows, column), role),
        ahead.series(batch, role, count),
    )
    with closing(batches), closing(target):
        for rows, vectors in batches:
            if vectors.dtype == np.float64 and not wide:
                return False
            target.write(rows, vectors.astype(np.float64, copy=False) if wide else vectors)
    return True
