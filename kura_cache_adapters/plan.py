"""A call's plan: what was asked, what was found, and how found and fresh become one answer."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters.answers import merged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kura_cache_adapters.filling import Kept, Part
    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.protocols import Hits
    from kura_cache_adapters.view import View


@dataclass(frozen=True, slots=True)
class Lookup:
    """A call after its look-up: what was asked, what was found, what is missing."""

    texts: list[str]
    role: Role
    keys: list[bytes]
    hits: Hits
    generation: int
    view: View

    @property
    def complete(self) -> bool:
        """Tell whether everything was found."""
        return len(self.hits.positions) == len(self.texts)

    @property
    def missing(self) -> list[int]:
        """The positions of what was not found, rising."""
        found = np.zeros(len(self.texts), bool)
        found[self.hits.positions] = True
        return [int(at) for at in np.flatnonzero(~found)]


def checked_texts(texts: Sequence[str]) -> list[str]:
    """Return texts as a list; raise TypeError for one string, and for anything that is none."""
    if isinstance(texts, str):
        message = "texts must be a list of strings, not one string; pass [text]"
        raise TypeError(message)
    texts = list(texts)
    if set(map(type, texts)) - {str}:
        for at, text in enumerate(texts):
            if not isinstance(text, str):
                message = f"texts[{at}] must be a string, not {type(text).__name__}"
                raise TypeError(message)
        # Plain strings: a subclass may be equal to another text, and would be taken for it.
        texts = [str.__add__(text, "") for text in texts]
    return texts


def merge(lookup: Lookup, found: Kept, parts: list[Part]) -> Kept:
    """Put found and fresh vectors in the caller's order, a copy for each repeated text."""
    first: dict[bytes, int] = {}
    repeated = {
        at: before for at in lookup.missing if (before := first.setdefault(lookup.keys[at], at)) != at
    }
    placed = [([first[key] for key in keys], vectors) for keys, vectors in parts]
    if len(found):
        placed.append((lookup.hits.positions.tolist(), found))
    whole = merged(len(lookup.texts), placed)
    if isinstance(whole, np.ndarray):
        whole[[*repeated]] = whole[[*repeated.values()]]
        return whole
    for at, before in repeated.items():
        whole[at] = copy(whole[before])
    return whole
