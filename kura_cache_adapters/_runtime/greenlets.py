"""Whether gevent or eventlet has replaced the threads that this package needs, and what to do then."""

from __future__ import annotations

import sys

_NEEDED = ("threading", "queue", "select")  # gevent's names for them
_MESSAGE = (
    "{patched}: no text can be embedded here, for a model runs on real threads and an asyncio loop, and "
    "with these replaced it would wait for ever. What is cached is found by the sync methods. Patch with "
    "{cure}, or embed in a process that is not patched."
)


def patched() -> str | None:
    """Return an error message where real threads are no more, else None."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and (modules := [name for name in _NEEDED if monkey.is_module_patched(name)]):
        cure = "gevent.monkey.patch_all(thread=False, queue=False, select=False)"
        return _MESSAGE.format(patched=f"gevent has patched {', '.join(modules)}", cure=cure)
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        cure = "eventlet.monkey_patch(thread=False)"
        return _MESSAGE.format(patched="eventlet has patched thread", cure=cure)
    return None
