"""What a worker still has to write is written where it ends, in whatever way that is."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kura_cache_adapters import ArrowStore, CachedEmbeddingModel, Remote, open_cache
from kura_cache_adapters._runtime import ending
from kura_cache_adapters.testing import FakeEmbeddingModel
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIRRORS = find_spec("obstore") is not None
WORKERS = 2
EACH = 5


def work(path: Path, worker: int) -> int:
    """Leave entries that wait for a server, hits that are not written down, and files not yet pushed."""
    numbers = [*range(worker * 10, worker * 10 + EACH)]
    space = Remote(ArrowStore(path / "server")).space(IDENTITY)
    space.put_many([key_of(worker * 10 + 9)], vectors_of([worker * 10 + 9]))
    write = space._waiting.write
    space._waiting.write = lambda *some: threading.Event().wait(0.05) or write(*some)
    for number in numbers:
        space.put_many([key_of(number)], vectors_of([number]))
    kept = CachedEmbeddingModel(FakeEmbeddingModel(), path / "cache")
    for _ in range(EACH):
        kept.embed_sync(["known"])
    if MIRRORS:
        mirrored = CachedEmbeddingModel(
            FakeEmbeddingModel(), [path / f"own {worker}", f"file://{path}/mirror"]
        )
        mirrored.embed_sync([str(worker)])
    return os.getpid()


def in_processes(method: str, path: Path) -> None:
    processes = [
        multiprocessing.get_context(method).Process(target=work, args=(path, worker))  # type: ignore[attr-defined]
        for worker in range(WORKERS)
    ]
    for each in processes:
        each.start()
    for each in processes:
        each.join(30)
        assert each.exitcode == 0


def in_a_pool(method: str, path: Path) -> None:
    with multiprocessing.get_context(method).Pool(WORKERS, maxtasksperchild=1) as pool:
        assert len({*pool.starmap(work, [(path, at) for at in range(WORKERS)], chunksize=1)}) == WORKERS
        pool.close()
        pool.join()


def in_a_pool_of_datasets(method: str, path: Path) -> None:
    multiprocess = pytest.importorskip("multiprocess", reason="needs the extra `datasets`, which brings it")
    with multiprocess.get_context(method).Pool(WORKERS, maxtasksperchild=1) as pool:
        pool.starmap(work, [(path, at) for at in range(WORKERS)], chunksize=1)
        pool.close()
        pool.join()


def in_an_executor(method: str, path: Path) -> None:
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context(method)) as executor:
        [*executor.map(work, [path] * WORKERS, range(WORKERS))]


def test_all_that_is_due_is_done_whatever_some_of_it_raises_or_brings_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ending, "_due", {})
    done: list[str] = []

    def first() -> None:
        done.append("first")

    def second() -> None:
        done.append("second")
        raise KeyboardInterrupt

    def third() -> None:
        done.append("third")
        ending.at_end(second)

    for call in (first, second, third, first):
        ending.at_end(call)
    with pytest.raises(KeyboardInterrupt):
        ending._end()
    assert done == ["third", "second", "first", "second"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("run", [in_processes, in_a_pool, in_a_pool_of_datasets, in_an_executor])
def test_workers_of_multiprocessing_write_what_waits_is_counted_and_is_to_be_pushed(
    run: Callable[[str, Path], None], method: str, tmp_path: Path
) -> None:
    CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path / "cache").embed_sync(["known"])
    run(method, tmp_path)
    numbers = [worker * 10 + at for worker in range(WORKERS) for at in range(EACH)]
    found = ArrowStore(tmp_path / "server").space(IDENTITY).get_many([*map(key_of, numbers)])
    assert np.array_equal(found.vectors, vectors_of(numbers))
    with open_cache(tmp_path / "cache") as cache:
        (total,) = cache.hit_rates().values()
    assert total.hits == WORKERS * EACH
    if MIRRORS and method != "fork":  # of a process that may have reached an object store
        assert len([*(tmp_path / "mirror").glob("*/*.arrow")]) == WORKERS
