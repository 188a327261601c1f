"""Run every case against every cache: `python -m tests.scoreboard`.

Prints a Markdown table; `--json` writes it for machines.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from pathlib import Path

from tests.peers import OURS, PEERS, System, reachable, stop
from tests.scoreboard import CASES
from tests.scoreboard.lab import Lab, LostError, NotApplicableError, PaidTwiceError, WrongVectorError

SIGNS = {
    "right": "right",
    "wrong vector": "**wrong vector**",
    "paid twice": "*paid twice*",
    "lost": "*lost*",
    "n/a": "",
}


def verdict(title: str, kind: type[System]) -> str:
    """Run a case against a system; name what came out."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "cache"
        directory.mkdir()
        try:
            CASES[title](Lab(kind, directory))
        except NotApplicableError:
            return "n/a"
        except WrongVectorError:
            return "wrong vector"
        except PaidTwiceError:
            return "paid twice"
        except LostError:
            return "lost"
        except Exception as error:  # noqa: BLE001 - what the system raised at its caller is the outcome
            return f"raised {type(error).__name__}"
        finally:
            stop(directory)
    return "right"


def absent(kind: type[System]) -> str | None:
    """Return why a system cannot run here, or None."""
    with tempfile.TemporaryDirectory() as temporary:
        return reachable(kind, Path(temporary))


def scoreboard(kinds: list[type[System]]) -> dict[str, dict[str, str]]:
    """Return the verdict of each case for each system by name."""
    return {title: {kind.name: verdict(title, kind) for kind in kinds} for title in CASES}


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path)
    path: Path | None = arguments.parse_args().json
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    missing = {kind.name: why for kind in [*OURS, *PEERS] if (why := absent(kind)) is not None}
    kinds = [kind for kind in [*OURS, *PEERS] if kind.name not in missing]
    table = scoreboard(kinds)
    ours, peers = [kind.name for kind in kinds if kind in OURS], [kind for kind in kinds if kind in PEERS]
    print(f"| case | ours ({len(ours)} ways) | {' | '.join(kind.name for kind in peers)} |")
    print("|---" * (len(peers) + 2) + "|")
    for title, row in table.items():
        mine = {row[name] for name in ours} - {"n/a"}
        cells = [", ".join(sorted(mine)), *(row[kind.name] for kind in peers)]
        print(f"| {title} | {' | '.join(SIGNS.get(cell, cell) for cell in cells)} |")
    for kind in peers:
        print(f"\n{kind.name} {kind.version()}: {kind.documentation}")
    for name, why in missing.items():
        print(f"absent: {name}: {why}")
    if path:
        versions = {kind.name: kind.version() for kind in kinds}
        path.write_text(json.dumps({"versions": versions, "absent": missing, "cases": table}, indent=2))


if __name__ == "__main__":
    main()
