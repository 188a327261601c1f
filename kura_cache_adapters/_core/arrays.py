"""Read arrays, tensors and columns of any library by what they offer, so that none has to be imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from typing import TypeAlias

Kind: TypeAlias = Literal["bytes", "mapping", "record", "set", "string", "table"]


def misread_kind(value: object) -> Kind | None:
    """Tell what a value is that iterates over something else than its rows, or in no order; None for others.

    A table gives the names of its columns, a mapping its keys, a record its fields.
    """
    kind = type(value)
    if isinstance(value, str):
        return "string"
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes"
    if isinstance(value, set | frozenset):
        return "set"
    if hasattr(kind, "columns") or hasattr(kind, "column_names"):
        return "table"
    if hasattr(kind, "_fields") or hasattr(kind, "model_fields"):  # named tuples, pydantic's models
        return "record"
    # TensorDict is no Mapping; a pandas Series has keys, too.
    keyed = isinstance(value, Mapping) or (hasattr(kind, "keys") and not hasattr(kind, "to_numpy"))
    return "mapping" if keyed else None


def unwrapped(value: Any) -> Any:  # noqa: ANN401 - whatever a model returns
    """Return an array, tensor or column as an ndarray of its own, or a list; anything else as it is."""
    for attribute, read in _READERS:
        if not hasattr(type(value), attribute):
            continue
        try:
            found = read(value)
        except Exception:  # noqa: BLE001, S112 - each library has its own errors, and the next way may do
            continue
        return np.array(found) if isinstance(found, np.ndarray) else found
    return value


def _of_tensor(tensor: Any) -> Any:  # noqa: ANN401 - torch's, which is not imported
    tensor = tensor.detach()
    if tensor.is_floating_point() and tensor.element_size() < np.dtype(np.float32).itemsize:
        tensor = tensor.float()  # numpy has no bfloat16; each is a float32, too
    return np.asarray(tensor.cpu().to_dense())


def _of_arrow(column: Any) -> Any:  # noqa: ANN401 - of pyarrow, which has no types
    if len(getattr(column.type, "shape", ())) > 1:
        return list(column)  # made flat, a row that is a matrix would look like a vector
    if "int" in str(getattr(column.type, "value_type", "")):
        return column.to_pylist()  # beside a null, numpy's would all be floats, and rounded
    return column.to_numpy(zero_copy_only=False)


def _of_arrow_stream(column: Any) -> Any:  # noqa: ANN401 - any library's
    import pyarrow as pa  # noqa: PLC0415 - at once, it would make the first import slow

    return _of_arrow(pa.chunked_array(column))


# What a type offers, the best first, and how it is read then.
_READERS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("filled", lambda masked: masked.tolist()),  # numpy's masked arrays: what is under a mask is no number
    ("detach", _of_tensor),  # torch
    ("toarray", lambda sparse: sparse.toarray()),  # scipy
    ("to_arrow", lambda column: _of_arrow(column.to_arrow())),  # polars, cuDF
    ("to_pylist", _of_arrow),  # pyarrow
    ("to_numpy", lambda column: column.to_numpy()),  # pandas, xarray
    ("__arrow_c_stream__", _of_arrow_stream),
    ("__array__", np.asarray),  # numpy, JAX, TensorFlow
    ("__dlpack__", np.from_dlpack),
    ("as_py", lambda scalar: np.array(scalar.as_py(), object)),  # one row of pyarrow's
    ("tolist", lambda array: array.tolist()),  # what cannot be read in place: other devices, MLX's bfloat16
)
