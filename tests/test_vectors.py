"""What a model may answer with and what may stand for texts: all is exact, and of one type from the start."""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter, OrderedDict, UserDict, deque, namedtuple
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from pydantic import BaseModel

from kura_cache_adapters import (
    CachedEmbeddingModel,
    CacheOptions,
    CallableEmbeddingModel,
    DimensionMismatchError,
    MemoryStore,
    OpenAIEmbeddingModel,
    VectorCountError,
)
from kura_cache_adapters.embedding.streaming import StreamingEmbeddingModel
from kura_cache_adapters.testing import FakeEmbeddingModel, OpenAIServer
from kura_cache_adapters.testing import openai_server as server_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = ["a", "b", "c"]
ROWS = [[0.5, -1.25, 2.0, 0.0], [1.5, 0.125, -0.75, 1.0], [-2.0, 1.75, 0.25, 0.625]]  # exact in eleven bits
MATRIX = np.array(ROWS, np.float32)
HOLED = [ROWS[0], None, ROWS[2]]


class Answering:
    """A model that answers each text with its row of what it was told, and remembers what it was asked."""

    def __init__(self, answer: Callable[[list[int]], Any]) -> None:
        self.answer, self.asked = answer, list[str]()
        self.model = CallableEmbeddingModel(self, model_name="answering")

    def __call__(self, texts: list[str]) -> Any:
        self.asked += texts
        return self.answer([TEXTS.index(text) for text in texts])

    def cached(self, where: Any) -> CachedEmbeddingModel:
        return CachedEmbeddingModel(self.model, where, options=CacheOptions(durable=False))


def types_of(answer: Any) -> Any:
    """Return the type of everything in an answer, in its shape."""
    return [types_of(part) for part in answer] if isinstance(answer, list) else type(answer)


def assert_one_answer(answering: Answering, path: Path, expected: Any) -> None:
    """Hold that a first call, a second one and one without a cache agree in value and in every type."""
    answers = [
        answering.cached(path).embed_sync(TEXTS),
        answering.cached(path).embed_sync(TEXTS),
        asyncio.run(answering.cached(path).embed(TEXTS)),
        answering.cached(None).embed_sync(TEXTS),
        asyncio.run(answering.cached(None).embed(TEXTS)),
    ]
    assert answers == [expected] * 5
    assert [types_of(answer) for answer in answers] == [types_of(expected)] * 5


def assert_one_array(answering: Answering, path: Path, expected: Any) -> None:
    answers = [answering.cached(where).embed_array_sync(TEXTS) for where in (path, path, None)]
    for answer in answers:
        assert type(answer) is np.ndarray
        assert answer.dtype == expected.dtype
        assert answer.flags.c_contiguous
        assert np.array_equal(answer, expected)


def torch_of(change: Callable[[Any], Any]) -> Callable[[list[int]], Any]:
    def answer(at: list[int]) -> Any:
        torch = pytest.importorskip("torch")
        return change(torch.tensor(MATRIX[at]))

    return answer


def arrow_of(kind: Any) -> Callable[[list[int]], Any]:
    return lambda at: pa.array(MATRIX[at].astype(kind.value_type.to_pandas_dtype()).tolist(), kind)


def half_of(at: list[int]) -> Any:
    return pa.array([list(map(np.float16, ROWS[each])) for each in at], pa.list_(pa.float16()))


def pandas_of(change: Callable[[Any, list[Any]], Any]) -> Callable[[list[int]], Any]:
    return lambda at: change(pytest.importorskip("pandas"), [ROWS[each] for each in at])


def polars_of(change: Callable[[Any, list[Any]], Any]) -> Callable[[list[int]], Any]:
    return lambda at: change(pytest.importorskip("polars"), [ROWS[each] for each in at])


def arrow_series(pandas: Any, rows: list[Any]) -> Any:
    return pandas.Series(pandas.arrays.ArrowExtensionArray(pa.array(rows, pa.list_(pa.float32()))))


def ml_dtypes_of(
    name: str, change: Callable[[Any], Any] = lambda matrix: matrix
) -> Callable[[list[int]], Any]:
    return lambda at: change(MATRIX[at].astype(getattr(pytest.importorskip("ml_dtypes"), name)))


def sparse_of(name: str) -> Callable[[list[int]], Any]:
    return lambda at: getattr(pytest.importorskip("scipy.sparse"), name)(MATRIX[at])


