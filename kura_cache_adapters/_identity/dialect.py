"""What is said of one framework: how its embedders are told apart, asked, seen through and pickled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kura_cache_adapters.identity import DOCUMENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kura_cache_adapters._identity.record import Provider
    from kura_cache_adapters.identity import Role


@dataclass(frozen=True, slots=True)
class Method:
    """How texts of a role are embedded: a method and its async twin, of a list of texts or of one."""

    name: str
    awaited: str = ""
    one_text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dialect:
    """How the embedders of one framework are spoken to; nothing of the framework is imported.

    What has the method for "document" speaks it. Register another one under the entry points
    `kura_cache_adapters.dialects`; it is asked where none of this package fits.
    """

    name: str
    """What the framework is called."""
    methods: Mapping[Role, Method]
    """How each role is asked for, "document" among them."""
    records: Mapping[str, Provider] = field(default_factory=dict)
    """What is known of classes, by `package:Class`; of other installed ones everything counts."""
    spread: str = ""
    """A package whose packages are distributions of their own, and stand in the names of records."""
    batch_sizes: tuple[str, ...] = ("chunk_size", "embed_batch_size", "batch_size", "max_batch_size")
    """Attributes that may say how many texts an embedder takes at once; the first that does is taken."""
    own_cache: str = ""
    """An attribute with a cache that answers whatever is asked with documents' vectors: it is refused."""
    forgets: bool = False
    """Whether `__getstate__` leaves out in silence what cannot be pickled: a twin is compared first."""

    def __post_init__(self) -> None:
        """Refuse a dialect that has no word for documents."""
        if DOCUMENT not in self.methods:
            message = f"the dialect {self.name!r} has no method for {DOCUMENT!r}"
            raise ValueError(message)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that it can ask for, beside "document"."""
        return tuple(role for role in self.methods if role != DOCUMENT)

    def fits(self, thing: object) -> bool:
        """Tell whether a thing speaks it."""
        return hasattr(thing, self.methods[DOCUMENT].name)

    def path_of(self, kind: type) -> str:
        """Return what a class is called in the records."""
        package = kind.__module__.split(".")
        own = bool(self.spread) and kind.__module__.startswith(f"{self.spread}.")
        depth = self.spread.count(".") + 2 if own else 1
        return f"{'.'.join(package[:depth])}:{kind.__qualname__}"
