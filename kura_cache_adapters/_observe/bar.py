"""A bar of hits, duplicates and misses, for notebooks: readable on light and dark, nothing is fetched."""

from __future__ import annotations

from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH = 320  # pixels
_MOST_ROWS = 50  # of a table
_COLOURS = {
    "hits": "#1f83c4",
    "duplicates": "#808080",
    "misses": "#d55e00",
}  # 3:1 and more on white and black


class Counted(Protocol):
    """What a bar shows."""

    @property
    def hits(self) -> int:
        """How many texts were found."""

    @property
    def duplicates(self) -> int:
        """How many were answered by the same text elsewhere."""

    @property
    def misses(self) -> int:
        """How many the model has answered."""


def pictured(title: str, line: str, counted: Counted) -> str:
    """Return HTML that shows a title, a line and, below them, a bar; without texts no bar."""
    said = f'<div style="white-space:pre-line">{escape(line)}</div>'
    return f"<div><b>{escape(title)}</b>{said}{bar(counted)}</div>"


def table(title: str, rows: Sequence[tuple[Sequence[str], Counted]]) -> str:
    """Return HTML that shows a title and, below it, a table: a row's cells, and its bar."""
    cells = (
        "".join(f"<td>{escape(cell)}</td>" for cell in row) + f"<td>{bar(each)}</td>" for row, each in rows
    )
    lines = "".join(f"<tr>{each}</tr>" for each in islice(cells, _MOST_ROWS))
    more = f"<div>and {len(rows) - _MOST_ROWS:,} more</div>" if len(rows) > _MOST_ROWS else ""
    return f"<div><b>{escape(title)}</b><table>{lines}</table>{more}</div>"


def bar(counted: Counted) -> str:
    """Return a bar as HTML, each part with its count; empty where nothing was counted."""
    counts = {"hits": counted.hits, "duplicates": counted.duplicates, "misses": counted.misses}
    whole = sum(counts.values())
    if not whole:
        return ""
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    legend = " ".join(
        f'<span style="white-space:nowrap"><span style="color:{_COLOURS[name]}">&#9632;</span> '
        f"{name} {count:,}</span>"
        for name, count in counts.items()
    )
    style = "display:block;margin:4px 0"
    return (
        f'<svg role="img" aria-label="{told}" width="{_WIDTH}" height="12" style="{style}">'
        f'{_parts(counts, whole)}</svg><div style="font-size:smaller;text-align:left">{legend}</div>'
    )


def _parts(counts: dict[str, int], whole: int) -> str:
    parts, left = "", 0.0
    for name, count in counts.items():
        width = _WIDTH * count / whole
        parts += f'<rect x="{left:.2f}" width="{width:.2f}" height="12" fill="{_COLOURS[name]}"/>'
        left += width
    return parts
