"""Turn what a model answered into an exact matrix, or say that it cannot be one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kura_cache_adapters._core.arrays import misread_kind, unwrapped
from kura_cache_adapters._core.floats import are_floats, matrix_of_floats
from kura_cache_adapters._core.room import whole_of
from kura_cache_adapters.errors import DimensionMismatchError, VectorCountError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kura_cache_adapters._core.arrays import Kind
    from kura_cache_adapters.protocols import Vectors

    Kept = Vectors | Sequence[Any]
    """A matrix, or a list of what makes none."""

    Part = tuple[Sequence[bytes], Kept]
    """Keys, and one vector for each."""

_AT_ONCE = 1 << 14  # numbers that become Python's before other threads get a turn
_EXACT = 2.0**53  # below it, a float64 holds every integer

_ONE_EACH = "Make it answer with one vector for each text."
_THE_VECTORS = 'Make it answer with the vectors alone, e.g. answer["dense_vecs"] or answer.embeddings.'
_CURES: dict[Kind, str] = {
    "bytes": _ONE_EACH,
    "mapping": _THE_VECTORS,
    "record": _THE_VECTORS,
    "set": "Make it answer with a list, in the order of the texts.",
    "string": _ONE_EACH,
    "table": "Make it answer with the rows, e.g. answer.to_numpy(), or with the one column of vectors.",
}


def counted(answer: Any, asked: int, model_name: str) -> Sequence[Any]:  # noqa: ANN401 - whatever a model returns
    """Return the answer as a sequence of `asked` vectors; raise VectorCountError otherwise.

    Arrays are copied, at once: a model may use its buffer again for the next call.
    """
    vectors = as_vectors(answer, asked, model_name)
    if len(vectors) != asked:
        raise VectorCountError(model_name, asked, len(vectors))
    return vectors


def as_vectors(answer: Any, asked: int, model_name: str) -> Sequence[Any]:  # noqa: ANN401 - whatever a model returns
    """Return the answer as an array of its own, or a list of arrays and what else it has in it.

    Raises VectorCountError for what has no vectors in an order: mappings, records, tables, sets, strings.
    """
    if kind := misread_kind(answer):
        raise VectorCountError(model_name, asked, _named(answer, kind), _CURES[kind])
    vectors = unwrapped(answer)
    if isinstance(vectors, np.ndarray) and vectors.dtype != object and vectors.ndim:
        return cast("Sequence[Any]", vectors)
    try:
        each = iter(vectors)
    except TypeError:
        raise VectorCountError(model_name, asked, _named(answer), _ONE_EACH) from None
    return [_own(vector) for vector in each]


def uncached(vectors: Sequence[Any]) -> Vectors | Sequence[Any]:
    """Return a model's answer, of any length, in the types that it would have from a cache."""
    if are_floats(vectors) or all(map(_as_it_shall_be, vectors)):
        return vectors  # no way there and back
    return matrix_or_list(vectors)


def _as_it_shall_be(vector: object) -> bool:
    return type(vector) is list and {*map(type, vector)} == {float}


def _named(answer: object, kind: str = "") -> str:
    name = type(answer).__name__
    return f"a {name} (a {kind})" if kind in {"mapping", "record", "table"} else f"a {name}"


def _own(vector: Any) -> Any:  # noqa: ANN401 - whatever stands in an answer
    """Return one vector, an array as a copy; what is none as it is."""
    if type(vector) is list:
        return vector
    if type(vector) is np.ndarray and vector.dtype != object and vector.ndim:
        return vector.copy()
    if isinstance(vector, bytearray):
        return bytes(vector)  # numpy would take its bytes for numbers
    own = unwrapped(vector)
    if not isinstance(own, np.ndarray):
        return own
    if own.dtype == object:
        return own.tolist()
    return own if own.ndim else vector


def exact_matrix(answer: Sequence[Any]) -> Vectors | None:
    """Return vectors as one matrix, shape (N, D), narrowed; None when they are not of one D."""
    floats = matrix_of_floats(answer)
    return _of_any(answer) if floats is None else floats


def _of_any(answer: Sequence[Any]) -> Vectors | None:
    try:
        matrix = np.asarray(answer)
    except (ValueError, TypeError, RuntimeError, OverflowError):  # ragged, or objects that are no numbers
        return None
    if matrix.ndim != 2 or not matrix.shape[1]:  # noqa: PLR2004 - a matrix
        return None
    if matrix.dtype in (np.float32, np.float64):
        if _rounded(answer, matrix):
            return None
        return narrowed(cast("Vectors", matrix))
    if not _of_numbers(matrix.dtype):
        return None
    with np.errstate(over="ignore", under="ignore"):
        wide = matrix.astype(np.float64)
    return narrowed(wide) if _same(matrix, wide) else None


