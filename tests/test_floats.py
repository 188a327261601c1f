"""Lists of floats: the fast way to a matrix gives what the thorough one does, and others have their turns."""

from __future__ import annotations

import asyncio
import gc
import sys
from decimal import Decimal
from fractions import Fraction
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel
from kura_cache_adapters._core import floats as floats_module
from kura_cache_adapters._core.floats import are_floats, let_go, matrix_of_floats
from kura_cache_adapters._core.vectors import _of_any, exact_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = 0.05  # seconds
NARROW = st.floats(width=32)
OTHERS: list[Any] = [
    True,
    1,
    2**53 + 1,
    10**400,
    None,
    "0.5",
    b"g\0\0\0\0\0\0\0\0",
    1j,
    Decimal("0.1"),
    Fraction(1, 3),
    [0.5],
]
OTHERS += [np.float16(0.1), np.float32(0.1), np.float64(0.1), np.longdouble(1) / 3, object()]


class Number(float):
    """A float of another class."""


@st.composite
def matrices(draw: Any) -> list[Any]:
    """Draw rows that are mostly floats of one length, and now and then not quite."""
    count, dimension = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    number = draw(st.sampled_from([NARROW, st.floats()]))
    rows = [[draw(number) for _ in range(dimension)] for _ in range(count)]
    for _ in range(draw(st.integers(0, 2))):
        at, column = draw(st.integers(0, count - 1)), draw(st.integers(0, dimension - 1))
        rows[at][column] = draw(st.sampled_from([*OTHERS, Number(0.5), 0.1]))
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, count - 1))
        rows[at] = draw(
            st.sampled_from([rows[at][1:], [*rows[at], 0.5], tuple(rows[at]), None, [], "x", 0.5])
        )
    return rows


@settings(deadline=None, max_examples=300)
@given(matrices(), st.integers(1, 12))
@example([[1e-310, 1.0], [2.0, 5e-324]], 2)  # floats below the normal ones of either width
@example([[1e39], [3.4028235677973366e38]], 1)  # beyond float32
@example([[0.5], [float("nan")], [0.1]], 1)
@example([[0.5, 1], [0.5, 0.5]], 2)
@example([[0.5] * 5, [True] + [0.5] * 4], 3)
def test_the_fast_way_gives_what_the_thorough_one_gives_bit_for_bit(rows: list[Any], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floats_module, "_AT_ONCE", at_once)
        fast, thorough, taken = exact_matrix(rows), _of_any(rows), matrix_of_floats(rows)
        plain = are_floats(rows)
    assert (fast is None) == (thorough is None)
    if fast is not None and thorough is not None:
        assert fast.dtype == thorough.dtype
        assert np.array_equal(fast, thorough, equal_nan=True)
        assert np.array_equal(np.signbit(fast), np.signbit(thorough))
        assert fast.flags.c_contiguous
    floats = all(type(row) is list and {*map(type, row)} == {float} for row in rows)
    assert plain == (taken is not None) == (floats and len({*map(len, rows)}) == 1)


def test_what_is_let_go_stays_with_whoever_else_has_it() -> None:
    rows = [[0.5] * 3, [1.5] * 3, None, (1.0, 2.0)]
    others = [*rows]
    let_go(rows)
    assert rows == []
    assert others == [[0.5] * 3, [1.5] * 3, None, (1.0, 2.0)]


@pytest.mark.parametrize("awaited", [False, True])
def test_lists_are_held_by_their_model_alone_once_they_are_stored(tmp_path: Path, *, awaited: bool) -> None:
    kept: list[list[float]] = []
    held: list[int] = []

    def answer(texts: list[str]) -> Any:
        held.extend(sys.getrefcount(row) for row in kept)
        kept.extend([float(len(text)), 0.5] for text in texts)
        return kept[-len(texts) :]

    async def awaiting(texts: list[str]) -> Any:
        return answer(texts)

    model = CallableEmbeddingModel(awaiting if awaited else answer, model_name="keeps")
    cached = CachedEmbeddingModel(model, tmp_path, options=CacheOptions(chunk_size=4))
    cached.embed_array_sync(["x" * at for at in range(40)])
    assert {*held} == {3}  # `kept`, the loop's variable, and the argument
    assert kept == [[float(at), 0.5] for at in range(40)]


async def longest_wait(cached: CachedEmbeddingModel, how: str, texts: list[str]) -> float:
    """Embed; return how long, in seconds, another task had to wait for its turn."""
    waits: list[float] = []

    async def beat() -> None:
        while True:
            begun = perf_counter()
            await asyncio.sleep(0.001)
            waits.append(perf_counter() - begun)

    beating = asyncio.ensure_future(beat())
    await asyncio.sleep(0.01)
    waits.clear()
    vectors = await getattr(cached, how)(texts)
    await asyncio.sleep(0.002)
    beating.cancel()
    let_go(vectors)
    return max(waits)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("how", ["embed", "embed_array"])
@pytest.mark.parametrize("where", ["sync model", "async model", "no cache"])
async def test_a_model_that_answers_with_many_lists_does_not_hold_the_loop(
    how: str, where: str, tmp_path: Path
) -> None:
    texts = [f"text {number}" for number in range(8000)]
    matrix = np.random.default_rng(1).standard_normal((len(texts), 768))
    waits: list[float] = []
    while not waits or (min(waits) > LONG and len(waits) < 8):  # a busy machine has pauses of its own
        answers = [matrix.tolist()]

        async def answer(_: list[str], answers: list[Any] = answers) -> Any:
            return answers.pop()

        def at_once(_: list[str], answers: list[Any] = answers) -> Any:
            return answers.pop()

        model = CallableEmbeddingModel(at_once if where == "sync model" else answer, model_name="lists")
        options = CacheOptions(chunk_size=len(texts), durable=False)
        cached = CachedEmbeddingModel(
            model, None if where == "no cache" else tmp_path / str(len(waits)), options=options
        )
        waits.append(await longest_wait(cached, how, texts))
    assert min(waits) < LONG
