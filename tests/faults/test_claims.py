"""Processes that want the same texts at once: each is paid for once, and nobody waits for the dead."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import ArrowStore, CachedEmbeddingModel, CacheOptions, TieredStore
from kura_cache_adapters._core.fail_open import FailOpenSpace
from kura_cache_adapters._core.sharing import Sharing
from kura_cache_adapters._disk import locks
from kura_cache_adapters._segments import claims
from kura_cache_adapters.testing import FakeEmbeddingModel
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of
from tests.faults.claimants import Paid, PaidInThread, opened, paid, paid_by, want, want_in_threads
from tests.faults.crowd import processes, start
from tests.faults.fault_lab import FORMATS, TIERS, WAYS, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from kura_cache_adapters.protocols import Hits

if os.name != "posix":
    pytest.skip("claims need flock", allow_module_level=True)

TEXTS = [f"text {number}" for number in range(100)]
MANY = [f"text {number}" for number in range(1500)]
FAKE = FakeEmbeddingModel()
QUICK = {*FORMATS, *TIERS}
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def all_end(started: list[BaseProcess]) -> None:
    for process in started:
        process.join(60)
        process.kill()
        assert process.exitcode == 0


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def claims_in(path: Path) -> list[Path]:
    return [claim for claim in path.rglob(".claims/*") if claim.name != "gate"]


@pytest.fixture
def owner(tmp_path: Path) -> BaseProcess:
    """Start a process that has claimed the texts and takes a minute to embed them."""
    process = start(want, "arrow", tmp_path, TEXTS, 60.0)
    until(lambda: len(paid(tmp_path / "bill")) == len(TEXTS))
    return process


def seconds_of(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


@pytest.mark.parametrize(
    "way",
    [way if way in QUICK else pytest.param(way, marks=pytest.mark.long) for way in WAYS],
)
def test_two_processes_that_want_the_same_1500_texts_pay_for_1500(way: str, tmp_path: Path) -> None:
    together = processes.Barrier(2)
    all_end([start(want, way, tmp_path, MANY, 0.02, 100, together) for _ in range(2)])
    assert sorted(paid(tmp_path / "bill")) == sorted(MANY)
    assert Ledger(way, tmp_path / "cache", "claims: two processes want the same texts").audit(MANY).good
    assert claims_in(tmp_path) == []


def test_four_workers_that_want_the_same_100_texts_pay_for_100(tmp_path: Path) -> None:
    together = processes.Barrier(4)
    all_end([start(want, "arrow", tmp_path, TEXTS, 0.3, 256, together) for _ in range(4)])
    assert sorted(paid(tmp_path / "bill")) == sorted(TEXTS)


@pytest.mark.parametrize("way", ["arrow", "memory, arrow"])
def test_threads_of_two_processes_pay_once_too(way: str, tmp_path: Path) -> None:
    together = processes.Barrier(8)
    all_end([start(want_in_threads, way, tmp_path, TEXTS, 0.05, together) for _ in range(2)])
    assert sorted(paid(tmp_path / "bill")) == sorted(TEXTS)


def test_two_that_fill_one_cache_divide_the_work(tmp_path: Path) -> None:
    together = processes.Barrier(2)
    all_end([start(want, "arrow", tmp_path, TEXTS, 0.05, 5, together) for _ in range(2)])
    shares = paid_by(tmp_path / "bill").values()
    assert sum(shares) == len(TEXTS)
    assert len(shares) == 2
    assert min(shares) >= 25


def test_who_waits_for_a_process_that_is_killed_goes_on_at_once(tmp_path: Path, owner: BaseProcess) -> None:
    cached = opened("arrow", tmp_path)
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(cached.embed_sync(TEXTS)))
    waiting.start()
    time.sleep(0.5)
    assert len(paid(tmp_path / "bill")) == len(TEXTS)
    owner.kill()
    assert seconds_of(lambda: waiting.join(30)) < 10
    assert answers == [FAKE.lists(TEXTS)]
    assert Ledger("arrow", tmp_path / "cache", "claims: the owner is killed").audit(TEXTS).good
    assert claims_in(tmp_path) == []


def test_a_process_that_is_stopped_is_waited_for_so_long_and_no_longer(
    tmp_path: Path, owner: BaseProcess
) -> None:
    assert owner.pid is not None
    os.kill(owner.pid, signal.SIGSTOP)
    cached = opened("arrow", tmp_path, patience=1.5)
    half = len(TEXTS) // 2
    assert 1.5 < seconds_of(lambda: cached.embed_sync(TEXTS[:half])) < 10
    assert seconds_of(lambda: cached.embed_sync(TEXTS[half:])) < 1.5  # nobody is waited for in vain twice
    assert cached.embed_sync(TEXTS) == FAKE.lists(TEXTS)
    os.kill(owner.pid, signal.SIGCONT)
    owner.kill()
    assert Ledger("arrow", tmp_path / "cache", "claims: the owner is stopped").audit(TEXTS).good


async def test_waiting_holds_no_loop_and_ends_with_its_caller(tmp_path: Path, owner: BaseProcess) -> None:
    cached = opened("arrow", tmp_path)
    waiting = asyncio.ensure_future(cached.embed(TEXTS))
    longest = 0.0
    for _ in range(50):
        before = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - before)
    assert longest < 1
    assert await cached.embed(["another text"]) == FAKE.lists(["another text"])
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(paid(tmp_path / "bill")) == len(TEXTS) + 1
    owner.kill()
    assert await cached.embed(TEXTS) == FAKE.lists(TEXTS)


def test_what_fails_or_is_left_is_given_up_at_once(tmp_path: Path) -> None:
    one, two = opened("arrow", tmp_path), opened("arrow", tmp_path)
    model: Any = one.embedding_model
    model.fault = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError) as raised:
        one.embed_sync(TEXTS)
    assert seconds_of(lambda: two.embed_sync(TEXTS)) < 10
    assert raised.value.__traceback__ is not None  # whoever keeps the error keeps no claim

    async def leave() -> None:
        model.fault = "stall"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(one.embed(["left"]), 0.1)

    asyncio.run(leave())
    assert seconds_of(lambda: two.embed_sync(["left"])) < 10


@forks
def test_a_child_of_the_owner_holds_nothing(tmp_path: Path) -> None:
    def own_and_fork() -> None:
        cached = opened("arrow", tmp_path, 60)
        threading.Thread(target=cached.embed_sync, args=(TEXTS,), daemon=True).start()
        until(lambda: claims_in(tmp_path) and paid(tmp_path / "bill"))
        if not os.fork():
            until((tmp_path / "done").exists)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    if not (parent := os.fork()):
        own_and_fork()
    os.waitpid(parent, 0)
    assert len(claims_in(tmp_path)) == 1
    assert seconds_of(lambda: opened("arrow", tmp_path).embed_sync(TEXTS)) < 10
    (tmp_path / "done").touch()


@forks
def test_a_forked_child_waits_for_what_its_parent_is_embedding(tmp_path: Path) -> None:
    cached = opened("arrow", tmp_path, 0.5)
    embedding = threading.Thread(target=cached.embed_sync, args=(TEXTS,))
    embedding.start()
    until(lambda: paid(tmp_path / "bill"))
    child = multiprocessing.get_context("fork").Process(target=cached.embed_sync, args=(TEXTS,))
    child.start()
    all_end([child])
    embedding.join()
    assert len(paid(tmp_path / "bill")) == len(TEXTS)


@pytest.mark.parametrize("model", [Paid, PaidInThread])
def test_a_cache_around_a_cache_of_the_same_directory_does_not_wait_for_itself(
    model: type[Paid], tmp_path: Path
) -> None:
    inner = CachedEmbeddingModel(model(tmp_path / "bill"), tmp_path / "cache")
    outer = CachedEmbeddingModel(inner, tmp_path / "cache")
    assert seconds_of(lambda: outer.embed_sync(TEXTS)) < 10
    assert asyncio.run(outer.embed(["more"])) == FAKE.lists(["more"])
    assert sorted(paid(tmp_path / "bill")) == sorted([*TEXTS, "more"])


@pytest.mark.parametrize("refusal", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.EIO, None])
def test_where_there_are_no_locks_nobody_waits_and_nothing_is_claimed(
    refusal: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        LOCK_EX = LOCK_SH = LOCK_NB = LOCK_UN = 0

        def flock(self, *_: int) -> None:
            raise OSError(refusal, "no locks here")

    monkeypatch.setattr(locks, "fcntl", None if refusal is None else Refusing())
    one, two = opened("arrow", tmp_path), opened("arrow", tmp_path)
    model: Any = one.embedding_model
    model.fault = "stall"
    stalled = threading.Thread(target=one.embed_sync, args=(TEXTS,))
    stalled.start()
    until(lambda: paid(tmp_path / "bill"))
    assert claims_in(tmp_path) == []
    assert seconds_of(lambda: two.embed_sync(TEXTS)) < 10
    model.fault = None
    stalled.join()
    ledger = Ledger("arrow", tmp_path / "cache", "claims: locks are refused")
    assert ledger.audit(TEXTS).good


def test_who_is_told_not_to_wait_claims_nothing(tmp_path: Path, owner: BaseProcess) -> None:
    cached = opened("arrow", tmp_path, patience=0)
    assert seconds_of(lambda: cached.embed_sync(TEXTS)) < 10
    assert len(claims_in(tmp_path)) == 1
    owner.kill()


def gone(directory: Path) -> Path:
    directory.rmdir()
    return directory


CLAIM = "0123456789abcdef"
IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "a file in place of the directory": lambda path: gone(path).write_bytes(b""),
    "a link in place of the directory": lambda path: gone(path).symlink_to(path.parent.parent),
    "a gate that is a directory": lambda path: (path / "gate").mkdir(),
    "a gate that is a FIFO": lambda path: os.mkfifo(path / "gate"),
    "a gate that is a link": lambda path: (path / "gate").symlink_to(path.parent / "_identity.json"),
    "an odd gate": lambda path: (path / "gate").write_bytes(b"\xff" * 77),
    "a FIFO": lambda path: os.mkfifo(path / CLAIM),
    "a directory": lambda path: (path / CLAIM).mkdir(),
    "a link": lambda path: (path / CLAIM).symlink_to(path.parent),
    "odd bytes": lambda path: (path / CLAIM).write_bytes(b"x" * 77),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_lies_where_claims_are_to_be_stops_nobody(what: str, tmp_path: Path, caplog: Any) -> None:
    opened("arrow", tmp_path).embed_sync(["first"])
    (space,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    (space / ".claims" / "gate").unlink()
    IN_THE_WAY[what](space / ".claims")
    cached = opened("arrow", tmp_path)
    assert seconds_of(lambda: cached.embed_sync(TEXTS)) < 10
    assert cached.stats.save_failures == cached.stats.load_failures == 0
    assert Ledger("arrow", tmp_path / "cache", "claims: something is in the way").audit(TEXTS).good
    assert caplog.records == []


def test_a_gate_that_somebody_keeps_shut_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_PATIENCE", 1)
    opened("arrow", tmp_path).embed_sync(["first"])
    (gate,) = tmp_path.rglob(".claims/gate")
    cached = opened("arrow", tmp_path)
    with gate.open("rb") as file:
        assert locks.lock_file(file.fileno())
        assert seconds_of(lambda: cached.embed_sync(["a"])) < 10
        assert seconds_of(lambda: cached.embed_sync(["b"])) < 1


def test_a_hit_asks_for_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = opened("memory, arrow", tmp_path)
    cached.embed_sync(TEXTS)
    monkeypatch.setattr(claims.Claims, "claim", lambda *_: pytest.fail("a hit has claimed"))
    assert cached.embed_sync(TEXTS) == FAKE.lists(TEXTS)
    assert cached.missing(["else"]) == [0]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc lists descriptors")
def test_claims_leave_no_descriptor_open(tmp_path: Path) -> None:
    cached = opened("arrow", tmp_path, chunk_size=7)
    cached.embed_sync(["first"])
    cached.cache.close()  # type: ignore[union-attr]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    cached.embed_sync(TEXTS)
    cached.cache.close()  # type: ignore[union-attr]
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # noqa: PTH208
    assert claims_in(tmp_path) == []


def test_the_slowest_tier_that_has_claims_has_those_of_all(tmp_path: Path) -> None:
    slow = ArrowStore(tmp_path / "slow")
    store = TieredStore(ArrowStore(tmp_path / "fast"), slow)
    space, identity = opened("arrow", tmp_path), opened("arrow", tmp_path).identity()
    keys = [bytes.fromhex(space.cache_key(text)) for text in TEXTS]
    claim = store.space(identity).claim(keys)
    assert claim is not None
    other = ArrowStore(tmp_path / "slow").space(identity).claim([*keys, bytes(31) + b"1"])
    assert other is not None
    assert list(other.keys) == [bytes(31) + b"1"]
    claim.release(keys[:40])
    again = slow.space(identity).claim(keys)
    assert again is not None
    assert list(again.keys) == keys[:40]


@pytest.mark.parametrize("one_store", [True, False], ids=["one store", "two stores"])
def test_who_claims_late_finds_what_was_stored_between_its_look_and_its_claim(
    one_store: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    late_store = ArrowStore(tmp_path / "cache")
    late = CachedEmbeddingModel(FakeEmbeddingModel(), late_store)
    other = CachedEmbeddingModel(FakeEmbeddingModel(), late_store if one_store else tmp_path / "cache")
    late.embed_sync(["before"])
    space = late_store.space(late.identity())
    get_many, looked, stored = space.get_many, threading.Event(), threading.Event()

    def look_and_wait(keys: Iterable[bytes]) -> Hits:
        hits = get_many(keys)
        if not looked.is_set():
            looked.set()
            assert stored.wait(30)
        return hits

    space.get_many = look_and_wait  # type: ignore[method-assign]
    embedding = threading.Thread(target=late.embed_sync, args=(["a"],))
    embedding.start()
    assert looked.wait(30)
    other.embed_sync(["a"])
    stored.set()
    embedding.join()
    model: Any = late.embedding_model
    assert model.texts == ["before"]


def test_what_others_have_stored_is_found_also_where_another_call_here_has_claimed_it(tmp_path: Path) -> None:
    """Two calls here wait for another process; one has just claimed its text when the other looks."""

    def of_a_process() -> tuple[FailOpenSpace, Sharing]:
        store = ArrowStore(tmp_path)
        space = FailOpenSpace(store, IDENTITY, lambda _: None, durable=True)
        return space, Sharing(space, patience=60)

    (_, here), (space, there) = of_a_process(), of_a_process()
    begun = time.perf_counter()
    theirs = there.take([key_of(1)], since=begun)
    assert here.take([key_of(1)], since=begun).theirs == {key_of(1)}
    space.save([key_of(1)], vectors_of([1]))
    there.release(theirs.keys)
    claimed = here.take([key_of(1)], since=time.perf_counter() + 60)  # which has not looked yet
    assert [*claimed.claim.keys] == [key_of(1)]  # type: ignore[union-attr]
    found = here.take([key_of(1)], since=begun).found
    assert found is not None
    assert found[0] == [key_of(1)]


def test_patience_is_a_number_of_seconds() -> None:
    with pytest.raises(ValueError, match="wait_for_others"):
        CacheOptions(wait_for_others=-1)
    with pytest.raises(ValueError, match="wait_for_others"):
        CacheOptions(wait_for_others=float("nan"))
