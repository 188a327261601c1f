"""Embed: one callable over batches, for Ray Data, Spark, Dask, HuggingFace datasets and Daft."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from kura_cache_adapters._runtime.fork import ModelLock
from kura_cache_adapters._runtime.signals import suppressed
from kura_cache_adapters.cached_embedding import CachedEmbeddingModel
from kura_cache_adapters.stores.addresses import scheme_of
from kura_cache_adapters.stores.registry import refuse_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from numpy.typing import NDArray
    from typing_extensions import Self

    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.options import CacheLike
    from kura_cache_adapters.protocols import Vectors

    _Recipe = tuple[Callable[[], Any], CacheLike, dict[str, Any]]

_ON_DISK = {"", "arrow", "parquet", "jsonl", "hf", "file"}  # schemes with a path of this machine behind them
_MODELS = 4  # that a worker keeps, of those that came to it with its tasks
_MARKS = {"NAType", "NaTType"}
_NO_COLUMN = (
    "one {} is in the place of a column: give batches, as `map_batches` or `map(batched=True)` do, and the "
    "column a name of its own"
)
_making = ModelLock()


class Embed:
    """Add the vectors of a column of texts to a batch; the model is made in the worker, once a process.

    It is called with a dict of columns, a pandas or polars DataFrame, or an Arrow table or record batch, and
    answers in kind; with an iterator of these it answers with one, and closes the store at its end; with
    a column of Daft's with an Arrow array. It can be pickled; `datasets` finds it equal in each run.
    """

    def __init__(  # noqa: PLR0913 - each may matter
        self,
        make_model: Callable[[], Any],
        store: CacheLike,
        *,
        column: str = "text",
        out: str = "vector",
        role: Role = "document",
        dtype: type[np.float32 | np.float64] | None = None,
        **keywords: Any,
    ) -> None:
        """Take what is needed to make the model; nothing is made yet.

        Args:
            make_model: a function without parameters that returns what `CachedEmbeddingModel` wraps.
            store: a directory or URL, which all workers must reach, or what else pickles and is a cache.
                A path is made absolute: workers may stand elsewhere.
            column: the column of the texts. One without a text (None, NaN, null) gets no vector.
            out: the new column. In a dict it is an array, shape (N, D), or, beside texts that are none, an
                array of N rows and None; in pandas N rows; in Arrow and polars a list of the fixed size D (of
                any size where a batch has no text and D is not known yet).
            role: as `embed` takes it.
            dtype: of the vectors; None leaves them float32, and float64 in batches that need it.
            **keywords: what else `CachedEmbeddingModel` takes.

        Raises:
            TypeError: `make_model` is a model, or no function.

        """
        _check_maker(make_model)
        self._recipe = make_model, reached_from_anywhere(store), keywords
        self._column, self._out, self._role, self._dtype = column, out, role, dtype
        self._model: CachedEmbeddingModel | None = None
        self._arrived = False

    @property
    def model(self) -> CachedEmbeddingModel:
        """The cached model of this process."""
        with _making:
            if self._model is None:
                self._model = _of_this_process(self._recipe) if self._arrived else _made(*self._recipe)
            return self._model

    def __call__(self, batch: Any) -> Any:  # noqa: ANN401 - of any engine
        """Return the batch with its vectors; what it was handed stays as it is.

        Raises:
            ValueError: there is no such column, or one that is called like the new one.
            TypeError: no batch of these kinds, a single row, or something else than texts in the column.

        """
        if isinstance(batch, Iterator):
            return self._each(batch)
        if isinstance(batch, (pa.Table, pa.RecordBatch)):
            self._check(batch.schema.names)
            return batch.append_column(self._out, self._arrow(batch[self._column]))
        if hasattr(batch, "with_columns"):  # of polars
            self._check(batch.columns)
            texts = batch[self._column]
            return batch.with_columns(type(texts)(self._out, self._arrow(texts.to_arrow())))
        if isinstance(batch, Mapping) or hasattr(batch, "columns"):
            return self._beside(batch)
        if hasattr(batch, "to_arrow"):
            return self._arrow(batch.to_arrow())
        message = f"a batch is a dict of columns, a DataFrame or an Arrow table, not a {type(batch).__name__}"
        raise TypeError(message)

    def close(self) -> None:
        """Close the store of this process, which waits for what is being written; the next use opens it."""
        if self._model is None:
            return
        self._model.close()
        if self._arrived and self._model.cache is not None:  # what was handed in came with it, and is its own
            store = self._model.cache.store
            for each in (store, *getattr(store, "lent", ())):
                each.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what the constructor takes: a model that was made here stays here."""
        return {**vars(self), "_model": None, "_arrived": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Note that this is another's, who may send many."""
        vars(self).update(state, _arrived=True)

    def _each(self, batches: Iterator[Any]) -> Iterator[Any]:
        with closing(self):
            yield from map(self, batches)

    def _beside(self, batch: Any) -> Any:  # noqa: ANN401 - a mapping or a DataFrame
        is_mapping = isinstance(batch, Mapping)
        self._check(batch.keys() if is_mapping else batch.columns)
        matrix, there = self._embedded(_texts(batch[self._column]))
        embedded = copy(batch)
        embedded[self._out] = matrix if is_mapping and there.all() else _rows(matrix, there)
        return embedded

    def _arrow(self, texts: Any) -> pa.Array:  # noqa: ANN401 - of pyarrow, which has no types
        matrix, there = self._embedded(texts.to_pylist())
        if not matrix.shape[1]:
            return pa.nulls(len(there), pa.list_(pa.from_numpy_dtype(matrix.dtype)))
        if there.all():
            return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
        whole = np.zeros((len(there), matrix.shape[1]), matrix.dtype)
        whole[there] = matrix
        return pa.FixedSizeListArray.from_arrays(whole.ravel(), matrix.shape[1], mask=pa.array(~there))

    def _embedded(self, texts: list[str | None]) -> tuple[Vectors, NDArray[np.bool_]]:
        """Return the vectors of those that are texts, and which these are, shape (N,)."""
        there: NDArray[np.bool_] = np.array([text is not None for text in texts], bool)
        known = [text for text in texts if text is not None]
        matrix: Vectors = np.empty((0, 0 if known else self._dimension(texts)), np.float32)
        if known:
            matrix = self.model.embed_array_sync(known, role=self._role)
        return cast("Vectors", matrix.astype(self._dtype or matrix.dtype, copy=False)), there

    def _dimension(self, texts: list[str | None]) -> int:
        """Return D where it is known; 0 where not, and for no row at all, which makes no model."""
        if not texts or self.model.cache is None:
            return 0
        with suppressed(Exception):  # of a server that does not answer
            return self.model.cache.stats(self.model.identity()).dimension or 0
        return 0

    def _check(self, names: Collection[str]) -> None:
        if self._column not in names:
            message = f"the batch has no column {self._column!r}; there are {', '.join(map(str, names))}"
            raise ValueError(message)
        if self._out in names:
            message = f"the batch has a column {self._out!r} already: pass out= with another name"
            raise ValueError(message)


def reached_from_anywhere(store: Any) -> Any:  # noqa: ANN401 - a CacheLike
    """Return a cache with its paths made absolute: a worker may stand in another directory."""
    if isinstance(store, (list, tuple)):  # tiers
        return [*map(reached_from_anywhere, store)]
    if not isinstance(store, (str, os.PathLike)):
        return store
    scheme = scheme_of(store)
    if scheme not in _ON_DISK:
        return store
    if not scheme:
        refuse_path(store)
    start = f"{scheme}://" if scheme else ""
    path = os.path.expanduser(os.fspath(store).removeprefix(start))  # noqa: PTH111 - with a query
    return f"{start}{os.path.abspath(path)}"  # noqa: PTH100


def _check_maker(make_model: object) -> None:
    if not callable(make_model) or (hasattr(make_model, "embed") and not isinstance(make_model, type)):
        message = f"make_model must be a function that makes a model, not a {type(make_model).__name__}"
        raise TypeError(message)


def _made(make_model: Callable[[], Any], store: CacheLike, keywords: dict[str, Any]) -> CachedEmbeddingModel:
    return CachedEmbeddingModel(make_model(), store, **keywords)


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A recipe that came to this process: equal to another that pickles alike."""

    pickled: bytes
    recipe: _Recipe = field(compare=False)


@lru_cache(maxsize=_MODELS)
def _made_once(arrived: _Arrived) -> CachedEmbeddingModel:
    return _made(*arrived.recipe)


def _of_this_process(recipe: _Recipe) -> CachedEmbeddingModel:
    """Return the one model of an equal recipe: some engines send a new copy of it with each task."""
    try:
        pickled = _pickled(recipe)
    except (pickle.PicklingError, TypeError, AttributeError):  # of what came by another way
        return _made(*recipe)
    return _made_once(_Arrived(pickled, recipe))


def _pickled(recipe: object) -> bytes:
    """Pickle as the engine here does, by value: a function of a notebook has no module to be found in."""
    engines = (sys.modules.get(name) for name in ("cloudpickle", "pyspark.cloudpickle"))
    pickled: bytes = next(filter(None, engines), pickle).dumps(recipe)
    return pickled


def _texts(column: Any) -> list[str | None]:  # noqa: ANN401 - of any library
    """Return a column's texts, None for NaN and other marks of no text."""
    if column is None or isinstance(column, str) or hasattr(column, "columns"):
        raise TypeError(_NO_COLUMN.format(type(column).__name__))
    if hasattr(column, "to_pylist"):  # Arrow's
        column = column.to_pylist()
    if hasattr(column, "notna"):  # pandas has several
        column = column.astype(object).where(column.notna(), None)
    return [None if _is_none(text) else text for text in column]


def _is_none(text: object) -> bool:
    """Tell whether it is NaN or a mark of pandas', which Ray puts into arrays too."""
    if isinstance(text, (float, np.floating)):
        return bool(np.isnan(text))
    return type(text).__name__ in _MARKS


def _rows(matrix: Iterable[Any], there: NDArray[np.bool_]) -> NDArray[np.object_]:
    """Return an array of rows, shape (N,), with None where there is none."""
    rows: NDArray[np.object_] = np.full(len(there), None, object)
    for at, row in zip(np.flatnonzero(there), matrix, strict=True):
        rows[at] = row
    return rows
