"""What a cache was good for is known over all processes: cheaply, whole, and nobody is hurt by it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    JSONLCheckpointManager,
    MemoryStore,
    TieredStore,
    UseStats,
    open_cache,
)
from kura_cache_adapters._segments import uses
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.test_concurrency import in_child

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kura_cache_adapters.testing.openai_server import OpenAIServer

WORKER = """
import os, signal, sys
from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters._segments import uses
from kura_cache_adapters.testing import FakeEmbeddingModel

path, name, calls, end = sys.argv[1:]
uses._LONGEST, uses._EVERY = 1 << 10, 0.0
cached = CachedEmbeddingModel(FakeEmbeddingModel(), path)
for at in range(int(calls)):
    cached.embed_sync([f"{name} {at}", "shared", f"{name} {at}"])
    cached.embed_sync(["shared"] * 3)
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def cached(cache: Any, **keys: Any) -> CachedEmbeddingModel:
    return CachedEmbeddingModel(FakeEmbeddingModel(), cache, **keys)


def recorded(path: Path) -> UseStats:
    with open_cache(path) as cache:
        (total,) = cache.hit_rates().values()
    return total


def counted(total: UseStats) -> tuple[int, int, int]:
    return total.hits, total.duplicates, total.misses


def lines(path: Path) -> int:
    (file,) = path.glob(f"*/{uses.NAME}")
    return len(file.read_bytes().splitlines())


def run(path: Path, name: str, calls: int, end: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(path), name, str(calls), end])


def test_uses_are_summed_over_processes_and_models(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run(tmp_path, name, 1, "end").wait() == 0
    cached(tmp_path).embed_sync(["shared"])
    cached(tmp_path, p=1).embed_sync(["a"])
    with open_cache(tmp_path) as cache:
        rates = cache.hit_rates()
    assert {identity.parameters: counted(total) for identity, total in rates.items()} == {
        "{}": (3 + 1 + 3 + 1, 2, 3),
        '{"p":1}': (0, 0, 1),
    }
    total = rates[cached(None).identity()]
    assert (total.hit_rate, total.texts_saved, total.tokens_saved) == (8 / 13, 10, None)
    assert 0 < total.since <= total.until <= time.time()
    assert str(total) == "hit rate 61.5% of 13 texts; saved 10 texts"


def test_four_that_are_killed_lose_nothing_while_lines_become_one(tmp_path: Path) -> None:
    workers = [run(tmp_path, str(name), 60, "kill") for name in range(4)]
    assert [worker.wait() for worker in workers] == [-signal.SIGKILL] * 4
    total = recorded(tmp_path)
    assert total.texts == 4 * 60 * 6
    assert total.misses - 4 * 60 in range(1, 5)  # "shared" once, or once each
    assert lines(tmp_path) < 100


def test_what_the_models_tokens_were_is_what_hits_have_saved(
    openai_server: OpenAIServer, tmp_path: Path
) -> None:
    from kura_cache_adapters import OpenAIEmbeddingModel

    model = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)
    model.embed_sync(["one", "and two more"])
    model.embed_sync(["one", "and two more", "one"])
    total = recorded(tmp_path)
    assert total.tokens == openai_server.billed == 4
    assert total.tokens_saved == 6
    assert "about 6 tokens" in str(total)


def test_hits_write_at_most_one_line_in_five_seconds(tmp_path: Path) -> None:
    model = cached(tmp_path)
    model.embed_sync(["a"])
    before = lines(tmp_path)
    for _ in range(50):
        model.embed_sync(["a"])
    assert lines(tmp_path) == before + 1
    assert counted(recorded(tmp_path)) == (50, 0, 1)


async def test_on_a_loop_the_line_is_written_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cached(tmp_path)
    await model.embed(["a"])
    loop, written = asyncio.get_running_loop(), []
    append = uses.Uses._append

    def watched(self: Any, total: UseStats) -> None:
        written.append(asyncio._get_running_loop() is loop)
        append(self, total)

    monkeypatch.setattr(uses.Uses, "_append", watched)
    await model.embed(["a"])
    while not written:
        await asyncio.sleep(0.001)
    assert written == [False]