class OnlyDLPack:
    """An array of a library that knows DLPack alone."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix

    def __dlpack__(self, **options: Any) -> Any:
        return self._matrix.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._matrix.__dlpack_device__()


class OnlyArrowStream:
    """A column of a library that knows Arrow's stream alone."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._column.__arrow_c_stream__(requested_schema)


class OldSequence:
    """A sequence that is iterated over by position."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: int) -> Any:
        return self._rows[at]


class Other(np.ndarray):
    """A class of an array's own."""


class FarAway:
    """An array on another device, which numpy must not read in silence."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix

    def __array__(self, *_: Any, **__: Any) -> Any:
        message = "implicit conversion is not allowed"
        raise TypeError(message)

    def tolist(self) -> Any:
        return self._matrix.tolist()


ANSWERS: dict[str, Callable[[list[int]], Any]] = {
    "torch bfloat16": torch_of(lambda tensor: tensor.bfloat16()),
    "torch float16": torch_of(lambda tensor: tensor.half()),
    "torch float32": torch_of(lambda tensor: tensor),
    "torch float64": torch_of(lambda tensor: tensor.double()),
    "torch with gradients": torch_of(lambda tensor: tensor.requires_grad_()),
    "torch bfloat16 with gradients": torch_of(lambda tensor: (tensor.requires_grad_() * 1).bfloat16()),
    "torch, transposed": torch_of(lambda tensor: tensor.T.contiguous().T),
    "torch, sparse": torch_of(lambda tensor: tensor.to_sparse()),
    "torch rows": torch_of(list),
    "torch rows with gradients": torch_of(lambda tensor: list(tensor.requires_grad_())),
    "torch rows bfloat16": torch_of(lambda tensor: tuple(tensor.bfloat16())),
    "torch rows of two types": torch_of(lambda tensor: [tensor[0].half(), *tensor[1:].bfloat16()]),
    "Arrow lists": arrow_of(pa.list_(pa.float32())),
    "Arrow lists float64": arrow_of(pa.list_(pa.float64())),
    "Arrow lists float16": half_of,
    "Arrow large lists": arrow_of(pa.large_list(pa.float32())),
    "Arrow list views": arrow_of(pa.list_view(pa.float32())),
    "Arrow lists of one size": arrow_of(pa.list_(pa.float32(), 4)),
    "Arrow chunks": lambda at: pa.chunked_array(
        [pa.array([ROWS[each]], pa.list_(pa.float32())) for each in at]
    ),
    "Arrow slice": lambda at: pa.array([[9.0] * 4, *(ROWS[each] for each in at)])[1:],
    "Arrow tensors": lambda at: pa.FixedShapeTensorArray.from_numpy_ndarray(MATRIX[at]),
    "Arrow rows": lambda at: [pa.array(ROWS[each]) for each in at],
    "Arrow scalars": lambda at: list(pa.array([ROWS[each] for each in at])),
    "Arrow's stream alone": lambda at: OnlyArrowStream(pa.chunked_array([[ROWS[each] for each in at]])),
    "polars lists": polars_of(lambda polars, rows: polars.Series(rows, dtype=polars.List(polars.Float32))),
    "polars arrays": polars_of(
        lambda polars, rows: polars.Series(rows, dtype=polars.Array(polars.Float64, 4))
    ),
    "polars rows": polars_of(lambda polars, rows: [polars.Series(row) for row in rows]),
    "a column of polars": polars_of(lambda polars, rows: polars.DataFrame({"vector": rows})["vector"]),
    "pandas lists": pandas_of(lambda pandas, rows: pandas.Series(rows, index=[*"xyz"[: len(rows)]])),
    "pandas arrays": pandas_of(lambda pandas, rows: pandas.Series([*np.array(rows)])),
    "pandas over Arrow": pandas_of(arrow_series),
    "pandas rows": pandas_of(lambda pandas, rows: [pandas.Series(row) for row in rows]),
    "scipy matrix": sparse_of("csr_matrix"),
    "scipy array": sparse_of("coo_array"),
    "numpy float16": lambda at: MATRIX[at].astype(np.float16),
    "numpy float16 rows": lambda at: [*MATRIX[at].astype(np.float16)],
    "numpy longdouble": lambda at: MATRIX[at].astype(np.longdouble),
    "numpy big-endian": lambda at: MATRIX[at].astype(">f8"),
    "numpy objects": lambda at: MATRIX[at].astype(object),
    "numpy masked where nothing is": lambda at: np.ma.masked_array(MATRIX[at]),
    "numpy of another class": lambda at: MATRIX[at].view(Other),
    "a record array's field": lambda at: np.rec.fromarrays([MATRIX[at]], dtype=[("v", "f4", 4)]).v,
    "bfloat16 of JAX": ml_dtypes_of("bfloat16"),
    "bfloat16 rows of JAX": ml_dtypes_of("bfloat16", list),
    "float8 of JAX": ml_dtypes_of("float8_e4m3fn"),
    "DLPack alone": lambda at: OnlyDLPack(MATRIX[at]),
    "rows by DLPack alone": lambda at: [OnlyDLPack(MATRIX[each]) for each in at],
    "another device": lambda at: FarAway(MATRIX[at]),
    "array.array rows": lambda at: [array("f", ROWS[each]) for each in at],
    "memoryview rows": lambda at: [memoryview(MATRIX[each]) for each in at],
    "lists": lambda at: [ROWS[each] for each in at],
    "lists of numpy's numbers": lambda at: [[*MATRIX[each]] for each in at],
    "tuples": lambda at: tuple(tuple(ROWS[each]) for each in at),
    "a generator": lambda at: (ROWS[each] for each in at),
    "a deque": lambda at: deque(ROWS[each] for each in at),
    "an old sequence": lambda at: OldSequence([ROWS[each] for each in at]),
    "the values of a mapping": lambda at: {each: ROWS[each] for each in at}.values(),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_of_any_library_is_exact_and_of_one_type_from_the_first_call_on(
    kind: str, tmp_path: Path
) -> None:
    answering = Answering(ANSWERS[kind])
    assert_one_answer(answering, tmp_path / "lists", ROWS)
    assert_one_array(answering, tmp_path / "arrays", MATRIX)
    assert len(answering.asked) == (1 + 2 + 1 + 1) * len(TEXTS)  # once a cache, and each time without


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_a_model_may_answer_may_be_added(kind: str, tmp_path: Path) -> None:
    answering = Answering(ANSWERS[kind])
    cached = answering.cached(tmp_path)
    assert cached.add(pa.array(TEXTS), answering(TEXTS)) == 3
    assert cached.embed_sync(TEXTS) == ROWS
    assert answering.asked == TEXTS


FLOATS = ["bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("seed", range(3))
def test_each_float_of_torch_comes_back_as_torch_itself_reads_it(
    dtype: str, seed: int, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    vectors = torch.randn((3, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    vectors = vectors.to(getattr(torch, dtype))
    answering = Answering(lambda at: vectors[at] if len(at) < 3 else vectors)
    assert_one_answer(answering, tmp_path, vectors.tolist())
    assert answering.asked == TEXTS * 3


@st.composite
def matrices(draw: Any) -> Any:
    kinds = [
        arrays_of.floating_dtypes(endianness="?"),
        arrays_of.integer_dtypes(),
        arrays_of.unsigned_integer_dtypes(),
    ]
    dtype = draw(st.one_of(kinds))
    finite: Any = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    shape = (len(TEXTS), draw(st.integers(1, 5)))
    return draw(arrays_of.arrays(dtype, shape, elements=arrays_of.from_dtype(dtype, **finite)))


@settings(deadline=None)
@given(matrices(), st.sampled_from([np.array, list, np.asfortranarray, np.ma.masked_array]))
@example(np.array([[2**53 + 1], [0], [-(2**60)]]), np.array)
@example(np.full((3, 1), 2**64 - 1, np.uint64), np.array)
@example(np.full((3, 1), 2**63 - 1), list)
def test_any_array_comes_back_exactly_and_of_one_type(matrix: Any, form: Any) -> None:
    answering, store = Answering(lambda at: form(matrix[at])), MemoryStore()
    first, second = (answering.cached(store).embed_sync(TEXTS) for _ in range(2))
    assert repr(first) == repr(second)
    for row, got in zip(matrix, first, strict=True):
        assert [as_is(number) for number in got] == [as_is(number) for number in row]
    beyond_floats = [text for text, row in zip(TEXTS, first, strict=True) if {*map(type, row)} != {float}]
    assert answering.asked == [*TEXTS, *beyond_floats]


def as_is(number: Any) -> tuple[Any, ...]:
    """Return a number without its type: an integer, or a float's exact ratio and sign."""
    return (
        (*number.as_integer_ratio(), np.signbit(number))
        if hasattr(number, "as_integer_ratio")
        else (int(number), 1, number < 0)
    )


