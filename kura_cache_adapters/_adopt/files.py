"""Files of vectors, in and out: by their texts, or by the keys of one model's space."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kura_cache_adapters._adopt.adopting import BATCH, Adopted, keep
from kura_cache_adapters._adopt.fit import fit
from kura_cache_adapters._adopt.tables import about, read_columns
from kura_cache_adapters._adopt.writing import write
from kura_cache_adapters._core.lookup import checked_texts
from kura_cache_adapters._segments.rows import checksums_of
from kura_cache_adapters.checks import KEY_BYTES, key_matrix
from kura_cache_adapters.identity import ModelIdentity

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from kura_cache_adapters._adopt.adopting import Keeps
    from kura_cache_adapters._adopt.check import Check
    from kura_cache_adapters._adopt.fit import Fit
    from kura_cache_adapters._core.keys import Keys
    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.protocols import EmbeddingStore, Vectors, VectorSpace

TEXT, VECTOR = "text", "embedding"
"""The columns of a file of texts."""

_KEYS = ("key", "checksum", "vector")
_NO_KEY = bytes(KEY_BYTES)
_T = TypeVar("_T")


def import_texts(
    model: Keeps, path: str | os.PathLike[str], columns: tuple[str, str], role: Role, check: Check
) -> Adopted:
    """Store a file's vectors by its texts, unless they fail the check."""
    adopted = Adopted()
    for texts, vectors in read_columns(Path(path), columns):
        there = [at for at, text in enumerate(texts) if isinstance(text, str)]
        some, given = [texts[at] for at in there], _taken(vectors, there)
        if check.due:
            check(str(path), some, fit(given))
        kept = keep(model, some, partial(_fit_at, given), role)
        adopted += kept + Adopted(texts=len(texts) - len(some), damaged=len(texts) - len(some))
    return adopted


def _fit_at(vectors: Any, at: list[int]) -> Fit:  # noqa: ANN401 - a matrix or a list
    return fit(_taken(vectors, at))


def import_keys(store: EmbeddingStore, path: str | os.PathLike[str]) -> Adopted:
    """Store what `export_keys` wrote, in the space that it names; raise ValueError for another file."""
    path = Path(path)
    identity, adopted = about(path), Adopted()
    if not identity:
        message = f"{path} is no file of export_file, with keys; model.import_file takes texts and vectors"
        raise ValueError(message)
    space = store.space(ModelIdentity.from_json(identity))
    for keys, checksums, vectors in read_columns(path, _KEYS):
        adopted += _import_keys(space, [*map(_key, keys)], [*map(_number, checksums)], fit(vectors))
    return adopted


def export_keys(store: EmbeddingStore, identity: ModelIdentity, path: str | os.PathLike[str]) -> int:
    """Write all keys of a space and their vectors to a new file; return how many."""
    space = store.space(identity.shared)

    def rows() -> Iterator[dict[str, Any]]:
        for keys in _some([*space.keys()]):
            hits = space.get_many(keys).checked(len(keys))
            there = [keys[at] for at in hits.positions]
            if there:
                yield dict(zip(_KEYS, (there, _checksums(there, hits.vectors), hits.vectors), strict=True))

    return write(Path(path), rows, identity.to_json())


def export_texts(
    store: EmbeddingStore | None,
    keys: Keys,
    path: str | os.PathLike[str],
    texts: Iterable[str],
    role: Role,
) -> int:
    """Write those of the texts that have a vector, and these, to a new file; return how many."""
    distinct = [*dict.fromkeys(checked_texts(texts))]

    def rows() -> Iterator[dict[str, Any]]:
        if store is None:
            return
        space = store.space(keys.identity.shared)
        for some in _some(distinct):
            hits = space.get_many(keys(some, role)).checked(len(some))
            if len(hits.positions):
                yield {TEXT: [some[at] for at in hits.positions], VECTOR: hits.vectors}

    return write(Path(path), rows, "")


def _import_keys(space: VectorSpace, keys: list[bytes], checksums: list[int], found: Fit) -> Adopted:
    """Store rows whose checksums say that key and vector belong together."""
    named = [keys[at] for at in found.positions]
    sums = [checksums[at] for at in found.positions]
    same = [one == other for one, other in zip(_checksums(named, found.vectors), sums, strict=True)]
    right = {key: at for at, key in enumerate(named) if same[at] and key != _NO_KEY}
    hits, there = space.get_many(right).checked(len(right)), [*right]
    fresh = dict(right)
    for at in hits.positions:
        del fresh[there[at]]
    if fresh:
        space.put_many([*fresh], found.vectors[[*fresh.values()]])
    new, damaged = len(fresh), len(keys) - len(right)
    return Adopted(len(keys), len(right) - new, new, damaged, new)


def _key(value: Any) -> bytes:  # noqa: ANN401 - what stands in a file
    if isinstance(value, str):
        with suppress(ValueError):
            value = bytes.fromhex(value)
    key = value.tobytes() if isinstance(value, np.ndarray) else value
    return key if isinstance(key, bytes) and len(key) == KEY_BYTES else _NO_KEY


def _number(value: Any) -> int:  # noqa: ANN401 - what stands in a file
    with suppress(ValueError, TypeError):
        return int(value, 16) if isinstance(value, str) else int(value)
    return -1


def _checksums(keys: list[bytes], vectors: Vectors) -> list[int]:
    """Compute the checksums of docs/format.md, over each vector as float64."""
    return checksums_of(key_matrix(keys), vectors.astype(np.float64)).tolist() if keys else []


def _taken(column: Any, at: list[int]) -> Any:  # noqa: ANN401 - a matrix or a list
    return column[at] if isinstance(column, np.ndarray) else [column[each] for each in at]


def _some(things: list[_T]) -> Iterator[list[_T]]:
    return (things[at : at + BATCH] for at in range(0, len(things), BATCH))
