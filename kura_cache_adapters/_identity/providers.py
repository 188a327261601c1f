"""Looks up what is known of an embedder's class."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._identity import langchain_records, llama_index_records

if TYPE_CHECKING:
    from kura_cache_adapters._identity.record import Provider

RECORDS: dict[str, Provider] = {**langchain_records.RECORDS, **llama_index_records.RECORDS}
"""By distribution's package and class; a subclass may do more, and has none of these."""


def record_of(embedder: Any) -> tuple[str, Provider] | None:  # noqa: ANN401 - of any class
    """Return what is known of an embedder's class: what it is called here, and its record."""
    return _record_of_class(type(embedder))


@lru_cache(maxsize=256)
def _record_of_class(kind: type) -> tuple[str, Provider] | None:
    package = kind.__module__.split(".")
    depth = 3 if package[0] == "llama_index" and package[1:2] == ["embeddings"] else 1
    name = f"{'.'.join(package[:depth])}:{kind.__qualname__}"
    record = RECORDS.get(name)
    return None if record is None else (name, record)