def test_the_exit_writes_what_hits_have_not(tmp_path: Path) -> None:
    cached(tmp_path).embed_sync(["a"])
    code = (
        "import sys; from kura_cache_adapters import CachedEmbeddingModel as C\n"
        "from kura_cache_adapters.testing import FakeEmbeddingModel as F\n"
        "for _ in range(7): C(F(), sys.argv[1]).embed_sync(['a'])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert counted(recorded(tmp_path)) == (7, 0, 1)


async def test_closing_writes_what_hits_have_not(tmp_path: Path) -> None:
    async with cached(tmp_path) as model:
        for _ in range(8):
            await model.embed(["a"])
    (space,) = tmp_path.glob("*/_uses")
    assert sum(json.loads(line).get("hits", 0) for line in space.read_text().splitlines()) == 7


def test_a_forked_child_does_not_tell_its_parents_hits_again(tmp_path: Path) -> None:
    model = cached(tmp_path)
    model.embed_sync(["a"])
    for _ in range(3):
        model.embed_sync(["a"])

    def child() -> None:
        model.embed_sync(["a"])
        uses._write_all()

    in_child(child)
    assert counted(recorded(tmp_path)) == (4, 0, 1)


def test_lines_that_are_torn_foreign_or_absurd_count_nothing(tmp_path: Path) -> None:
    cached(tmp_path).embed_sync(["a", "a"])
    (file,) = tmp_path.glob(f"*/{uses.NAME}")
    good = file.read_bytes()
    absurd = [
        {"hits": -1},
        {"hits": 1.5},
        {"hits": True},
        {"hits": "x"},
        {"hits": 1 << 70},
        {"since": 1},
        [],
        7,
    ]
    bad = [b"{", b"\xff\xfe", b"[" * 9_000, b'{"hits":3,"si', *[json.dumps(each).encode() for each in absurd]]
    file.write_bytes(b"\n".join([*bad, b""]) + good)
    assert counted(recorded(tmp_path)) == (0, 1, 1)


@pytest.mark.parametrize("wreck", ["directory", "link", "fifo", "gone", "sealed"])
def test_a_record_that_cannot_be_written_is_nobodys_trouble(tmp_path: Path, wreck: str) -> None:
    model = cached(tmp_path / "cache")
    model.embed_sync(["a"])
    (file,) = tmp_path.glob(f"cache/*/{uses.NAME}")
    file.unlink()
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    wrecks: dict[str, Callable[[], object]] = {
        "directory": file.mkdir,
        "link": lambda: file.symlink_to(target),
        "fifo": lambda: os.mkfifo(file),
        "gone": lambda: file.parent.rename(tmp_path / "elsewhere"),
        "sealed": lambda: file.parent.chmod(0o500),
    }
    wrecks[wreck]()
    vectors = FakeEmbeddingModel().lists(["a"])
    assert model.embed_sync(["a"]) == vectors
    asyncio.run(model.embed(["a"]))
    uses._write_all()
    assert target.read_bytes() == b"mine"
    file.parent.chmod(0o700) if file.parent.exists() else None


def test_without_file_locks_lines_are_written_and_stay_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", none)
    monkeypatch.setattr(uses, "_LONGEST", 100)
    model = cached(tmp_path)
    for at in range(9):
        model.embed_sync([f"{at}"])
    assert counted(recorded(tmp_path)) == (0, 0, 9)
    assert lines(tmp_path) == 9


def test_stores_without_a_record_have_none_and_tiers_keep_that_of_the_slowest(tmp_path: Path) -> None:
    for store in (MemoryStore(), JSONLCheckpointManager(tmp_path / "managed")):
        with open_cache(store) as cache:
            cached(store).embed_sync(["a"])
            assert len(cache.hit_rates()) == (not isinstance(store, MemoryStore))
    tiers = TieredStore(MemoryStore(), ArrowStore(tmp_path / "tiers"))
    for _ in range(3):
        cached(tiers).embed_sync(["a"])
    uses._write_all()
    assert counted(recorded(tmp_path / "tiers")) == (2, 0, 1)


def test_the_file_is_as_private_as_the_segments_and_no_segment(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        cached(ArrowStore(tmp_path / "mine")).embed_sync(["a"])
        cached(ArrowStore(tmp_path / "ours", shared=True)).embed_sync(["a"])
    finally:
        os.umask(before)
    modes = [file.stat().st_mode & 0o777 for file in sorted(tmp_path.glob(f"*/*/{uses.NAME}"))]
    assert modes == [0o600, 0o644]
    with open_cache(tmp_path / "mine") as cache:
        (identity,) = cache.spaces()
        assert cache.stats(identity).parts == 1
