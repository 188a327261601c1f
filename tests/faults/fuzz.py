"""Feed readers arbitrary bytes: `python -m tests.faults.fuzz TARGET CORPUS [options]`; needs atheris.

TARGET is one of TARGETS, or `all`, which takes the first byte of an input for the choice. CORPUS is a
directory that is filled with real files first. The options are atheris'.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters.errors import CheckpointError
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.damage import GROUPS, contents, segments
from tests.faults.lab import FORMATS, MANAGERS, WAYS, Ledger
from tests.faults.rewriting import seal

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = GROUPS[0]


class Record(BaseModel):
    """What a checkpoint holds."""

    name: str
    scores: list[float]
    more: Any = None


RECORDS = [Record(name=f"n{at}", scores=[at / 3], more={"a": [at, "b"]}) for at in range(6)]
CHECKPOINTS = {
    "JSONL manager": "one.jsonl",
    "Parquet manager": "one.parquet",
    "HF manager": "one/data-00000-of-00001.arrow",
}


@cache
def cached_in(way: str) -> tuple[Path, bytes]:
    """Make a cache of one segment; return the file with its rows, and its content."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-"))
    ledger = Ledger(way, path, "")
    ledger.ask(ledger.open(), TEXTS)
    (segment,) = segments(path)
    file = contents(segment)[0]
    return file, file.read_bytes()


def segment(way: str, content: bytes) -> None:
    """Read bytes as a segment: a vector that is found is the model's, and nothing is raised."""
    file, _ = cached_in(way)
    file.write_bytes(content)
    root = next(parent for parent in file.parents if parent.name.startswith("fuzz-"))
    ledger = Ledger(way, root, "", damaging=True)
    cached = ledger.open()
    found = sorted({*range(len(TEXTS))} - {*cached.missing(TEXTS)})
    assert cached.stats.load_failures == 0
    with CachedEmbeddingModel(FakeEmbeddingModel(), WAYS[way](root)) as reader:
        vectors = reader.embed_array_sync([TEXTS[at] for at in found])
        assert reader.stats.hits == len(found)
        assert not ledger.count_wrong([TEXTS[at] for at in found], vectors)


def sealed(way: str, content: bytes) -> None:
    """Read bytes as a Parquet segment whose footer is as its writer left it."""
    segment(way, seal(content) if len(content) > 8 else content)


@cache
def saved_in(way: str) -> tuple[Path, bytes]:
    """Save a checkpoint; return its file and its content."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-"))
    WAYS[way](path).save_checkpoint("one", RECORDS)
    (path / "one" / "data.sha256").unlink(missing_ok=True)
    file = path / CHECKPOINTS[way]
    return file, file.read_bytes()


def checkpoint(way: str, content: bytes) -> None:
    """Read bytes as a checkpoint: records, or a CheckpointError."""
    file, _ = saved_in(way)
    file.write_bytes(content)
    root = next(parent for parent in file.parents if parent.name.startswith("fuzz-"))
    try:
        loaded = WAYS[way](root).load_checkpoint("one", Record)
    except CheckpointError:
        return
    assert loaded is not None
    assert all(isinstance(record, Record) for record in loaded)


def identity(content: bytes) -> None:
    """Read bytes as an identity: what is one reads back as itself, anything else is a ValueError."""
    try:
        decoded = ModelIdentity.from_json(content)
    except ValueError:
        return
    assert ModelIdentity.from_json(decoded.to_json()) == decoded


def _bound(function: Callable[[str, bytes], None], way: str) -> Callable[[bytes], None]:
    return lambda content: function(way, content)


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], bytes]]] = {
    "identity": (identity, lambda: ModelIdentity.of("m", {"a": [1, 2.5]}, {"b": None}).to_json().encode()),
    **{way: (_bound(segment, way), lambda way=way: cached_in(way)[1]) for way in FORMATS},  # type: ignore[misc]
    **{
        way: (_bound(checkpoint, way), lambda way=way: saved_in(way)[1])  # type: ignore[misc]
        for way in MANAGERS
        if way in WAYS and way in CHECKPOINTS
    },
}
"""What reads bytes, and a real file to begin with."""


def main() -> None:
    """Fuzz until a limit that atheris was given, such as -max_total_time=600."""
    atheris: Any = import_module("atheris")  # no requirement of the tests
    name, corpus, *options = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    tempfile.tempdir = tempfile.mkdtemp(prefix="of-fuzzing-")
    targets = list(TARGETS) if name == "all" else [name]
    Path(corpus).mkdir(parents=True, exist_ok=True)
    for at, target in enumerate(targets):
        first = bytes([at] * (name == "all"))
        (Path(corpus) / f"real {target}").write_bytes(first + TARGETS[target][1]())

    def run(content: bytes) -> None:
        at, content = (content[0], content[1:]) if name == "all" and content else (0, content)
        TARGETS[targets[at % len(targets)]][0](content)

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], corpus, *options], run)
    atheris.Fuzz()  # does not return


if __name__ == "__main__":
    main()
