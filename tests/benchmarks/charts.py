"""Charts: horizontal bars on a logarithmic axis, as SVG that follows the reader's colour scheme."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from tests.benchmarks.report import caption
from tests.benchmarks.timing import FLOOR

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.timing import Row

LEFT, WIDTH, BAR, RIGHT = 350, 380, 26, 90
UNIT = "microseconds per text, median (logarithmic)"
CHARTS = {
    "hits-as-lists": ("All hits as lists", {"lists": ""}),
    "cold-fill": ("Cold fill, the model answers at once", {"durable": ", fsync", "fill": ""}),
}
PACKAGES = ["kura-cache-adapters", "langchain-classic", "llama-index-core", "redisvl", "diskcache"]
PAGE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" \
aria-labelledby="title">
  <title id="title">{title}</title>
  <style>
    text {{ font: 14px system-ui, sans-serif; fill: #1f2328 }}
    .small {{ font-size: 12px; fill: #59636e }} .label {{ text-anchor: end }} .tick {{ text-anchor: middle }}
    .peer {{ fill: #b35900 }} .ours {{ fill: #1a7f37 }} .floor {{ fill: #818b98 }}
    .axis {{ stroke: #818b98 }} .grid {{ stroke: #d1d9e0 }}
    @media (prefers-color-scheme: dark) {{
      text {{ fill: #f0f6fc }} .small {{ fill: #9198a1 }} .peer {{ fill: #e0823d }} .ours {{ fill: #3fb950 }}
      .grid {{ stroke: #3d444d }}
    }}
  </style>
{body}
</svg>
"""


def draw(everything: dict[str, Any], directory: Path) -> list[Path]:
    """Write each chart to a directory; return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = {name: _chart(everything, *CHARTS[name]) for name in CHARTS}
    for name, content in drawn.items():
        (directory / f"{name}.svg").write_text(content, encoding="utf-8")
    return [directory / f"{name}.svg" for name in drawn]


def _chart(everything: dict[str, Any], heading: str, paths: dict[str, str]) -> str:
    rows = _compared(everything["paths"], paths)
    title = f"{heading}: N={rows[0]['count']:,} texts of 500 characters, D={rows[0]['dimension']}"
    bottom = 34 + len(rows) * BAR
    body = [f'  <text x="0" y="18">{escape(title)}</text>']
    body += _axis([row["median us"] for row in rows], bottom)
    low, high = _decades([row["median us"] for row in rows])
    body += [line for at, row in enumerate(rows) for line in _bar(row, 34 + at * BAR, low, high)]
    notes = _notes(everything)
    body += [_small(note, bottom + 58 + 16 * at) for at, note in enumerate(notes)]
    height, width = bottom + 56 + 16 * len(notes), LEFT + WIDTH + RIGHT
    return PAGE.format(
        width=width, height=height, title=escape(f"{title}; microseconds per text"), body="\n".join(body)
    )


def _compared(rows: list[Row], paths: dict[str, str]) -> list[Row]:
    """Return the fastest first, at the largest size that most take part in."""
    of = [{**row, "system": row["system"] + paths[row["path"]]} for row in rows if row["path"] in paths]
    sizes = [(row["count"], row["dimension"]) for row in of]
    chosen = max(sizes, key=lambda size: (sizes.count(size), size[0], -size[1]))
    return sorted(
        (row for row, size in zip(of, sizes, strict=True) if size == chosen),
        key=lambda row: float(row["median us"]),
    )


def _decades(values: list[float]) -> tuple[int, int]:
    low = math.floor(math.log10(min(values)))
    return low, max(low + 1, math.ceil(math.log10(max(values))))


def _axis(values: list[float], bottom: int) -> list[str]:
    low, high = _decades(values)
    lines = []
    for power in range(low, high + 1):
        x = LEFT + WIDTH * (power - low) / (high - low)
        lines.append(f'  <line class="grid" x1="{x:.0f}" y1="30" x2="{x:.0f}" y2="{bottom}"/>')
        lines.append(f'  <text class="small tick" x="{x:.0f}" y="{bottom + 16}">{10.0**power:,g}</text>')
    middle = LEFT + WIDTH / 2
    return [
        *lines,
        f'  <line class="axis" x1="{LEFT}" y1="{bottom}" x2="{LEFT + WIDTH}" y2="{bottom}"/>',
        f'  <text class="small tick" x="{middle:.0f}" y="{bottom + 33}">{UNIT}</text>',
    ]


def _bar(row: Row, y: int, low: int, high: int) -> list[str]:
    value = row["median us"]
    width = max(2.0, WIDTH * (math.log10(value) - low) / (high - low))
    kind = (
        "floor" if row["system"].startswith(FLOOR) else "ours" if row["system"].startswith("ours") else "peer"
    )
    return [
        f'  <text class="label" x="{LEFT - 8}" y="{y + 17}">{escape(row["system"])}</text>',
        f'  <rect class="{kind}" x="{LEFT}" y="{y + 4}" width="{width:.1f}" height="{BAR - 8}" rx="3"/>',
        f'  <text x="{LEFT + width + 6:.1f}" y="{y + 17}">{value:,.3g}</text>',
    ]


def _notes(everything: dict[str, Any]) -> list[str]:
    """Return the caption's lines: machine, versions, and who was absent."""
    absent = [f"absent: {name} ({reason})" for name, reason in everything["absent"].items()]
    text = "; ".join([caption(everything["machine"], PACKAGES), *absent])
    return textwrap.wrap(text, 118)


def _small(text: str, y: int) -> str:
    return f'  <text class="small" x="0" y="{y}">{escape(text)}</text>'
