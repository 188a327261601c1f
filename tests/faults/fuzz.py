"""Feed readers arbitrary bytes: `python -m tests.faults.fuzz TARGET CORPUS [options]`; needs atheris.

TARGET is one of `readers.TARGETS`, or `all`, which takes the first byte of an input for the choice.
CORPUS is a directory that is filled with real files first. The options are atheris'.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any


def main() -> None:
    """Fuzz until a limit that atheris was given, such as -max_total_time=600."""
    atheris: Any = import_module("atheris")  # no requirement of the tests
    with atheris.instrument_imports(include=["kura_cache_adapters"]):
        from tests.faults.readers import TARGETS

    name, corpus, *options = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    tempfile.tempdir = tempfile.mkdtemp(prefix="of-fuzzing-")
    targets = list(TARGETS) if name == "all" else [name]
    Path(corpus).mkdir(parents=True, exist_ok=True)
    for at, target in enumerate(targets):
        first = bytes([at] * (name == "all"))
        (Path(corpus) / f"real {target}").write_bytes(first + TARGETS[target][1]())

    def run(content: bytes) -> None:
        at, content = (content[0], content[1:]) if name == "all" and content else (0, content)
        TARGETS[targets[at % len(targets)]][0](content)

    atheris.Setup([sys.argv[0], corpus, *options], run)
    atheris.Fuzz()  # does not return


if __name__ == "__main__":
    main()
