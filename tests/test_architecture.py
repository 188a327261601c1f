"""The picture in docs/architecture.md is the code's: its rooms, their order, and each of its arrows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import kura_cache_adapters

PACKAGE = Path(kura_cache_adapters.__file__).parent
PAGE = PACKAGE.parent / "docs" / "architecture.md"
ROOM = re.compile(r'^    (\w+)\["([\w./]+)<br>', re.MULTILINE)
ARROW = re.compile(r"^    (\w+) --> (\w+)$", re.MULTILINE)

if not PAGE.exists():
    pytest.skip("the pages are beside the package in a checkout only", allow_module_level=True)


def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def imports() -> set[tuple[str, str]]:
    """Return which room takes something from which other, anywhere in it."""
    return {
        (path.relative_to(PACKAGE).parts[0].removesuffix(".py"), there)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for there in taken_from(node)
    }


def taken_from(node: ast.ImportFrom) -> list[str]:
    package, *inside = (node.module or "").split(".")
    if package != "kura_cache_adapters":
        return []
    return inside[:1] or [name.name for name in node.names]


def rooms() -> dict[str, str]:
    """Return the rooms of the picture by their node, from top to bottom."""
    return {node: room.rstrip("/").removesuffix(".py") for node, room in ROOM.findall(text())}


def test_every_room_is_in_the_picture() -> None:
    names = {path.stem for path in PACKAGE.glob("*.py")}
    names |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(rooms().values()) == names - {"__init__"}


def test_every_arrow_is_an_import_and_none_points_up() -> None:
    arrows = [(rooms()[one], rooms()[other]) for one, other in ARROW.findall(text())]
    assert arrows
    assert set(arrows) <= imports()
    order = [*rooms().values()]
    assert [
        (one, other) for one, other in imports() if one in order and order.index(one) > order.index(other)
    ] == []


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`((?!tests/)(?:\w+/)+\w+\.py)`", text()))
    assert len(named) > 5
    assert [name for name in named if not (PACKAGE / name).exists()] == []
