"""Explanation: why a text is found, or what of the same model lies nearest to where it was looked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kura_cache_adapters.identity import DOCUMENT, known_role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kura_cache_adapters._core.keys import Keys
    from kura_cache_adapters.identity import Difference, ModelIdentity, Role
    from kura_cache_adapters.protocols import EmbeddingStore, VectorSpace


@dataclass(frozen=True, slots=True)
class Nearest:
    """A stored identity of the same model's name: how it differs, and what is there.

    `entries` counts its rows, and `has_text` tells whether the text is among them.
    """

    identity: ModelIdentity
    differences: tuple[Difference, ...]
    entries: int
    has_text: bool

    def __str__(self) -> str:
        """Say it in a line."""
        found = ", this text among them" if self.has_text else ""
        return f"same model; {'; '.join(map(str, self.differences))}: {self.entries:,} entries{found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where a text was looked for, and whether it is there; of a miss, what explains it.

    `key` has 64 hexadecimal characters. `entries` counts the rows of this very identity. `damaged` says that
    the text's entry is there and not fit to use, `stored_as` in which other roles the text is there, and
    `formats` which other formats' segments of this identity are there, unread. `nearest` is
    the stored identity of the same model's name that has the text, or else differs in the fewest fields.
    """

    identity: ModelIdentity
    role: Role
    key: str
    cached: bool = True
    hit: bool = False
    damaged: bool = False
    entries: int = 0
    stored_as: tuple[Role, ...] = ()
    formats: tuple[str, ...] = ()
    nearest: Nearest | None = None

    def __str__(self) -> str:
        """Say it in a line."""
        if self.hit:
            return f"hit: {self.identity.model_name} as {self.role!r}, key {self.key[:16]}..."
        return f"miss: {next(self._reasons())}"

    def _reasons(self) -> Iterator[str]:
        """Yield what may explain a miss, the likeliest first."""
        if not self.cached:
            yield "there is no cache"
        if self.damaged:
            yield "the entry is there, and damaged"
        if self.stored_as:
            yield f"the text is there as {', '.join(map(repr, self.stored_as))}, not as {self.role!r}"
        if self.nearest is not None and (self.nearest.has_text or not self.entries):
            yield str(self.nearest)
        if self.formats:
            yield f"this very model has segments in {', '.join(self.formats)}, which this store does not read"
        if self.entries:
            yield f"{self.entries:,} entries of this very model and its parameters, and not this text"
        yield f"nothing of {self.identity.model_name} is there"


def explain(
    keys: Keys, keys_of: Callable[[ModelIdentity], Keys], store: EmbeddingStore | None, text: str, role: Role
) -> Explanation:
    """Look one text up, and around; `keys_of` is asked for the keys of other identities.

    Raises ValueError for a role that the model does not know, and what the store raises.
    """
    (key,), identity = keys([text], role), keys.identity
    role = known_role(role, keys.roles, identity.model_name)
    told = Explanation(identity=identity, role=role, key=key.hex(), cached=store is not None)
    if store is None:
        return told
    space = store.space(identity.shared)
    hits = space.get_many([key])
    if len(hits.positions):
        return replace(told, hit=True)
    near = _near(keys.identity, keys_of, store, text, role)
    others = [each for each in (DOCUMENT, *keys.roles) if each != role]
    return replace(
        told,
        damaged=bool(hits.invalid),
        entries=space.stats().rows,
        stored_as=tuple(each for each in others if _has(space, keys([text], each))),
        formats=tuple(getattr(space, "other_formats", tuple)()),
        nearest=min(near, key=_distance, default=None),
    )


def _near(
    here: ModelIdentity,
    keys_of: Callable[[ModelIdentity], Keys],
    store: EmbeddingStore,
    text: str,
    role: Role,
) -> Iterator[Nearest]:
    for there in store.spaces():
        if there.model_name == here.model_name and there != here.shared:
            keys, space = keys_of(replace(there, roles=here.roles)), store.space(there)
            has_text = _has(space, keys([text], role))
            yield Nearest(there, here.differences(there), space.stats().rows, has_text)


def _has(space: VectorSpace, keys: list[bytes]) -> bool:
    return len(space.get_many(keys).positions) > 0


def _distance(one: Nearest) -> tuple[bool, int, int]:
    return not one.has_text, len(one.differences), -one.entries
