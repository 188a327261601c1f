"""Looks up what is known of an embedder's class."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from kura_cache_adapters._identity import langchain_records, llama_index_records

if TYPE_CHECKING:
    from kura_cache_adapters._identity.record import Provider

RECORDS: dict[str, Provider] = {**langchain_records.RECORDS, **llama_index_records.RECORDS}
"""By distribution's package and class; a subclass may do more, and has none of these."""


def record_of(embedder: object) -> tuple[str, Provider] | None:
    """Return what is known of an embedder's class: what it is called here, and its record."""
    kind = type(embedder)
    return _record(kind.__module__, kind.__qualname__)


@lru_cache(maxsize=256)
def _record(module: str, name: str) -> tuple[str, Provider] | None:
    package = module.split(".")
    depth = 3 if package[0] == "llama_index" and package[1:2] == ["embeddings"] else 1
    path = f"{'.'.join(package[:depth])}:{name}"
    record = RECORDS.get(path)
    return None if record is None else (path, record)
