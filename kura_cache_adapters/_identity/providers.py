"""Looks up what is known of an embedder's class."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from kura_cache_adapters._identity import langchain_records, llama_index_records
from kura_cache_adapters._identity.record import Provider
from kura_cache_adapters._runtime.entry_points import registered

GROUP = "kura_cache_adapters.providers"
"""Entry points of other distributions: a package's name, and records as below of its classes."""

RECORDS: dict[str, Provider] = {**langchain_records.RECORDS, **llama_index_records.RECORDS}
"""By distribution's package and class; a subclass may do more, and has none of these."""


def record_of(embedder: object) -> tuple[str, Provider] | None:
    """Return what is known of an embedder's class: what it is called here, and its record.

    A class that is not in the table may have its record in another distribution. Raises
    RegistrationError for one that is broken: what it would have refused is not known.
    """
    kind = type(embedder)
    return _record(kind.__module__, kind.__qualname__)


@lru_cache(maxsize=256)
def _record(module: str, name: str) -> tuple[str, Provider] | None:
    package = _package(module)
    path = f"{package}:{name}"
    record = RECORDS.get(path) or _from_outside(package).get(path)
    return None if record is None else (path, record)


def _package(module: str) -> str:
    package = module.split(".")
    depth = 3 if package[0] == "llama_index" and package[1:2] == ["embeddings"] else 1
    return ".".join(package[:depth])


def _from_outside(package: str) -> Mapping[str, Provider]:
    def fits(records: object) -> bool:
        return isinstance(records, Mapping) and all(
            isinstance(record, Provider) and str(path).startswith(f"{package}:")
            for path, record in records.items()
        )

    what = f"a mapping of '{package}:ClassName' to Provider(...)"
    return registered(GROUP, package, fits=fits, what=what) or {}
