"""`python -m kura_cache_adapters` and `kura-cache`: the command line, or how to have it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; say in one line what is missing for it."""
    try:
        from kura_cache_adapters.cli import app  # noqa: PLC0415 - typer and rich are an extra
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich", "click"}:
            raise
        print("kura-cache needs more: pip install 'kura-cache-adapters[cli]'", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    app(prog_name="kura-cache")


if __name__ == "__main__":
    main()
