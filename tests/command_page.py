"""The page of the command line, made of its help: `python -m tests.command_page` writes it anew."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.testing import CliRunner

from kura_cache_adapters.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "command_line.md"
_BEGIN, _END = "<!-- help: begin -->", "<!-- help: end -->"


def help_of(*words: str) -> str:
    """Return a command's help, as an 80 columns wide terminal shows it."""
    asked = CliRunner().invoke(app, [*words, "--help"], prog_name="kura-cache", terminal_width=80)
    assert asked.exit_code == 0
    return asked.output.strip()


def written(page: str) -> str:
    """Return the page with the help of each command between its marks."""
    commands = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    blocks = [f"```text\n{help_of(*words)}\n```" for words in [(), *((name,) for name in commands)]]
    before, rest = page.split(_BEGIN)
    return before + _BEGIN + "\n\n" + "\n\n".join(blocks) + "\n\n" + _END + rest.split(_END)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
