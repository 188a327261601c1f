"""Measure the cache against what the hardware allows and against other caches: `python -m tests.benchmarks`.

Each path has a floor, what no cache can do without; all take turns, in random order. Reported are the
median, and the ratio of the minima to the floor's in the same rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks import charts, filling, large, paths, real, report
from tests.benchmarks.contestants import present, room_in
from tests.benchmarks.timing import Work

if TYPE_CHECKING:
    from tests.peers import System

ROUNDS = 5


def numbers(text: str) -> list[int]:
    """Return the numbers of a comma-separated list."""
    return [int(each) for each in text.split(",")]


def options_of(arguments: list[str]) -> argparse.Namespace:
    """Return what a command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--counts", type=numbers, default=[1_000, 10_000, 100_000], metavar="N,N")
    parser.add_argument("--dimensions", type=numbers, default=[384], metavar="D,D")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--large", type=int, default=1_000_000, help="entries of the opened cache; 0: none")
    parser.add_argument("--filled", type=int, default=40_960, help="rows of the long fill; --full: 300,000")
    parser.add_argument(
        "--full", action="store_true", help="also D=1536, growth, peak memory and a real model"
    )
    parser.add_argument("--json", type=Path, help="a file to write the numbers to")
    parser.add_argument("--charts", type=Path, help="a directory to draw charts in")
    parser.add_argument("--directory", type=Path, help="where to put the caches")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Measure all that is asked for."""
    found, absent = present(directory)
    gc.freeze()  # what has been imported by now, whose collection would be in everyone's time
    everything: dict[str, Any] = {"machine": report.machine(), "rounds": options.rounds, "absent": absent}
    everything.update({"paths": [], "sizes": []})
    dimensions = dict.fromkeys([*options.dimensions, *[1536] * options.full])
    for dimension in dimensions:
        for count in options.counts:
            _one_size(everything, Work(count, dimension), found, directory)
    return {**everything, **_large(options, directory)}


def _one_size(everything: dict[str, Any], work: Work, found: list[type[System]], directory: Path) -> None:
    print(f"N={work.count:,}, D={work.dimension} ...", file=sys.stderr, flush=True)
    rounds = everything["rounds"]
    rows, sizes = paths.hits(work, found, directory, rounds=rounds)
    everything["paths"] += rows
    everything["sizes"] += sizes
    everything["paths"] += paths.fills(work, found, directory, rounds=rounds)
    everything["paths"] += paths.most(work, found, directory, rounds=rounds)


def _large(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Measure the large caches; what is not asked for is empty."""
    measurements: dict[str, Any] = {name: {} for name in report.SINGLE}
    rows, dimension = (300_000, 1536) if options.full else (options.filled, options.dimensions[0])
    measurements["filling"] = filling.fill(rows, dimension, directory)
    measurements["awaited"] = filling.awaited(options.counts[0], options.dimensions[0], directory)
    with room_in(directory) as room:
        if options.large:
            measurements["opening"] = large.opening(options.large, options.dimensions[0], room)
    if not options.full:
        return measurements
    with room_in(directory) as room:
        measurements["peak"] = large.peak(100_000, 1536, room)
    rounds = options.rounds
    sizes = (10_000, 1_000_000)
    measurements["growth"] = large.growth(sizes, options.dimensions[0], directory, rounds=rounds)
    measurements["minilm"] = real.first_runs(128, directory, rounds=rounds)
    return measurements


def main(arguments: list[str]) -> None:
    """Measure, print the tables, and write what is asked for."""
    options = options_of(arguments)
    directory = Path(tempfile.mkdtemp(dir=options.directory))
    try:
        everything = measure(options, directory)
    finally:
        shutil.rmtree(directory)
    print(report.markdown(everything))
    if options.json:
        options.json.write_text(json.dumps(everything, indent=2), encoding="utf-8")
    if options.charts:
        charts.draw(everything, options.charts)


if __name__ == "__main__":
    main(sys.argv[1:])
