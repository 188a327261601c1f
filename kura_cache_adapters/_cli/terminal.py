"""What a command prints: a table for people, JSON for machines, bare lines for pipes; and how it ends."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from kura_cache_adapters.cache import Cache, open_cache
from kura_cache_adapters.errors import KuraCacheError, MissingExtraError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

VERSION = 1
"""Version of the JSON that commands print; docs/command_line.schema.json says what is in it."""

TROUBLE, WRONG_USE, UNREACHABLE = 1, 2, 3
"""How a command ends, beside 0 for fine: trouble was found, it was asked wrongly, a store was not reached."""

_WIDE = 1_000  # columns where there is no terminal: what is read by grep has its names in one piece
_WRONG = (MissingExtraError, UnsupportedError, FileExistsError, ValueError, TypeError)


@contextmanager
def opened(at: str) -> Iterator[Cache]:
    """Open a cache that is there; say in a line what goes wrong with it, and end with its code."""
    with exit_codes(), open_cache(at) as cache:
        path = getattr(cache.store, "path", None)
        if path is not None and not Path(path).is_dir():
            message = f"there is no cache at {path}: say where it is by --cache or KURA_CACHE_DIR"
            raise FileNotFoundError(message)
        yield cache


@contextmanager
def exit_codes() -> Iterator[None]:
    """Say in a line what goes wrong, and end with its code."""
    try:
        yield
    except _WRONG as error:
        raise _ended(error, WRONG_USE) from error
    except (OSError, KuraCacheError) as error:
        raise _ended(error, UNREACHABLE) from error


def _ended(error: Exception, code: int) -> typer.Exit:
    print_error(str(error))
    return typer.Exit(code)


def print_error(message: str) -> None:
    """Print a line to where errors go."""
    typer.echo(f"kura-cache: {message}", err=True)


def print_json(command: str, **values: object) -> None:
    """Print one JSON object; times as ISO 8601 in UTC, what is no JSON as its text."""
    told = {"version": VERSION, "command": command, **values}
    typer.echo(json.dumps(told, default=_plain, ensure_ascii=False))


def print_lines(lines: Iterable[str]) -> None:
    """Print bare lines, as they come."""
    for line in lines:
        typer.echo(line)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *totals: str) -> None:
    """Print a table no wider than the terminal, numbers to the right, and lines below it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        numbers = all(row[at][:1].isdigit() or row[at] == "?" for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    if rows:
        width = None if sys.stdout.isatty() else _WIDE
        Console(markup=False, highlight=False, width=width).print(table)
    print_lines(totals)


def confirm(question: str, *, yes: bool) -> None:
    """Go on where the answer is yes; without a terminal it has to be given before."""
    if yes:
        return
    if not sys.stdin.isatty():
        print_error("nothing was changed: say --yes where there is no terminal to ask")
        raise typer.Exit(WRONG_USE)
    typer.confirm(question, abort=True, err=True)


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return value.isoformat() if isinstance(value, datetime) else str(value)
