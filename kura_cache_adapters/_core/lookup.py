"""A call's look-up: what was asked, what was found, and how found and fresh become one answer."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters._core.arrays import misread_kind
from kura_cache_adapters._core.vectors import merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kura_cache_adapters._core.arrays import Kind
    from kura_cache_adapters._core.sharing import Share
    from kura_cache_adapters._core.vectors import Kept, Part
    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.protocols import Hits

_SLICE = 4096  # rows of a column that become Python's at once
_CURES: dict[Kind | None, str] = {
    "bytes": "not {}; decode it and pass [text]",
    "mapping": "not {}, a mapping; pass list(texts.values()), or its keys as a list",
    "set": "not {}, which has no order; pass sorted(texts)",
    "string": "not one string; pass [text]",
    "table": 'not {}, a table; pass one of its columns, e.g. texts["text"]',
}


@dataclass(slots=True)  # not frozen: that would cost a hit of one text a tenth of its time
class Lookup:
    """A call after its look-up: what was asked, what was found, what is missing."""

    texts: list[str]
    role: Role
    keys: list[bytes]
    hits: Hits
    generation: int
    call: int
    readable: bool
    begun: float
    seconds: float
    share: Share | None = None

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


def checked_texts(texts: Iterable[str], *, first: int = 0) -> list[str]:
    """Return texts as a list: a sequence, a column or an iterator of strings; raise TypeError for others.

    Refused are one string, what iterates over something else than texts (tables, mappings, bytes),
    what has no order (sets), and anything in it that is no string; `first` is where they stand among more.
    """
    texts = texts.copy() if type(texts) is list else list(iterator_of(texts))
    if set(map(type, texts)) - {str}:
        for at, text in enumerate(texts):
            if not isinstance(text, str):
                message = f"texts[{first + at}] must be a string, not {type(text).__name__}"
                raise TypeError(message)
        # Plain strings: a subclass may be equal to another text, and would be taken for it.
        texts = [str.__add__(text, "") for text in texts]
    return texts


def iterator_of(texts: Any) -> Iterator[Any]:  # noqa: ANN401 - whatever is handed in
    """Iterate over texts; raise TypeError for what iterates over something else, in no order, or not at all.

    What a generator of the caller's raises is heard as it is.
    """
    if cure := _CURES.get(misread_kind(texts)):
        message = f"texts must be a list of strings, {cure.format(type(texts).__name__)}"
        raise TypeError(message)
    if hasattr(type(texts), "to_pylist"):  # Arrow's: its elements are no strings
        return _of_column(texts)
    try:
        return iter(texts)
    except TypeError as error:
        message = f"texts must be a list of strings, not {type(texts).__name__}"
        raise TypeError(message) from error


def _of_column(column: Any) -> Iterator[Any]:  # noqa: ANN401 - of pyarrow, which has no types
    for at in range(0, len(column), _SLICE):
        yield from column.slice(at, _SLICE).to_pylist()


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
