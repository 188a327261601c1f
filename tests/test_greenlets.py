"""gevent and eventlet, in processes of their own: it works, or says at once that it does not."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from pathlib import Path

OURS = """
import asyncio, sys
from kura_cache_adapters import CachedEmbeddingModel, CallableEmbeddingModel, MemoryStore
from kura_cache_adapters._runtime import loop
from kura_cache_adapters.testing import FakeEmbeddingModel
"""
# What is cached is found; what is not is embedded, or refused before the model is asked.
USE = """
model = FakeEmbeddingModel()
def embed(texts):
    model.calls.append(texts)
    return model.lists(texts)
function = CallableEmbeddingModel(embed, model_name="fake")
for source in model, function:
    cached = CachedEmbeddingModel(source, sys.argv[1])
    assert cached.embed_sync(["a"]) == model.lists(["a"])
    assert not model.calls
for source in model, function:
    for cache in sys.argv[1], MemoryStore(), None:
        cached = CachedEmbeddingModel(source, cache)
        for ask in cached.embed_sync, lambda texts: asyncio.run(cached.embed(texts)):
            try:
                assert ask([f"{source} {cache} {ask}"]) == model.lists([f"{source} {cache} {ask}"])
            except RuntimeError as error:
                print(error)
print(len(model.calls))
"""
WORKS = [
    "gevent.monkey.patch_all(thread=False, queue=False, select=False)",
    "eventlet.monkey_patch(thread=False)",
]
REFUSED = [
    "gevent.monkey.patch_all()",
    "gevent.monkey.patch_all(thread=False)",
    "gevent.monkey.patch_all(thread=False, queue=False)",
    "gevent.monkey.patch_all(select=False)",
    "gevent.monkey.patch_thread()",
    "eventlet.monkey_patch()",
    "eventlet.monkey_patch(all=False, thread=True)",
]


def use(patch: str, place: str, cache: Path) -> list[str]:
    """Patch before or after the import of this package, or after a first use; return what was said."""
    library = patch.partition(".")[0]
    if find_spec(library) is None:  # not imported here: both leave their mark on a process
        pytest.skip(f"needs {library}")
    CachedEmbeddingModel(FakeEmbeddingModel(), cache).embed_sync(["a"])
    patching = f"import {library}, {patch.rpartition('.')[0]}\n{patch}\n"
    first_use = "CachedEmbeddingModel(FakeEmbeddingModel()).embed_sync(['first'])\n"
    code = {
        "before": patching + OURS,
        "after": OURS + patching,
        "after a use": OURS + first_use + patching,
    }[place]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + USE, str(cache)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize("place", ["before", "after", "after a use"])
@pytest.mark.parametrize("patch", REFUSED)
def test_patched_threads_are_refused_before_anything_is_spent_and_what_is_cached_is_found(
    patch: str, place: str, tmp_path: Path
) -> None:
    *errors, calls = use(patch, place, tmp_path)
    cure = WORKS[patch.startswith("eventlet")]
    assert errors
    assert all(f"Patch with {cure}" in error for error in errors)
    assert len(errors) + int(calls) == 12
    assert int(calls) <= 2  # an async model without a cache, awaited on the caller's own loop


@pytest.mark.parametrize("place", ["before", "after", "after a use"])
@pytest.mark.parametrize("patch", [*WORKS, "gevent.get_hub()"])
def test_the_cure_works_and_so_does_a_library_that_patches_nothing(
    patch: str, place: str, tmp_path: Path
) -> None:
    assert use(patch, place, tmp_path) == ["12"]
