"""View: one identity of a model, with all that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kura_cache_adapters.identity import TextKeys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kura_cache_adapters.filling import Part
    from kura_cache_adapters.guarded import GuardedSpace
    from kura_cache_adapters.identity import ModelIdentity, Role


async def _nothing(*_: object) -> list[Part]:
    return []


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a model is now: its identity, the keys of its roles, its space and who fills it."""

    identity: ModelIdentity
    symmetric: bool
    keys: dict[Role, TextKeys]
    space: GuardedSpace | None = None
    fill: Callable[[dict[bytes, str], Role, int], Awaitable[list[Part]]] = field(default=_nothing)


def keys_of(
    identity: ModelIdentity, *, symmetric: bool, remember: int, secret: bytes
) -> dict[Role, TextKeys]:
    """Make what computes the keys of each role; they are the documents' where it makes no difference."""
    document = TextKeys(identity.head("document"), remember=remember, secret=secret)
    if symmetric:
        return {"document": document, "query": document}
    return {"document": document, "query": TextKeys(identity.head("query"), remember=remember, secret=secret)}
