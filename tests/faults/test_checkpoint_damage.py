"""Damaged checkpoints and hostile contents: the right content or a CheckpointError, and no other end."""

from __future__ import annotations

import json
import os
import shutil
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from kura_cache_adapters import open_store
from kura_cache_adapters.errors import CheckpointError
from kura_cache_adapters.identity import ModelIdentity
from tests.faults.damage import DAMAGES, GROUPS, TEXTS, in_child, segments
from tests.faults.fault_lab import FORMATS, MANAGERS, WAYS, Ledger, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OURS = [name for name in MANAGERS if name in WAYS]
# Lines of text, as Kura's, without a checksum: a digit that has become another one is one.
UNCHECKED = {"JSONL manager", "Multi manager"}


class Record(BaseModel):
    """A checkpoint's record with every kind of column."""

    name: str
    count: int
    score: float
    tags: list[str]
    notes: dict[str, int | str]
    parent: str | None = None


RECORDS = [
    Record(name=f"é{at}", count=at, score=at / 7, tags=["a", "b"] * (at % 3), notes={"n": at, "t": "x"})
    for at in range(40)
]


def rounds(manager: str, path: Path, times: int) -> Iterator[Outcome]:
    WAYS[manager](path / "whole").save_checkpoint("one", RECORDS)
    for name in DAMAGES:
        for number in range(times * 5 if name == "a flipped bit" else 1):
            yield one_round(manager, path, name, number)


def one_round(manager: str, path: Path, name: str, number: int) -> Outcome:
    copy = path / f"{name} {number}"
    shutil.copytree(path / "whole", copy)
    chance = Random(f"{name} {number}")
    file = chance.choice([file for file in sorted(copy.rglob("*")) if file.is_file()])
    DAMAGES[name](file, chance)
    outcome = Outcome(f"checkpoint: {name}", manager, rounds=1)
    try:
        loaded = WAYS[manager](copy).load_checkpoint("one", Record)
        outcome.wrong += manager not in UNCHECKED and loaded not in (RECORDS, None)
    except CheckpointError:
        pass
    except Exception:  # noqa: BLE001 - any other is what the table counts
        outcome.raised += 1
    outcome.stuck += not works_again(manager, copy)
    shutil.rmtree(copy)
    return outcome


def works_again(manager: str, path: Path) -> bool:
    again = WAYS[manager](path)
    again.save_checkpoint("two", RECORDS[:2])
    return bool("two" in again.list_checkpoints() and again.load_checkpoint("two", Record) == RECORDS[:2])


@pytest.mark.parametrize("manager", OURS)
def test_a_damaged_checkpoint_is_right_or_refused(manager: str, tmp_path: Path) -> None:
    outcomes = in_child(lambda: rounds(manager, tmp_path, 8))
    assert [outcome for outcome in outcomes if not outcome.good] == []


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("manager", OURS)
def test_a_thousand_flipped_bits_in_checkpoints(manager: str, tmp_path: Path) -> None:
    outcomes = in_child(lambda: rounds(manager, tmp_path, 200))
    assert [outcome for outcome in outcomes if not outcome.good] == []
    assert len(outcomes) >= 1000


