"""The files that a process holds open: a bounded number, however many caches, models and segments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kura_cache_adapters._segments import pool
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.stores import ArrowStore
from kura_cache_adapters.testing.stores import key_of, vectors_of

if TYPE_CHECKING:
    from kura_cache_adapters.protocols import EmbeddingStore

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")

ROOT = Path(__file__).parent.parent
SEGMENTS = 5


def tenant(number: int) -> ModelIdentity:
    return ModelIdentity.of(f"tenant {number}")


def fill(store: EmbeddingStore, tenants: int) -> None:
    for number in range(tenants):
        space = store.space(tenant(number))
        for at in range(SEGMENTS):
            space.put_many([key_of(at)], vectors_of([at]), durable=False)


def all_found(store: EmbeddingStore, tenants: int) -> bool:
    keys = [*map(key_of, range(SEGMENTS))]
    spaces = [store.space(tenant(number)) for number in range(tenants)]
    return all(len(space.get_many(keys).positions) == SEGMENTS for space in spaces)


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def in_a_process(code: str, *values: object) -> str:
    head = "import sys, resource; from tests.test_open_files import *; "
    command = [sys.executable, "-c", head + code, *map(str, values)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert not done.returncode, done.stderr
    assert "kura" not in done.stderr
    return done.stdout


def test_many_tenants_leave_the_program_its_descriptors(tmp_path: Path) -> None:
    """Ninety of them, five files each, where the system allows 200: without a bound none would be left."""
    fill(ArrowStore(tmp_path), 90)
    code = """
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
store, before = ArrowStore(sys.argv[1]), descriptors()
for _ in range(3):
    assert all_found(store, 90)
    assert descriptors() - before <= 50 + SEGMENTS, descriptors()
    files = [open("/dev/null") for _ in range(100)]
    for file in files:
        file.close()
"""
    in_a_process(code, tmp_path)


def test_the_bound_is_over_all_stores(tmp_path: Path) -> None:
    for number in range(20):
        fill(ArrowStore(tmp_path / str(number)), 1)
    code = """
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
before = descriptors()
stores = [ArrowStore(f"{sys.argv[1]}/{number}") for number in range(20)]
assert all(all_found(store, 1) for store in stores)
assert descriptors() - before <= 25 + SEGMENTS
"""
    in_a_process(code, tmp_path)


def test_a_model_with_more_segments_than_the_bound_is_served(tmp_path: Path) -> None:
    fill(ArrowStore(tmp_path), 12)
    code = """
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from kura_cache_adapters._segments import merge
merge.MERGE_FACTOR = 1000
store = ArrowStore(sys.argv[1])
space = store.space(tenant(99))
for at in range(30):
    space.put_many([key_of(at)], vectors_of([at]), durable=False)
for _ in range(3):
    assert all_found(store, 12)
    assert len(space.get_many([*map(key_of, range(30))]).positions) == 30
print(space.stats().parts)
"""
    assert int(in_a_process(code, tmp_path)) > 16


def test_where_descriptors_run_out_others_files_are_closed_first(tmp_path: Path) -> None:
    """The program has taken nearly all, within the bound of ours."""
    fill(ArrowStore(tmp_path), 6)
    code = """
resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))
files = [open("/dev/null") for _ in range(120 - descriptors() - 3 * SEGMENTS)]
store = ArrowStore(sys.argv[1])
assert all(all_found(store, 6) for _ in range(2))
"""
    in_a_process(code, tmp_path)


def test_what_was_closed_longest_ago_is_what_was_used_longest_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_bound", lambda: 3 * SEGMENTS)
    pool._holders.clear()
    store = ArrowStore(tmp_path)
    fill(store, 5)
    for number in (0, 1, 2, 0, 3, 4):
        store.space(tenant(number))._listing._stale_at = 0
        store.space(tenant(number)).get_many([*map(key_of, range(SEGMENTS))])
    assert [bool(store.space(tenant(number))._listing.open) for number in range(5)] == [
        True,
        False,
        False,
        True,
        True,
    ]


def test_a_forked_child_has_its_own_bound(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    fill(ArrowStore(tmp_path), 30)
    code = """
import warnings; warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
store = ArrowStore(sys.argv[1])
assert all_found(store, 30)
pid = os.fork()
assert all_found(store, 30)
if not pid:
    os._exit(descriptors() > 70)
assert os.waitpid(pid, 0)[1] == 0
assert all_found(store, 30) and descriptors() <= 70
"""
    in_a_process(code, tmp_path)
