"""Looks up what is known of an embedder: its framework's dialect, and the record of its class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._identity import langchain_records, llama_index_records
from kura_cache_adapters._identity.dialect import Dialect
from kura_cache_adapters._identity.facts import fact
from kura_cache_adapters._identity.origin import class_path, replaced_method
from kura_cache_adapters._identity.record import Provider
from kura_cache_adapters._runtime import entry_points as outside
from kura_cache_adapters.errors import RegistrationError
from kura_cache_adapters.protocols import BaseEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kura_cache_adapters.identity import Role

DIALECTS = (langchain_records.DIALECT, llama_index_records.DIALECT)
"""The frameworks that are known here."""

GROUP = "kura_cache_adapters.dialects"
"""Entry points of other distributions: each is a `Dialect`."""

PROVIDERS = "kura_cache_adapters.providers"
"""Entry points of other distributions: a package's name, and records as below of its classes."""

RECORDS: dict[str, Provider] = {
    path: known for dialect in DIALECTS for path, known in dialect.records.items()
}
"""By distribution's package and class; a subclass may do more, and has none of these."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A live embedder, what its class is called, and what is known of both: looked up once, handed on."""

    embedder: Any
    path: str
    dialect: Dialect | None = None
    record: Provider | None = None

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that it can be asked in, beside "document"."""
        return () if self.dialect is None else self.dialect.roles

    def __reduce__(self) -> tuple[Callable[[Any], Known], tuple[Any]]:
        """Pickle the embedder alone: the other side looks it up again."""
        return known, (self.embedder,)


@dataclass(frozen=True, slots=True)
class Registered:
    """The dialects of other distributions, and what is wrong with those that cannot be used."""

    dialects: tuple[Dialect, ...]
    broken: tuple[str, ...]


def known(thing: Any) -> Known:  # noqa: ANN401 - of any framework
    """Look an embedder up, beneath wrappers that only adapt or cache; one that was changed does more."""
    return [*_layers(thing)][-1]


def wrappers(thing: Any) -> list[Any]:  # noqa: ANN401 - of any framework
    """Return what an embedder is seen through, from the outside in."""
    return [each.embedder for each in _layers(thing)][:-1]


def _layers(thing: Any) -> Iterator[Known]:  # noqa: ANN401 - of any framework
    found = _look_up(thing)
    yield found
    if found.record is not None and found.record.around and replaced_method(thing) is None:
        yield from _layers(fact(thing, found.record.around))


def dialect_of(thing: object) -> Dialect | None:
    """Return the dialect of an embedder; None for what is none, and for a model of this package's shape.

    Those of other distributions are loaded when none of this package's fits.
    """
    found = _spoken(thing, DIALECTS)
    if found is not None or isinstance(thing, BaseEmbeddingModel):
        return found
    return _spoken(thing, registered().dialects)


@lru_cache(maxsize=1)
def registered() -> Registered:
    """Load the dialects of other distributions, in the order of their names."""
    dialects: list[Dialect] = []
    broken: list[str] = []
    for name in sorted(outside.names_in(GROUP)):
        try:
            dialects.append(outside.registered(GROUP, name, fits=_is_dialect, what="a Dialect"))
        except RegistrationError as error:  # it breaks no other dialect
            broken.append(str(error))
    return Registered(tuple(dialects), tuple(broken))


def _is_dialect(thing: object) -> bool:
    return isinstance(thing, Dialect)


def _spoken(thing: object, dialects: Iterable[Dialect]) -> Dialect | None:
    return next((dialect for dialect in dialects if dialect.fits(thing)), None)


def _look_up(thing: object) -> Known:
    dialect = dialect_of(thing)
    if dialect is None:
        return Known(thing, class_path(thing))
    path = dialect.path_of(type(thing))
    record = dialect.records.get(path) or _from_outside(path.partition(":")[0]).get(path)
    return Known(thing, class_path(thing) if record is None else path, dialect, record)


@lru_cache(maxsize=256)
def _from_outside(package: str) -> Mapping[str, Provider]:
    def fits(records: object) -> bool:
        return isinstance(records, Mapping) and all(
            isinstance(record, Provider) and str(path).startswith(f"{package}:")
            for path, record in records.items()
        )

    what = f"a mapping of '{package}:ClassName' to Provider(...)"
    return outside.registered(PROVIDERS, package, fits=fits, what=what) or {}