# Holes: one of three vectors is none.
NULLS: dict[str, Callable[[], Any]] = {
    "arrays and None": lambda: [MATRIX[0], None, MATRIX[2]],
    "float16 arrays and None": lambda: [MATRIX[0].astype(np.float16), None, MATRIX[2].astype(np.float16)],
    "lists and None": lambda: [[*ROWS[0]], None, [*ROWS[2]]],
    "tuples and None": lambda: (tuple(ROWS[0]), None, tuple(ROWS[2])),
    "one array, one list, and None": lambda: [MATRIX[0], None, [*ROWS[2]]],
    "torch bfloat16 and None": lambda: [
        torch_of(lambda tensor: tensor.bfloat16()[0])([0]),
        None,
        torch_of(lambda tensor: tensor.requires_grad_()[0])([2]),
    ],
    "Arrow": lambda: pa.array(HOLED, pa.list_(pa.float32())),
    "Arrow of one size": lambda: pa.array(HOLED, pa.list_(pa.float32(), 4)),
    "Arrow scalars": lambda: list(pa.array(HOLED)),
    "polars": lambda: pytest.importorskip("polars").Series(HOLED),
    "polars arrays": lambda: pytest.importorskip("polars").Series(
        HOLED, dtype=pytest.importorskip("polars").Array(pytest.importorskip("polars").Float32, 4)
    ),
    "pandas": lambda: pytest.importorskip("pandas").Series(HOLED),
}


