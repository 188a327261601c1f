"""What somebody has put into a cache to slow it, to break its writes, or to write lines into its log."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, JSONLCheckpointManager, open_cache
from kura_cache_adapters.stores import ArrowStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from kura_cache_adapters.testing.stores import IDENTITY, key_of
from tests.faults.fault_lab import FORMATS, STORES, WAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MANY = 300_000
EVIL = "a\r\n\x1b[31mERROR all is lost\x1b[0m\u202e\u2028b"


def seconds_of(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def test_many_rows_of_one_prefix_do_not_slow_a_look_up(tmp_path: Path) -> None:
    """No such file is written by chance: prefixes have 64 bits."""
    numbers = np.arange(MANY, dtype="<u8").view("V8")
    honest = [*map(key_of, range(MANY))]
    alike = [bytes(8) + number.tobytes() + bytes(16) for number in numbers]
    times = []
    for name, keys in (("honest", honest), ("alike", alike)):
        space = ArrowStore(tmp_path / name).space(IDENTITY)
        space.put_many(keys, np.ones((MANY, 1), np.float32), durable=False)
        sought = [keys[:1], keys[::3000], keys[-1:], [keys[0][:31] + b"x"]]
        calls = [partial(space.get_many, each) for each in sought]
        times.append(min(sum(map(seconds_of, calls)) for _ in range(3)))
        assert len(space.get_many(keys[:10]).positions) == 10
    assert times[1] < 100 * times[0]


def deep(directory: Path, levels: int) -> None:
    """Make a directory in a directory, so many times: deeper than any path may be long."""
    directory.mkdir()
    here = os.open(directory, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        there = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)


def flatten(directory: Path) -> None:
    """Remove it level by level: Python's rmtree may not get so deep."""
    while (child := directory / "d").exists():
        child.rename(directory.parent / "next")
        directory.rmdir()
        (directory.parent / "next").rename(directory)
    directory.rmdir()


@pytest.fixture
def abyss(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    made: list[Path] = []

    def make(path: Path) -> None:
        deep(path, 1500)
        os.utime(path, (0, 0))
        made.append(path)

    yield make
    for path in filter(os.path.lexists, made):
        flatten(path)


@pytest.mark.parametrize("way", FORMATS)
def test_a_bottomless_temporary_directory_keeps_nobody_from_writing(
    way: str, tmp_path: Path, abyss: Callable[[Path], None]
) -> None:
    cached = CachedEmbeddingModel(
        FakeEmbeddingModel(), STORES[way](tmp_path / "cache"), options=CacheOptions(durable=False)
    )
    cached.embed_sync(["first"])
    (space,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    abyss(space / ".x.1-0000.tmp")
    for number in range(20):  # a merge among them, which cleans up
        cached.embed_sync([f"text {number}"])
    assert cached.stats.save_failures == 0
    assert cached.missing([f"text {number}" for number in range(20)]) == []


def test_a_bottomless_temporary_directory_keeps_no_checkpoint_from_being_saved(
    tmp_path: Path, abyss: Callable[[Path], None]
) -> None:
    manager = JSONLCheckpointManager(tmp_path / "checkpoints")
    abyss(tmp_path / "checkpoints" / ".x.1-0000.tmp")
    manager.save_checkpoint("name", [])
    assert manager.list_checkpoints() == ["name"]


@pytest.mark.parametrize("way", WAYS)
def test_no_name_on_disk_breaks_a_line_of_the_log(
    way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged files, foreign spaces, and a cache that cannot be written, in a directory named by an enemy."""
    caplog.set_level("DEBUG", "kura_cache_adapters")
    path = tmp_path / EVIL
    texts = [f"text {number}" for number in range(3)]
    CachedEmbeddingModel(FakeEmbeddingModel(), WAYS[way](path)).embed_sync(texts)
    (path / f"{EVIL}-{'0' * 16}").mkdir()
    (path / f"{EVIL}-{'0' * 16}" / "_identity.json").write_bytes(b"none")
    for file in [each for each in path.rglob("*") if each.is_file()]:
        file.write_bytes(b"damaged " * 10)
    broken = CachedEmbeddingModel(FakeEmbeddingModel(), WAYS[way](path))
    broken.embed_sync(texts)
    assert broken.cache is not None
    open_cache(WAYS[way](path)).spaces()
    shutil.rmtree(path)
    path.write_bytes(b"a file")
    CachedEmbeddingModel(FakeEmbeddingModel(), WAYS[way](path)).embed_sync(texts)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("kura_cache")]
    assert any(r"\x1b[31m" in message for message in messages)
    assert [message for message in messages if not message.isprintable()] == []
