"""Arbitrary bytes and mutated files: every reader answers as documented, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.damage import in_child
from tests.faults.fault_lab import Outcome
from tests.faults.readers import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator

EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.binary(max_size=12)),
    min_size=1,
    max_size=6,
)
CORPUS = Path(__file__).parent / "corpus"
BYTES = st.binary(max_size=300)


def edited(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Replace pieces of a content: where (from 0 to 1), how many bytes, and by what."""
    for place, length, piece in edits:
        at = round(place * len(content))
        content = content[:at] + piece + content[at + length :]
    return content


def fuzzed(name: str, examples: int) -> Outcome:
    read, real = TARGETS[name]
    whole = real()
    fixed = settings(max_examples=examples, deadline=None, database=None, derandomize=True)

    @fixed
    @given(BYTES | EDITS.map(lambda edits: edited(whole, edits)))
    def nothing_but_what_is_documented(content: bytes) -> None:
        read(content)

    read(whole)
    nothing_but_what_is_documented()
    return Outcome("fuzzed", name, rounds=examples)


def rounds(name: str, examples: int) -> Iterator[Outcome]:
    yield fuzzed(name, examples)


@pytest.fixture(autouse=True)
def its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_what_fuzzing_has_found_stays_mended(name: str, file: Path) -> None:
    def read() -> Iterator[Outcome]:
        TARGETS[name][0](file.read_bytes())
        yield Outcome("found by fuzzing", name, rounds=1)

    assert [outcome for outcome in in_child(read) if not outcome.good] == []


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_of_arbitrary_bytes_answers_as_documented(name: str) -> None:
    assert [outcome for outcome in in_child(lambda: rounds(name, 80)) if not outcome.good] == []


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_of_much_more_of_them_does_so_too(name: str) -> None:
    assert [outcome for outcome in in_child(lambda: rounds(name, 2000)) if not outcome.good] == []