@pytest.mark.parametrize("kind", NULLS)
def test_beside_a_hole_the_others_are_stored_and_of_one_type_from_the_first_call_on(
    kind: str, tmp_path: Path
) -> None:
    answering = Answering(lambda at: NULLS[kind]() if len(at) == 3 else [None] * len(at))
    assert_one_answer(answering, tmp_path, HOLED)
    assert answering.asked == [*TEXTS, "b", "b", *TEXTS, *TEXTS]
    for where in (tmp_path, None):
        with pytest.raises(DimensionMismatchError, match="no matrix"):
            answering.cached(where).embed_array_sync(TEXTS)


@pytest.mark.parametrize(
    "hole",
    [None, "0.5 0.5", ["0.5"] * 4, {"embedding": [1.0]}, b"\0" * 16, [], [1.0, None, 1.0, 1.0], 0.5],
    ids=repr,
)
def test_what_stands_in_a_hole_is_handed_on_as_it_is(hole: Any, tmp_path: Path) -> None:
    answering = Answering(lambda at: [hole if each == 1 else MATRIX[each] for each in at])
    assert_one_answer(answering, tmp_path, [ROWS[0], hole, ROWS[2]])


def test_bytes_are_no_numbers(tmp_path: Path) -> None:
    answering = Answering(lambda at: [bytearray(MATRIX[each].tobytes()) for each in at])
    assert_one_answer(answering, tmp_path, [row.tobytes() for row in MATRIX])
    assert answering.asked == TEXTS * 5


def test_what_is_under_a_mask_is_no_number(tmp_path: Path) -> None:
    masked = np.ma.masked_array(MATRIX, MATRIX == 1.5)
    answering = Answering(lambda at: masked[at])
    assert_one_answer(answering, tmp_path, [ROWS[0], [None, *ROWS[1][1:]], ROWS[2]])
    assert answering.asked[:5] == [*TEXTS, "b", "b"]


@pytest.mark.parametrize("null_first", [False, True])
def test_integers_of_an_arrow_column_are_not_rounded_beside_a_null(
    tmp_path: Path, *, null_first: bool
) -> None:
    odd, power = 2**53 + 1, 2**60  # no float64 is the first
    rows = [[odd, 1], [None, 2], [power, 3]]
    answering = Answering(lambda at: pa.array([rows[each] for each in at]))
    expected = [[odd, 1], [None, 2], [float(power), 3.0]]
    assert answering.cached(tmp_path).embed_sync(TEXTS) == expected
    assert answering.cached(tmp_path).embed_sync(TEXTS) == expected
    assert answering.asked == [*TEXTS, "a", "b"]