def _same(matrix: NDArray[Any], wide: NDArray[np.float64]) -> bool:
    """Tell whether float64 holds all that the matrix does."""
    if matrix.dtype.kind in "iu":  # cast back, what is beyond the largest integer may become it again
        return not _rounded(cast("Sequence[Any]", matrix), wide)
    return np.array_equal(wide.astype(matrix.dtype), matrix, equal_nan=True)


def _of_numbers(dtype: np.dtype[Any]) -> bool:
    """Tell whether a dtype is of integers or floats; ml_dtypes' own (bfloat16, ...) are of kind "V"."""
    if dtype.kind == "V":
        return dtype.names is None and np.can_cast(dtype, np.float64)
    return dtype.kind in "iuf"


def _rounded(answer: Sequence[Any], matrix: NDArray[Any]) -> bool:
    """Tell whether making the matrix has rounded an integer that stood beside floats."""
    if matrix.max(initial=0) < _EXACT and matrix.min(initial=0) > -_EXACT:
        return False
    large = np.argwhere(np.isfinite(matrix) & (np.abs(matrix) >= _EXACT))
    return any(int(answer[row][column]) != int(matrix[row, column]) for row, column in large)


def matrix_or_list(answer: Sequence[Any]) -> Vectors | list[Any]:
    """Return vectors as one exact matrix; where they make none, as a list with each of them as floats.

    What is no vector stays as it is: the others are of one type whether they come from here or a cache.
    """
    matrix = exact_matrix(answer)
    return [_floats(vector) for vector in answer] if matrix is None else matrix


def _floats(vector: Any) -> Any:  # noqa: ANN401 - what is no vector stays as it is
    matrix = exact_matrix([vector])
    return vector if matrix is None else matrix[0].tolist()


def narrowed(vectors: Vectors) -> Vectors:
    """Return float64 vectors as float32 where that loses nothing, C-contiguous."""
    if vectors.dtype == np.float64:
        with np.errstate(over="ignore", under="ignore"):
            narrow = vectors.astype(np.float32)
        if np.array_equal(narrow, vectors, equal_nan=True):
            vectors = narrow
    return cast("Vectors", np.ascontiguousarray(vectors))


def finite_rows(vectors: Vectors) -> NDArray[np.bool_]:
    """Tell which rows hold finite numbers only, shape (N,) bool."""
    finite = np.isfinite(vectors)
    if finite.all():  # which takes half the time of asking each row
        return np.ones(len(finite), bool)
    return cast("NDArray[np.bool_]", finite.all(axis=1))


def as_lists(vectors: Vectors | Sequence[Any]) -> list[list[float]]:
    """Convert a matrix to lists of Python floats; what makes no matrix stays as it is."""
    if not isinstance(vectors, np.ndarray):
        return list(vectors)
    step = max(1, _AT_ONCE // max(1, vectors.shape[1]))  # a slice at a time, so that others get a turn
    return [row for start in range(0, len(vectors), step) for row in vectors[start : start + step].tolist()]


def as_matrix(vectors: Vectors | Sequence[Any]) -> Vectors:
    """Return vectors as one matrix, shape (0, 0) for none; raise DimensionMismatchError if they make none."""
    matrix = vectors if isinstance(vectors, np.ndarray) else exact_matrix(vectors)
    if matrix is None and not len(vectors):
        return np.empty((0, 0), np.float32)
    if matrix is None:
        message = (
            "the model's vectors make no matrix: they differ in dimension or are no numbers; "
            "embed() returns them as they are."
        )
        raise DimensionMismatchError(message)
    return matrix


def merged(
    total: int,
    parts: Sequence[tuple[Sequence[int], Vectors | Sequence[Any]]],
) -> Vectors | list[Any]:
    """Put parts, each (positions, vectors), together: a matrix, or a list if they do not make one.

    Every position below `total` must be in a part; where one is in several, the last counts.
    """
    if (room := whole_of(total, parts)) is not None:
        return room
    matrices = [vectors for _, vectors in parts if isinstance(vectors, np.ndarray)]
    if len(matrices) == len(parts) and len({matrix.shape[1] for matrix in matrices}) == 1:
        shape = (total, matrices[0].shape[1])
        whole: Vectors = np.empty(shape, np.result_type(*matrices))
        for positions, vectors in parts:
            whole[positions] = vectors
        return whole
    rows: list[Any] = [None] * total
    for positions, vectors in parts:
        plain = vectors.tolist() if isinstance(vectors, np.ndarray) else vectors
        for position, vector in zip(positions, plain, strict=True):
            rows[position] = vector
    return rows
