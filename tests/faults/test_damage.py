"""Damaged files: what they held is a miss, everything else is found, and nothing is wrong."""

from __future__ import annotations

import shutil
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.damage import DAMAGES, GROUPS, TEXTS, Stored, contents, flip, in_child, segments
from tests.faults.fault_lab import FORMATS, MANAGERS, WAYS, Ledger, Outcome
from tests.faults.rewriting import rewrite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.rewriting import Columns

ON_DISK = [*FORMATS, *(name for name in MANAGERS if name in WAYS)]


def bad(outcomes: list[Outcome]) -> list[Outcome]:
    assert outcomes
    return [outcome for outcome in outcomes if not outcome.good]


def flipped(stored: Stored, rounds: int) -> Iterator[Outcome]:
    for number in range(rounds):
        yield stored.one("a flipped bit", flip, Random(number), mapped=bool(number % 2))


@pytest.mark.parametrize("way", FORMATS)
def test_a_flipped_bit_costs_the_entries_of_its_segment_at_most(way: str, tmp_path: Path) -> None:
    stored = Stored(way, tmp_path)
    assert not bad(in_child(lambda: flipped(stored, 40)))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ON_DISK)
def test_a_thousand_flipped_bits(way: str, tmp_path: Path) -> None:
    stored, rounds = Stored(way, tmp_path), 1000 if way in FORMATS else 200
    outcomes = in_child(lambda: flipped(stored, rounds))
    assert not bad(outcomes)
    assert len(outcomes) == rounds


def damages(stored: Stored, times: int) -> Iterator[Outcome]:
    for number, name, mapped in product(range(times), DAMAGES, [False, True]):
        yield stored.one(name, DAMAGES[name], Random(f"{number} {name}"), mapped=mapped)


@pytest.mark.parametrize("way", FORMATS)
def test_a_damaged_file_costs_its_entries_at_most(way: str, tmp_path: Path) -> None:
    stored = Stored(way, tmp_path)
    assert not bad(in_child(lambda: damages(stored, 1)))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ON_DISK)
def test_many_damaged_files(way: str, tmp_path: Path) -> None:
    stored = Stored(way, tmp_path)
    assert not bad(in_child(lambda: damages(stored, 3)))


def exchange(*names: str) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        for name in names:
            columns[name][1], columns[name][4] = columns[name][4], columns[name][1]

    return change


def reverse(columns: Columns) -> None:
    for column in columns.values():
        column.reverse()


def another_dimension(columns: Columns) -> None:
    columns["vector"] = [[*vector, 0.0] for vector in columns["vector"]]


def repeat(columns: Columns) -> None:
    for column in columns.values():
        column[3] = column[2]


# The change, and how many of the six entries are found afterwards.
CHANGES: dict[str, tuple[Callable[[Columns], None], set[int]]] = {
    "nothing": (lambda _: None, {6}),
    "two exchanged vectors": (exchange("vector"), {4}),
    "two exchanged checksums": (exchange("checksum"), {4}),
    "two exchanged values": (exchange("vector", "checksum"), {4}),
    "two exchanged keys": (exchange("key"), {2, 3, 4}),
    "two rows out of order": (exchange("prefix", "key", "vector", "checksum"), set(range(6))),
    "rows in falling order": (reverse, set(range(4))),
    "a row twice": (repeat, {5}),
    "another dimension": (another_dimension, {0}),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("way", FORMATS)
def test_a_value_is_bound_to_its_key(way: str, name: str, tmp_path: Path) -> None:
    stored = Stored(way, tmp_path)
    change, expected = CHANGES[name]

    def damage(path: Path, whole: list[Path]) -> list[Path]:
        rewrite(contents(whole[1])[0], change)
        missing = Ledger(way, path, name).open().missing(GROUPS[1])
        assert 6 - len(missing) in expected
        return [whole[0], whole[2]]

    assert stored.damaged(name, damage, mapped=False).good


@pytest.mark.parametrize("way", FORMATS)
def test_a_newer_version_is_set_aside_and_named(way: str, tmp_path: Path, caplog: Any) -> None:
    stored = Stored(way, tmp_path)

    def damage(_: Path, whole: list[Path]) -> list[Path]:
        rewrite(contents(whole[0])[0], lambda _: None, version="2")
        return whole[1:]

    assert stored.damaged("a newer version", damage, mapped=False).good
    assert "version" in caplog.text
    assert "2" in caplog.text.partition("version")[2]


@pytest.mark.parametrize("count", ["000000000", "000000005", "999999999"])
@pytest.mark.parametrize("way", FORMATS)
def test_a_name_that_lies_about_its_rows_is_not_believed(way: str, count: str, tmp_path: Path) -> None:
    def rename(path: Path, whole: list[Path]) -> list[Path]:
        whole[0].rename(whole[0].with_name(count + whole[0].name[9:]))
        assert len(Ledger(way, path, "").open().missing(GROUPS[0])) == 6
        return whole[1:]

    assert Stored(way, tmp_path).damaged("a lying name", rename, mapped=False).good


@pytest.mark.parametrize("way", FORMATS)
def test_files_of_another_model_are_misses(way: str, tmp_path: Path) -> None:
    other = Ledger(way, tmp_path / "other", "", model_name="other")
    other.ask(other.open(), TEXTS[:6])
    (foreign,) = segments(other.path)

    def put_in_place(_: Path, whole: list[Path]) -> list[Path]:
        for path in (whole[0], whole[0].with_name(foreign.name)):
            remove(path)
            (shutil.copytree if foreign.is_dir() else shutil.copy)(foreign, path)
        return whole[1:]

    stored = Stored(way, tmp_path)
    assert stored.damaged("files of another model", put_in_place, mapped=False).good
    assert stored.damaged("files of another model", put_in_place, mapped=True).good


@pytest.mark.parametrize("way", FORMATS)
def test_vectors_of_two_dimensions_in_one_space_are_never_mixed(way: str, tmp_path: Path) -> None:
    for number in range(4):  # which file comes first is left to chance
        ledgers = {
            size: Ledger(way, tmp_path / str(number), "two dimensions", dimension=size) for size in (8, 9)
        }
        for ledger, group in zip(ledgers.values(), GROUPS, strict=False):
            ledger.ask(ledger.open(), group)
        for ledger in ledgers.values():
            vectors = ledger.open().embed_array_sync(TEXTS)
            assert ledgers[vectors.shape[1]].count_wrong(TEXTS, vectors) == 0


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("way", FORMATS)
def test_half_of_the_files_from_an_older_snapshot(way: str, tmp_path: Path) -> None:
    ledger = Ledger(way, tmp_path / "cache", "an older snapshot")
    for number in range(12):  # eight of them are merged
        ledger.ask(ledger.open(), [f"{number} {at}" for at in range(3)])
        if number == 5:
            shutil.copytree(ledger.path, tmp_path / "older")
    older = segments(tmp_path / "older")
    assert not {file.name for file in older} & {file.name for file in segments(ledger.path)}
    for file in older[::2]:
        (shutil.copytree if file.is_dir() else shutil.copy)(
            file, segments(ledger.path)[0].with_name(file.name)
        )
    assert not ledger.open().missing(sorted(ledger.acknowledged))
    remove(max(segments(ledger.path)))  # the merged one: what is in the older ones is still found
    missing = ledger.open().missing(sorted(ledger.acknowledged))
    assert len(missing) == 8 * 3 - 3 * len(older[::2])
    ledger.damaging = True
    assert ledger.audit().good