def test_vectors_of_two_dimensions_are_of_one_type_too(tmp_path: Path) -> None:
    answering = Answering(lambda at: [MATRIX[each][: 2 + each] for each in at])
    assert_one_answer(answering, tmp_path, [ROWS[0][:2], ROWS[1][:3], ROWS[2]])


def test_tensors_of_tensors_are_no_vectors(tmp_path: Path) -> None:
    deep = pa.FixedShapeTensorArray.from_numpy_ndarray(MATRIX.reshape(3, 2, 2))
    for answer in (deep, pa.chunked_array([deep])):
        cached = Answering(lambda _, answer=answer: answer).cached(tmp_path)  # type: ignore[misc]
        with pytest.raises(DimensionMismatchError):
            cached.embed_array_sync(TEXTS)
        assert cached.stats.stored == 0


def test_a_null_of_a_server_that_answers_in_base64_leaves_the_others_type(
    openai_server: OpenAIServer, tmp_path: Path, monkeypatch: Any
) -> None:
    answer = server_module._Handler._answer

    def with_a_null(self: Any, request: Any, fault: Any) -> Any:
        body = answer(self, request, fault)
        for item, text in zip(body["data"], request["input"], strict=True):
            item["embedding"] = None if text == "b" else item["embedding"]
        return body

    monkeypatch.setattr(server_module._Handler, "_answer", with_a_null)
    expected = OpenAIServer.lists(TEXTS)
    expected[1] = None
    for _ in range(2):
        got = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path).embed_sync(TEXTS)
        assert got == expected
        assert types_of(got) == types_of(expected)
    assert openai_server.texts == [*TEXTS, "b"]


# A model may use its memory again.
def _torch_buffer() -> tuple[Any, Any]:
    buffer = pytest.importorskip("torch").zeros((1, 4))
    return buffer, buffer.numpy()


def _row_buffer() -> tuple[Any, Any]:
    buffer = np.zeros((1, 4), np.float32)
    return [buffer[0]], buffer


def _arrow_buffer() -> tuple[Any, Any]:
    buffer = np.zeros((1, 4), np.float32)
    values = pa.Array.from_buffers(pa.float32(), 4, [None, pa.py_buffer(buffer)])
    return pa.FixedSizeListArray.from_arrays(values, 4), buffer


def _arrow_tensor_buffer() -> tuple[Any, Any]:
    column, buffer = _arrow_buffer()
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [4]), column), buffer


def _dlpack_buffer() -> tuple[Any, Any]:
    buffer = np.zeros((1, 4), np.float32)
    return OnlyDLPack(buffer), buffer


BUFFERS = [_torch_buffer, _row_buffer, _arrow_buffer, _arrow_tensor_buffer, _dlpack_buffer]


@pytest.mark.parametrize("make", BUFFERS, ids=lambda make: make.__name__[1:])
async def test_a_model_may_use_its_memory_again(make: Callable[[], tuple[Any, Any]], tmp_path: Path) -> None:
    answer, buffer = make()

    def fill(at: list[int]) -> Any:
        buffer[:] = MATRIX[at]
        return answer

    model = CallableEmbeddingModel(Answering(fill), model_name="answering")
    cached = CachedEmbeddingModel(model, tmp_path, options=CacheOptions(chunk_size=1))
    for _ in range(2):
        assert await cached.embed(TEXTS) == ROWS


# What has no vectors in an order.
Named = namedtuple("Named", ["dense", "sparse", "colbert"])  # noqa: PYI024 - without types, as they come


class Fields(BaseModel):
    """A response, as SDKs have them: it iterates over its fields."""

    object: str = "list"
    data: list[list[float]] = ROWS
    model: str = "m"


class KeysAlone:
    """A mapping that does not say that it is one, as TensorDict."""

    def __len__(self) -> int:
        return 3

    def keys(self) -> list[str]:
        return ["x", "y", "z"]

    def __iter__(self) -> Any:
        return iter(self.keys())


def bge(kind: Callable[[Any], Any] = dict) -> Any:
    return kind({"dense_vecs": MATRIX, "lexical_weights": [{}] * 3, "colbert_vecs": [MATRIX] * 3})


