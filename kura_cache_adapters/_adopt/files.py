"""Files of vectors, in and out: by their texts, or by the keys of one model's space."""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kura_cache_adapters._adopt.adopting import BATCH, Adopted, keep
from kura_cache_adapters._adopt.fit import fit
from kura_cache_adapters._adopt.tables import about, read_columns
from kura_cache_adapters._adopt.writing import write
from kura_cache_adapters._core.calls import Bare
from kura_cache_adapters._core.lookup import checked_texts
from kura_cache_adapters._core.vectors import as_matrix
from kura_cache_adapters._observe.counters import Counters
from kura_cache_adapters._segments.rows import checksums_of
from kura_cache_adapters.checks import KEY_BYTES, check_dimension, key_matrix
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.options import CacheOptions

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from kura_cache_adapters._adopt.adopting import Keeps
    from kura_cache_adapters._adopt.fit import Fit
    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.keys import Keys
    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.protocols import EmbeddingStore, Vectors, VectorSpace

TEXT, VECTOR = "text", "embedding"
"""The columns of a file of texts."""

_KEYS = ("key", "checksum", "vector")
_NO_KEY = bytes(KEY_BYTES)
_NOTHING: Sequence[Sequence[Any]] = ((), ())
_T = TypeVar("_T")


def import_texts(  # noqa: PLR0913 - each may matter
    model: Keeps,
    source: Source,
    path: str | os.PathLike[str],
    columns: tuple[str, str],
    role: Role,
    *,
    check: int,
    tolerance: float,
) -> Adopted:
    """Store a file's vectors by its texts; raise ValueError if the model embeds `check` of them otherwise."""
    batches, adopted = read_columns(Path(path), columns), Adopted()
    first = next(batches, _NOTHING)
    if check:
        _check(source, Path(path), first, check, tolerance, role)
    for texts, vectors in chain([first], batches):
        adopted += _import_rows(model, texts, vectors, role)
    return adopted


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
            hits = space.get_many(keys)
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
            hits = space.get_many(keys(some, role))
            if len(hits.positions):
                yield {TEXT: [some[at] for at in hits.positions], VECTOR: hits.vectors}

    return write(Path(path), rows, "")


def _import_rows(model: Keeps, texts: Sequence[Any], vectors: Sequence[Any], role: Role) -> Adopted:
    there = [at for at, text in enumerate(texts) if isinstance(text, str)]
    some = [texts[at] for at in there]
    kept = keep(model, some, lambda at: fit(_taken(vectors, [there[each] for each in at])), role)
    without = len(texts) - len(there)
    return kept + Adopted(texts=without, damaged=without)


def _check(  # noqa: PLR0913, PLR0917 - what is checked, against what
    source: Source,
    path: Path,
    rows: Sequence[Sequence[Any]],
    count: int,
    tolerance: float,
    role: Role,
) -> None:
    texts, vectors = rows
    there = [at for at, text in enumerate(texts) if isinstance(text, str)]
    found = fit(_taken(vectors, there))
    asked = [texts[there[at]] for at in found.positions[:count]]
    if not asked:
        message = f"{path} has no vectors in its first rows that could be checked; nothing was imported"
        raise ValueError(message)
    again = Bare(source, {}, CacheOptions(), Counters()).answer_sync(asked, role, as_matrix)
    check_dimension(found.vectors.shape[1], again, str(path))
    if (apart := _distance(found.vectors[:count], again)) > tolerance:
        message = (
            f"{path} has other vectors than {source.name} makes: of {len(asked)} texts that were embedded "
            f"again, the largest difference is {apart:.3g} of a vector's length, and {tolerance:g} is "
            "allowed; nothing was imported"
        )
        raise ValueError(message)


def _distance(given: Vectors, again: Vectors) -> float:
    """Return the largest distance of two vectors, as a part of their length."""
    lengths = np.maximum(np.linalg.norm(again, axis=1), np.finfo(again.dtype).tiny)
    return float((np.linalg.norm(given - again, axis=1) / lengths).max())


def _import_keys(space: VectorSpace, keys: list[bytes], checksums: list[int], found: Fit) -> Adopted:
    """Store rows whose checksums say that key and vector belong together."""
    named = [keys[at] for at in found.positions]
    sums = [checksums[at] for at in found.positions]
    same = [one == other for one, other in zip(_checksums(named, found.vectors), sums, strict=True)]
    right = {key: at for at, key in enumerate(named) if same[at] and key != _NO_KEY}
    hits, there = space.get_many(right), [*right]
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
