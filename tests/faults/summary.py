"""Sum up tables of the fault suite by kinds of faults: `python -m tests.faults.summary TABLE ...`."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

COUNTS = ("rounds", "acknowledged", "lost", "wrong", "raised", "stuck")
# What a line says, and which faults are in it; the first that fits counts.
KINDS = {
    "processes that want the same texts; their owner killed, stopped, without locks": "^claims",
    "a FUSE server whose reads fail, that is gone, stale or refuses maps and renames": "FUSE|ESTALE|EXDEV",
    "overlayfs; directories that cannot be flushed": "overlayfs|flushing of dir",
    "a server that is dead, frozen, slow, full, lying, replaced; a network that is down": "^remote: ",
    "deletions struck at each system call that changes files": "struck deletion",
    "`kill -9` at random moments": "kill -9 at random",
    "`kill -9` before each system call that changes files": "kill before call n",
    "`kill -9` halfway through each such call": "kill halfway",
    "EIO from each such call, once and from then on": "EIO",
    "ENOSPC from each such call, once and from then on": "ENOSPC",
    "another process stopped in each such call": "SIGSTOP",
    "files cut to a prefix, as a power cut may": "files cut to a prefix|power cut",
    "full, read-only, unreadable, vanishing disks; no descriptors; limits": (
        "full|read-only|unreadable|vanishes|descriptors|limit|in the way|closed|flushed|sticky"
    ),
    "no thread can be started": "no thread",
    "eight writers, each killed at random": "8 writers",
    "Ctrl-C": "Ctrl-C",
    "a flipped bit": "^a flipped bit",
    "files cut, zeroed, doubled, exchanged, replaced by links, FIFOs, sockets ...": (
        "^(cut |zeroed|garbage|doubled|deleted|longer|a FIFO|a dangling|a directory|a link|a socket)"
    ),
    "bombs: sparse files, claims of gigabytes, compressed buffers": "bomb|claimed|compressed|sparse|gigabyte",
    "symbolic links and planted code": "symbolic|planted",
    "fork after open": "fork",
    "mutated and arbitrary files (Hypothesis), and what fuzzing had found": "fuzz",
    "the same damages done to checkpoints": "^checkpoint",
    "ten minutes of traffic: 4 processes, 8 threads each": "traffic",
    "ten million entries": "ten million",
    "rows, values and files exchanged; lying names, identities, headers and versions": "",
}


def summed(tables: list[Path]) -> dict[str, Counter[str]]:
    """Add up the lines of each kind."""
    sums: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for line in [line for table in tables for line in table.read_text().splitlines()[2:]]:
        fault, _, *counts = (cell.strip() for cell in line.strip("|").split("|"))
        kind = next(kind for kind, pattern in KINDS.items() if re.search(pattern, fault))
        sums[kind].update(dict(zip(COUNTS, map(int, counts), strict=True)))
    return sums


def main(tables: list[Path]) -> None:
    """Print the sums as Markdown."""
    sums = summed(tables)
    sums["**all**"] = sum(sums.values(), Counter())
    print(f"| what was done | {' | '.join(COUNTS)} |\n| --- |{' ---: |' * len(COUNTS)}")
    for kind, counts in sums.items():
        print(f"| {kind} | {' | '.join(f'{counts[count]:,}' for count in COUNTS)} |")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