NO_VECTORS: dict[str, tuple[Callable[[], Any], str]] = {
    "BGE-M3": (bge, r'a dict \(a mapping\).*answer\["dense_vecs"\]'),
    "an ordered mapping": (lambda: bge(OrderedDict), r"a mapping.*dense_vecs"),
    "a wrapped mapping": (lambda: bge(UserDict), r"a mapping.*dense_vecs"),
    "a mapping from texts": (lambda: dict(zip(TEXTS, ROWS, strict=True)), r"a mapping.*dense_vecs"),
    "a mapping from positions": (lambda: dict(enumerate(ROWS)), r"a mapping.*dense_vecs"),
    "a mapping unawares": (KeysAlone, r"a KeysAlone \(a mapping\).*dense_vecs"),
    "a named tuple": (
        lambda: Named(MATRIX, [{}] * 3, [MATRIX] * 3),
        r"a Named \(a record\).*answer\.embeddings",
    ),
    "pydantic": (Fields, r"a Fields \(a record\).*answer\.embeddings"),
    "an object": (lambda: SimpleNamespace(data=ROWS), "a SimpleNamespace"),
    "a string": (lambda: "abc", "a str;.*one vector for each text"),
    "bytes": (lambda: b"abc", "a bytes;.*one vector for each text"),
    "a set": (lambda: {tuple(row) for row in ROWS}, "a set;.*in the order of the texts"),
    "a frozen set": (lambda: frozenset(map(tuple, ROWS)), "a frozenset;.*in the order of the texts"),
    "a number of numpy's": (lambda: np.array(0.5), "one vector for each text"),
    "None": (lambda: None, "a NoneType;.*one vector for each text"),
    "a pandas table": (
        lambda: pytest.importorskip("pandas").DataFrame(MATRIX),
        r"a DataFrame \(a table\).*answer\.to_numpy\(\)",
    ),
    "a pandas table as wide as there are texts": (
        lambda: pytest.importorskip("pandas").DataFrame(MATRIX[:, :3]),
        r"a DataFrame \(a table\).*answer\.to_numpy\(\)",
    ),
    "a polars table": (
        lambda: pytest.importorskip("polars").DataFrame(MATRIX[:, :3]),
        r"a DataFrame \(a table\).*column of vectors",
    ),
    "an Arrow table": (lambda: pa.table({"a": [1.0], "b": [2.0], "c": [3.0]}), r"a Table \(a table\)"),
    "an Arrow batch": (
        lambda: pa.RecordBatch.from_pydict({"a": [1.0], "b": [2.0]}),
        r"a RecordBatch \(a table\)",
    ),
    "a table of Hugging Face": (
        lambda: pytest.importorskip("datasets").Dataset.from_dict({"embedding": ROWS}),
        r"a Dataset \(a table\)",
    ),
}


