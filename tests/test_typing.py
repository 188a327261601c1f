"""What a type checker says of a user's program, and of a user's mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kura_cache_adapters

api = pytest.importorskip("mypy.api", reason="needs the extra `dev`")

pytestmark = pytest.mark.timeout(600)  # mypy reads all that these programs import
HERE = Path(__file__).parent / "typing"
REPORTED = re.compile(r"(\w+)\.py:(\d+): error: .*\[([\w-]+)\]$")
EXPECTED = re.compile(r"  # error: ([\w-]+)$")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, str]]:
    """Run mypy once, as a user does, on copies outside of this repository; return file, line and code."""
    outside = tmp_path_factory.mktemp("outside")
    files = []
    for file in HERE.glob("*.py"):
        files.append(outside / file.name)
        files[-1].write_text(file.read_text())
    options = ["--strict", "--config-file=", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    output, trouble, _ = api.run([*options, f"--cache-dir={outside}/cache", *map(str, files)])
    assert not trouble
    lines = [line for line in output.splitlines() if ": note: " not in line]
    found = [REPORTED.search(line) for line in lines]
    assert None not in found, output
    return [(match[1], int(match[2]), match[3]) for match in found if match is not None]


def test_a_users_program_type_checks(reported: list[tuple[str, int, str]]) -> None:
    assert [each for each in reported if each[0] != "refused"] == []


def test_mistakes_are_found_where_they_are_and_nowhere_else(reported: list[tuple[str, int, str]]) -> None:
    lines = (HERE / "refused.py").read_text().splitlines()
    marks = [(number, EXPECTED.search(line)) for number, line in enumerate(lines, 1)]
    expected = [("refused", number, mark[1]) for number, mark in marks if mark is not None]
    assert sorted({each for each in reported if each[0] == "refused"}) == expected


def test_the_program_uses_every_public_name() -> None:
    program = (HERE / "program.py").read_text()
    unused = [name for name in dir(kura_cache_adapters) if len(re.findall(rf"\b{name}\b", program)) < 2]
    assert unused == ["__version__"]
