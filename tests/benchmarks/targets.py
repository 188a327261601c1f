"""What the project wants of itself, beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.benchmarks.timing import FLOOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.timing import Row

OURS = "ours (Arrow)"
TIERS = "ours (memory, Arrow)"
LANGCHAIN, LLAMA_INDEX = "LangChain CacheBackedEmbeddings, files", "LlamaIndex embeddings_cache"


@dataclass(frozen=True, slots=True)
class Target:
    """A limit for a number of each size: at most (or, for gains, at least) so much."""

    name: str
    limit: float
    read: Callable[[dict[str, Any]], list[float]]
    at_least: bool = False

    def line(self, everything: dict[str, Any]) -> list[str]:
        """Return the cells of the target's line: name, limit, measured, met."""
        values = self.read(everything)
        sign = "≥" if self.at_least else "≤"
        met = sum(value >= self.limit if self.at_least else value <= self.limit for value in values)
        said = {0: "no", len(values): "yes"}.get(met, f"{met} of {len(values)}") if values else "not measured"
        return [self.name, f"{sign} {self.limit:g}", " / ".join(f"{value:.3g}" for value in values), said]


def _column(path: str, system: str, column: str, dimension: int | None = None) -> Any:
    def read(everything: dict[str, Any]) -> list[float]:
        rows = _rows(everything, path, system)
        return [row[column] for row in rows if dimension in {None, row["dimension"]}]

    return read


def _times(path: str, system: str, less: str, column: str = "median us") -> Any:
    """Return how many times as much one system takes as another, at the sizes that both have."""

    def read(everything: dict[str, Any]) -> list[float]:
        base = {(row["count"], row["dimension"]): row[column] for row in _rows(everything, path, less)}
        rows = [(row, (row["count"], row["dimension"])) for row in _rows(everything, path, system)]
        return [row[column] / base[size] for row, size in rows if size in base]

    return read


def _rows(everything: dict[str, Any], path: str, system: str) -> list[Row]:
    return [row for row in everything["paths"] if (row["path"], row["system"]) == (path, system)]


def _on_disk(system: str) -> Any:
    return lambda everything: [row["relative"] for row in everything["sizes"] if row["system"] == system]


def _single(part: str, name: str) -> Any:
    return lambda everything: [everything[part][name]] if name in everything[part] else []


TARGETS = [
    Target("all hits as arrays, of the floor", 1.5, _column("arrays", OURS, "ratio")),
    Target("all hits as lists, of the floor", 1.15, _column("lists", OURS, "ratio")),
    Target("the same texts again, memory in front, of the floor", 0.6, _column("again", TIERS, "ratio")),
    Target("one text, microseconds", 20, _column("one", OURS, "median us", 384)),
    Target("one text, memory in front, microseconds", 12, _column("one", TIERS, "median us", 384)),
    Target("cold fill with fsync, microseconds a text", 15, _column("durable", OURS, "median us", 384)),
    Target("cold fill without fsync, microseconds a text", 7, _column("fill", OURS, "median us", 384)),
    Target(
        "90% hits: LangChain on files, of ours",
        60,
        _times("most", LANGCHAIN, f"{OURS}, arrays"),
        at_least=True,
    ),
    Target("90% hits: LlamaIndex, of ours", 5, _times("most", LLAMA_INDEX, f"{OURS}, arrays"), at_least=True),
    Target("opening the large cache, milliseconds", 10, _single("opening", "open ms")),
    Target("opening the large cache, resident MB", 5, _single("opening", "resident MB")),
    Target("bytes on disk, of raw float32", 1.05, _on_disk(OURS)),
    Target("bytes on disk, Parquet with zstd, of raw float32", 0.9, _on_disk("ours (Parquet, zstd)")),
    Target("time a text at N=1,000,000, of N=10,000", 1.6, _single("growth", "growth")),
    Target("all hits, Parquet, of Arrow", 2, _times("arrays", "ours (Parquet)", OURS, "minimum us")),
    Target("all hits, HF datasets, of Arrow", 2, _times("arrays", "ours (HF datasets)", OURS, "minimum us")),
    Target("all hits, JSONL, of the floor", 12, _times("arrays", "ours (JSONL)", FLOOR, "minimum us")),
    Target("added to a first run of all-MiniLM-L6-v2", 0.01, _single("minilm", "overhead")),
    Target(
        "written in any 20,480 rows, of their vectors",
        4,
        _single("filling", "written in the worst window"),
    ),
    Target("a write, p99 of p50", 20, _single("filling", "p99 of p50")),
    Target("peak memory, of the returned array", 1.3, _single("peak", "relative")),
]