@pytest.mark.parametrize("asked", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", NO_VECTORS)
def test_what_has_no_vectors_in_an_order_is_an_error_with_the_cure_at_any_length(
    kind: str, asked: int, tmp_path: Path
) -> None:
    make, message = NO_VECTORS[kind]
    model = CallableEmbeddingModel(lambda _: make(), model_name="answering")
    cached = CachedEmbeddingModel(model, tmp_path)
    texts = [f"text {number}" for number in range(asked)]
    for ask in (cached.embed_sync, cached.embed_array_sync, CachedEmbeddingModel(model).embed_sync):
        with pytest.raises(VectorCountError, match=rf"asked for {asked} vectors.*{message}"):
            ask(texts)
    with pytest.raises(VectorCountError, match=message):
        cached.add(texts, make())
    assert cached.stats.stored == 0


def test_an_error_quotes_no_key_of_a_mapping() -> None:
    model = CallableEmbeddingModel(lambda texts: {text: [1.0] for text in texts}, model_name="answering")
    with pytest.raises(VectorCountError) as caught:
        CachedEmbeddingModel(model, MemoryStore()).embed_sync(["a secret text"])
    assert "secret" not in str(caught.value)


def test_integers_stay_exact_whatever_their_width(tmp_path: Path) -> None:
    for number, dtype in enumerate([np.int8, np.uint8, np.int32, np.uint64]):
        matrix = np.array([[0, 1, 100], [7, 8, 9], [127, 3, 2]], dtype)
        answering = Answering(lambda at, matrix=matrix: matrix[at])  # type: ignore[misc]
        assert_one_answer(answering, tmp_path / str(number), matrix.astype(float).tolist())


# Texts.
class Text(str):
    """A string of another type."""

    __slots__ = ()


WORDS = ["b", "ä", "b", ""]

TEXT_SEQUENCES: dict[str, Callable[[], Any]] = {
    "a list": lambda: WORDS,
    "a tuple": lambda: tuple(WORDS),
    "a generator": lambda: (word for word in WORDS),
    "an iterator": lambda: iter(WORDS),
    "a deque": lambda: deque(WORDS),
    "values of a mapping": lambda: dict(enumerate(WORDS)).values(),
    "a named tuple": lambda: namedtuple("Four", "a b c d")(*WORDS),  # noqa: PYI024
    "strings of another type": lambda: [Text(word) for word in WORDS],
    "numpy": lambda: np.array(WORDS),
    "numpy objects": lambda: np.array(WORDS, object),
    "numpy strings": lambda: [*np.array(WORDS)],
    "Arrow": lambda: pa.array(WORDS),
    "large Arrow": lambda: pa.array(WORDS, pa.large_string()),
    "Arrow views": lambda: pa.array(WORDS, pa.string_view()),
    "an Arrow dictionary": lambda: pa.array(WORDS).dictionary_encode(),
    "Arrow chunks": lambda: pa.chunked_array([WORDS[:1], WORDS[1:]]),
    "a column of an Arrow table": lambda: pa.table({"text": WORDS})["text"],
    "an Arrow slice": lambda: pa.array(["x", *WORDS, "y"])[1:-1],
    "pandas": lambda: pytest.importorskip("pandas").Series(WORDS, index=[*"xxyz"]),
    "pandas objects": lambda: pytest.importorskip("pandas").Series(WORDS, dtype=object),
    "pandas categories": lambda: pytest.importorskip("pandas").Series(WORDS, dtype="category"),
    "pandas over Arrow": lambda: pytest.importorskip("pandas").Series(WORDS, dtype="string[pyarrow]"),
    "a pandas index": lambda: pytest.importorskip("pandas").Index(WORDS),
    "polars": lambda: pytest.importorskip("polars").Series(WORDS),
    "polars categories": lambda: pytest.importorskip("polars").Series(
        WORDS, dtype=pytest.importorskip("polars").Categorical
    ),
    "a column of Hugging Face": lambda: pytest.importorskip("datasets").Dataset.from_dict({"text": WORDS})[
        "text"
    ],
}


@pytest.mark.parametrize("kind", TEXT_SEQUENCES)
async def test_any_column_or_sequence_of_strings_is_a_list_of_texts(kind: str, tmp_path: Path) -> None:
    make, model = TEXT_SEQUENCES[kind], FakeEmbeddingModel()
    cached, bare = CachedEmbeddingModel(model, tmp_path), CachedEmbeddingModel(model)
    assert cached.missing(make()) == [0, 1, 3]
    for _ in range(2):
        assert cached.embed_sync(make()) == model.lists(WORDS)
    assert await cached.embed(make()) == await bare.embed(make()) == model.lists(WORDS)
    assert cached.embed_array_sync(make(), role="query").tolist() == model.lists(WORDS)
    assert model.calls == [["b", "ä", ""], WORDS]
    assert {type(text) for text in model.texts} == {str}
    assert CachedEmbeddingModel(model, tmp_path / "added").add(make(), model.array(WORDS)) == len({*WORDS})


NO_TEXTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a pandas table": (
        lambda: pytest.importorskip("pandas").DataFrame({"text": WORDS}),
        r'not DataFrame, a table; pass one of its columns, e\.g\. texts\["text"\]',
    ),
    "an empty pandas table": (lambda: pytest.importorskip("pandas").DataFrame(), "not DataFrame, a table"),
    "a polars table": (lambda: pytest.importorskip("polars").DataFrame({"text": WORDS}), "a table; pass one"),
    "a lazy polars table": (
        lambda: pytest.importorskip("polars").LazyFrame({"text": WORDS}),
        "a table; pass one",
    ),
    "an Arrow table": (lambda: pa.table({"text": WORDS}), "not Table, a table; pass one"),
    "an Arrow batch": (lambda: pa.RecordBatch.from_pydict({"text": WORDS}), "a table; pass one"),
    "a table of Hugging Face": (
        lambda: pytest.importorskip("datasets").Dataset.from_dict({"text": WORDS}),
        "not Dataset, a table; pass one",
    ),
    "a mapping": (lambda: {"id": "text"}, r"not dict, a mapping; pass list\(texts\.values\(\)\)"),
    "an empty mapping": (dict, "not dict, a mapping"),
    "counts": (lambda: Counter(WORDS), "not Counter, a mapping"),
    "a mapping unawares": (KeysAlone, "not KeysAlone, a mapping"),
    "a set": (lambda: {*WORDS}, r"not set, which has no order; pass sorted\(texts\)"),
    "an empty set": (set, "not set, which has no order"),
    "a frozen set": (lambda: frozenset(WORDS), "not frozenset, which has no order"),
    "a string": (lambda: "text", r"not one string; pass \[text\]"),
    "a string of numpy's": (lambda: np.str_("text"), "not one string"),
    "bytes": (lambda: b"text", "not bytes; decode it"),
    "no bytes": (lambda: b"", "not bytes; decode it"),
    "a bytearray": (lambda: bytearray(b"text"), "not bytearray; decode it"),
    "nothing": (lambda: None, "not NoneType"),
    "a number": (lambda: 3, "not int"),
    "a numpy array of no dimension": (lambda: np.array("text"), "not ndarray"),
    "a table of numpy's": (lambda: np.array([WORDS]), r"texts\[0\] must be a string, not ndarray"),
    "a null in Arrow": (lambda: pa.array(["a", None]), r"texts\[1\] must be a string, not NoneType"),
    "a null in Arrow chunks": (
        lambda: pa.chunked_array([["a"], ["b", None]]),
        r"texts\[2\] must be a string, not NoneType",
    ),
    "a null in polars": (
        lambda: pytest.importorskip("polars").Series(["a", None]),
        r"texts\[1\] must be a string, not NoneType",
    ),
    "a null in pandas": (
        lambda: pytest.importorskip("pandas").Series(["a", None]),
        r"texts\[1\] must be a string, not (float|NoneType)",
    ),
    "Arrow numbers": (lambda: pa.array([1, 2]), r"texts\[0\] must be a string, not int"),
    "Arrow bytes": (lambda: pa.array([b"text"]), r"texts\[0\] must be a string, not bytes"),
    "Arrow records": (lambda: pa.array([{"text": "a"}]), r"texts\[0\] must be a string, not dict"),
    "numpy bytes": (lambda: np.array([b"text"]), r"texts\[0\] must be a string, not bytes"),
    "pydantic": (Fields, r"texts\[0\] must be a string, not tuple"),
}