DEEP = "[" * 200_000
HOSTILE = [
    "",
    "null",
    "[]",
    DEEP,
    DEEP + "]" * 200_000,
    '{"a":' * 100_000,
    "9" * 10_000,
    "NaN",
    "-Infinity",
    '{"name":NaN}',
    '"\\ud800"',
    "\ufeff{}",
    "\x00" * 100,
    '{"name":"a","name":"b","count":1,"score":1,"tags":[],"notes":{}}',
    '{"name":"a","count":' + "9" * 5000 + ',"score":1,"tags":[],"notes":{}}',
    '{"name":"a","count":1,"score":1e999,"tags":' + DEEP + "}",
    '{"name":' + json.dumps(DEEP) + ',"count":1,"score":1,"tags":[],"notes":' + json.dumps(DEEP) + "}",
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_line_of_a_checkpoint_is_a_checkpoint_error_or_a_record(line: str, tmp_path: Path) -> None:
    manager = WAYS["JSONL manager"](tmp_path)
    manager.save_checkpoint("one", RECORDS)
    for lines in ([line], [line, RECORDS[0].model_dump_json()]):
        (tmp_path / "one.jsonl").write_text("\n".join(lines) + "\n", errors="surrogatepass")
        try:
            assert all(isinstance(record, Record) for record in manager.load_checkpoint("one", Record))
        except CheckpointError:
            continue


def header(**fields: Any) -> str:
    right = {
        "format": "kura_cache_adapters.segment",
        "version": 1,
        "dtype": "float32",
        "dimension": 8,
        "rows": 6,
    }
    return json.dumps({**right, **fields})


WRONG: dict[str, list[Any]] = {
    "rows": [0, -1, 5, 7, 10**9, 2**63, 10**400, "6", 6.5, float("nan"), None, [], {}],
    "dimension": [0, -8, 7, 9, 2**40, 10**400, "8", float("inf"), None, [8]],
    "dtype": ["float16", "object", "O", "<f4", "", None, [], {}],
    "version": [0, 2, "1", None, [1]],
    "format": ["another"],
    "padding": [" " * 2000],
}
HEADERS = [*HOSTILE, *(header(**{name: value}) for name, values in WRONG.items() for value in values)]


def test_a_hostile_line_of_a_segment_costs_its_entries_at_most(tmp_path: Path) -> None:
    for number, line in enumerate(HEADERS):
        for at in (0, 3):
            ledger = Ledger("jsonl", tmp_path / f"{number} {at}", "a hostile line", damaging=True)
            ledger.ask(ledger.open(), GROUPS[0])
            (file,) = segments(ledger.path)
            ledger.ask(ledger.open(), GROUPS[1])
            lines = file.read_text().splitlines()
            lines[at] = line
            file.write_text("\n".join(lines) + "\n")
            assert ledger.open().missing(GROUPS[1]) == [], line[:100]
            assert ledger.audit().good, line[:100]


LIES: dict[str, str | bytes] = {
    "another model's": ModelIdentity.of("other").to_json(),
    "another version's": ModelIdentity.of("fake").to_json().replace("1", "2", 1),
    "a name with a path": ModelIdentity.of("../../fake").to_json(),
    "a list of parameters": '{"version":1,"model_name":"fake","parameters":[[1,2]],"source":{}}',
    "a deep parameter": '{"version":1,"model_name":"fake","source":{},"parameters":{"a":' + DEEP,
    "a deep parameter that ends": ModelIdentity.of("fake", {"a": 1})
    .to_json()
    .replace(": 1\n", ": " + "[" * 900 + "]" * 900 + "\n"),
    "not UTF-8": b"\xff\xfe\xfa",
    **{f"hostile {number}": line for number, line in enumerate(HOSTILE)},
}


@pytest.mark.parametrize("way", FORMATS)
def test_an_identity_that_lies_or_is_damaged_costs_nothing(way: str, tmp_path: Path) -> None:
    ledger = Ledger(way, tmp_path, "a lying identity")
    ledger.ask(ledger.open(), TEXTS)
    (file,) = tmp_path.rglob("_identity.json")
    right = file.read_bytes()
    for lie in LIES.values():
        file.write_bytes(lie if isinstance(lie, bytes) else lie.encode("utf-8", "surrogatepass"))
        assert listed(way, tmp_path) == []
        assert not ledger.open().missing(TEXTS)
    for name, damage in DAMAGES.items():
        if not os.path.lexists(file) or not file.is_dir():
            file.unlink(missing_ok=True)
            file.write_bytes(right)
        damage(file, Random(name))
        assert set(listed(way, tmp_path)) <= {"fake"}
        assert not ledger.open().missing(TEXTS)
        if file.is_dir():
            file.rmdir()
    assert ledger.audit().good


def listed(way: str, path: Path) -> list[str]:
    return [identity.model_name for identity in open_store(f"{way.partition('-')[0]}://{path}").spaces()]
