"""Calls what is to be done where a process ends, also a worker that heeds no `atexit`."""

from __future__ import annotations

import atexit
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from kura_cache_adapters._runtime.fork import forget_in_child

if TYPE_CHECKING:
    from collections.abc import Callable

_WORKERS = ("multiprocessing.util", "multiprocess.util")  # the second is that of `datasets`

_due: dict[Callable[[], object], None] = {}


def at_end(call: Callable[[], object]) -> None:
    """Have a function called once where this process ends; the one that was told last comes first.

    Tell it where there is something to be done: a forked child has forgotten what its parent was told.
    """
    if call in _due:
        return
    _due[call] = None
    atexit.unregister(_end)  # a child has its parent's
    atexit.register(_end)
    for workers in filter(None, map(sys.modules.get, _WORKERS)):
        workers.Finalize(None, _end, exitpriority=0)
    if (celery := sys.modules.get("celery.signals")) is not None:
        celery.worker_process_shutdown.connect(_end, weak=False)


def _end(**_: object) -> None:
    with ExitStack() as stack:
        if _due:
            stack.callback(_end)  # what these bring about
        for call in [*_due]:  # threads are at work still
            del _due[call]
            stack.callback(call)


forget_in_child(_due.clear)