@pytest.mark.parametrize("kind", NO_TEXTS)
async def test_what_is_no_sequence_of_strings_is_refused_with_the_cure_before_anything_is_spent(
    kind: str, tmp_path: Path
) -> None:
    (make, message), model = NO_TEXTS[kind], FakeEmbeddingModel()
    for cached in (CachedEmbeddingModel(model, tmp_path / "cache"), CachedEmbeddingModel(model)):
        for ask in (cached.embed_sync, cached.embed_array_sync, cached.missing):
            with pytest.raises(TypeError, match=message):
                ask(make())
        with pytest.raises(TypeError, match=message):
            await cached.embed(make())
        with pytest.raises(TypeError, match=message):
            cached.add(make(), [[1.0]])
    assert model.calls == []
    assert not (tmp_path / "cache").exists()


def test_what_a_generator_of_texts_raises_is_heard_as_it_is(tmp_path: Path) -> None:
    error = TypeError("of the caller's own")

    def texts() -> Any:
        yield "a"
        raise error

    with pytest.raises(TypeError) as caught:
        CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path).embed_sync(texts())
    assert caught.value is error


def test_a_list_of_texts_is_left_as_it_was() -> None:
    texts = [Text("a"), "b"]
    CachedEmbeddingModel(FakeEmbeddingModel(), MemoryStore()).embed_sync(texts)
    assert [type(text) for text in texts] == [Text, str]


class Stream(StreamingEmbeddingModel):
    model_name = "stream"

    def slug(self) -> str:
        return "stream"

    async def embed_batches(self, texts: list[str], *, role: Any) -> Any:
        assert role == "document"
        yield range(len(texts)), {"dense": [[1.0]], "sparse": [[1.0]], "colbert": [[1.0]]}


@pytest.mark.parametrize("cache", [None, MemoryStore()])
def test_a_stream_of_mappings_is_refused_with_and_without_a_cache(cache: Any) -> None:
    with pytest.raises(VectorCountError, match="dense_vecs"):
        CachedEmbeddingModel(Stream(), cache).embed_sync(["a", "b", "c"])
