"""Measure joins of keys with segments beside look-ups: `python -m tests.benchmarks.joins [TEXTS] [D,D]`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters.integrations.joins import intact
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5


def made(directory: Path, dimension: int) -> CachedEmbeddingModel:
    """Return a model that has looked at nothing yet."""
    return CachedEmbeddingModel(FakeEmbeddingModel(dimension=dimension), f"parquet://{directory}/cache")


def steps(directory: Path, count: int, dimension: int) -> dict[str, Callable[[], object]]:
    """Fill half a cache, and return what is measured."""
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"text number {at:>9} of a corpus, as long as a short sentence" for at in range(count)]
    vectors = np.random.default_rng(0).standard_normal((count, dimension)).astype(np.float32)
    with made(directory, dimension) as model:
        for at in range(0, count // 2, 20_000):
            some = slice(at, min(at + 20_000, count // 2))
            model.add(texts[some], vectors[some])
    pq.write_table(pa.table({"text": texts}), directory / "corpus.parquet")
    (space,) = {path.parent for path in directory.glob("cache/*/[0-9]*.parquet")}
    keyed, entries = f"'{directory}/keyed.parquet'", f"read_parquet('{space}/[0-9]*.parquet')"
    once = f"SELECT DISTINCT ON (key) key, checksum, vector FROM {entries} SEMI JOIN {keyed} USING (key)"
    plain = f"SELECT * FROM {keyed} LEFT JOIN {entries} USING (key)"
    joined = f"SELECT * FROM {keyed} LEFT JOIN ({once}) USING (key)"
    anti = f"SELECT DISTINCT text FROM {keyed} ANTI JOIN {entries} USING (key)"

    def join_back(query: str, *, check: bool) -> None:
        relation: Any = duckdb.sql(query)
        found = relation.to_arrow_reader(65_536)
        right = sum(int(intact(rows).sum()) if check else 0 for rows in found)
        assert not check or right == count // 2

    def ask() -> None:
        assert len(made(directory, dimension).missing(texts)) == count - count // 2

    return {
        "`keys_file`": lambda: model.keys_file(
            directory / "corpus.parquet", directory / "keyed.parquet", overwrite=True
        ),
        "anti-join": lambda: duckdb.sql(f"COPY ({anti}) TO '{directory}/missing.parquet'"),
        "`missing()`, with its keys": ask,
        "left join": lambda: join_back(plain, check=False),
        "left join, and `intact`": lambda: join_back(plain, check=True),
        "left join with `DISTINCT ON`": lambda: join_back(joined, check=False),
        "look-up of what is there, with its keys": lambda: made(directory, dimension).embed_array_sync(
            texts[: count // 2]
        ),
    }


def seconds(step: Callable[[], object]) -> float:
    """Return the shortest of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def table(count: int, dimensions: list[int]) -> str:
    """Measure, and return microseconds a text as a table of Markdown."""
    measured: dict[str, list[str]] = {}
    for dimension in dimensions:
        with tempfile.TemporaryDirectory() as directory:
            for name, step in steps(Path(directory), count, dimension).items():
                measured.setdefault(name, []).append(f"{1e6 * seconds(step) / count:.2f}")
    rows: list[list[Any]] = [["", *(f"D={each}" for each in dimensions)], ["---"] * (1 + len(dimensions))]
    rows += [[name, *numbers] for name, numbers in measured.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    said = sys.argv[1:]
    print(table(int(said[0]) if said else 200_000, [*map(int, (said[1:] or ["64,384"])[0].split(","))]))
