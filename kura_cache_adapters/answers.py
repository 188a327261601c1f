"""Turn what a model answered into an exact matrix, or say that it cannot be one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kura_cache_adapters.errors import DimensionMismatchError, VectorCountError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kura_cache_adapters.protocols import Vectors

_EXACT = 2.0**53  # below it, a float64 holds every integer


def counted(answer: Any, asked: int, model_name: str) -> Sequence[Any]:  # noqa: ANN401 - whatever a model returns
    """Return the answer as a sequence of `asked` vectors; raise VectorCountError otherwise.

    Arrays are copied, at once: a model may use its buffer again for the next call.
    """
    if not hasattr(answer, "__len__"):
        if not hasattr(answer, "__iter__"):
            raise VectorCountError(model_name, asked, f"a {type(answer).__name__}")
        answer = list(answer)
    if len(answer) != asked:
        raise VectorCountError(model_name, asked, len(answer))
    if isinstance(answer, np.ndarray):
        return cast("Sequence[Any]", answer.copy())
    return [vector.copy() if isinstance(vector, np.ndarray) else vector for vector in answer]


def exact_matrix(answer: Sequence[Any]) -> Vectors | None:
    """Return vectors as one matrix, shape (N, D), narrowed; None when they are not of one D."""
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
    if matrix.dtype.kind not in "iuf":
        return None
    wide = matrix.astype(np.float64)
    exact = np.array_equal(wide.astype(matrix.dtype), matrix, equal_nan=True)
    return narrowed(wide) if exact else None


def _rounded(answer: Sequence[Any], matrix: NDArray[Any]) -> bool:
    """Tell whether making the matrix has rounded an integer that stood beside floats."""
    if matrix.max(initial=0) < _EXACT and matrix.min(initial=0) > -_EXACT:
        return False
    large = np.argwhere(np.isfinite(matrix) & (np.abs(matrix) >= _EXACT))
    return any(int(answer[row][column]) != int(matrix[row, column]) for row, column in large)


def matrix_or_list(answer: Sequence[Any]) -> Vectors | list[Any]:
    """Return vectors as one exact matrix, or as a list where they make none."""
    matrix = exact_matrix(answer)
    return list(answer) if matrix is None else matrix


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
    return cast("NDArray[np.bool_]", np.isfinite(vectors).all(axis=1))


def as_lists(vectors: Vectors | Sequence[Any]) -> list[list[float]]:
    """Convert a matrix to lists of Python floats; what makes no matrix stays as it is."""
    if not isinstance(vectors, np.ndarray):
        return list(vectors)
    # A slice at a time, so that other threads get a turn.
    return [row for start in range(0, len(vectors), 256) for row in vectors[start : start + 256].tolist()]


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
