"""A mirror in an object store: what is paid for on one machine is paid for on all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("obstore", reason="needs the extra `object-store`")
pytest.importorskip("moto.server", reason="needs moto[server], an S3 server")

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    CacheOptions,
    Guarded,
    HFDatasetStore,
    JSONLStore,
    MemoryStore,
    MirroredStore,
    ParquetStore,
    UnreachableError,
    UnsupportedError,
    open_cache,
    open_store,
)
from kura_cache_adapters._mirror import keeper, ledger
from kura_cache_adapters._mirror.bucket import Bucket
from kura_cache_adapters._mirror.plan import Names
from kura_cache_adapters._mirror.space import SpaceMirror
from kura_cache_adapters._segments import lineage
from kura_cache_adapters.receipts import SpaceSync
from kura_cache_adapters.stores.mirror import mirrored_at
from kura_cache_adapters.testing import FakeEmbeddingModel, StoreContract
from tests.object_stores import FIRST, OTHERS, object_servers
from tests.test_concurrency import in_child
from tests.test_remote import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from kura_cache_adapters.protocols import EmbeddingStore
    from tests.object_stores import ObjectServer

TEXTS = [f"text {number}" for number in range(50_000)]
FEW = TEXTS[:40]


LONG = {name: pytest.param(name, marks=pytest.mark.long) for name in OTHERS}
SERVERS = [FIRST, *LONG.values()]

running = pytest.fixture(scope="module")(object_servers)


@pytest.fixture(params=SERVERS)
def server(
    running: Callable[[str], ObjectServer], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> ObjectServer:
    return running(request.param).introduce(monkeypatch)


@pytest.fixture
def s3(server: ObjectServer) -> str:
    """Return the URL of an empty prefix on a real server."""
    return server.url(server.new_bucket())


@pytest.fixture(params=["file", *SERVERS])
def url(
    running: Callable[[str], ObjectServer],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/there"
    server = running(request.param).introduce(monkeypatch)
    return server.url(server.new_bucket())


def embed(cache: Any, texts: list[str], dimension: int = 8, chunk: int | None = None) -> int:
    """Embed, in calls of so many texts, and return how many were paid for."""
    model = FakeEmbeddingModel(dimension=dimension)
    step = chunk or len(texts)
    with CachedEmbeddingModel(model, cache) as cached:
        for start in range(0, len(texts), step):
            part = texts[start : start + step]
            found = cached.embed_array_sync(part)
            wanted = FakeEmbeddingModel(dimension=dimension).array(part[:100])
            assert found[:100].tobytes() == wanted.tobytes()
    return len(model.texts)


def space_in(cache: Path) -> Path:
    (space,) = (path for path in cache.iterdir() if path.is_dir())
    return space


def segments(space: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in space.iterdir() if lineage.NAME.fullmatch(path.name)}


def objects(bucket: Path) -> dict[str, bytes]:
    return {str(path.relative_to(bucket)): path.read_bytes() for path in bucket.rglob("*") if path.is_file()}


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("order", ["aba", "bab"])
def test_what_two_machines_pay_apart_neither_pays_again_whatever_the_order(
    s3: str, tmp_path: Path, order: str
) -> None:
    url, half = (s3, 25_000) if order == "aba" else (f"file://{tmp_path}/there", 2_500)
    for machine, texts in (("a", TEXTS[:half]), ("b", TEXTS[-half:])):
        assert embed(tmp_path / machine, texts) == half
    for machine in order:
        with open_cache(tmp_path / machine) as cache:
            assert not cache.sync(url).refused
    both = TEXTS[:half] + TEXTS[-half:]
    assert [embed(tmp_path / machine, both) for machine in ("a", "b")] == [0, 0]


def test_an_object_store_in_a_list_is_pulled_at_the_first_look_up_and_pushed_to_after_writes(
    url: str, tmp_path: Path
) -> None:
    assert embed([str(tmp_path / "a"), url], FEW) == 40
    assert embed([tmp_path / "b", url], FEW) == 0
    model = FakeEmbeddingModel()
    with CachedEmbeddingModel(model, [MemoryStore(), str(tmp_path / "c"), url]) as cached:
        cached.embed_sync(FEW)
    assert not model.calls


def test_a_running_program_finds_what_others_push_meanwhile(url: str, tmp_path: Path) -> None:
    every = f"{url}{'&' if '?' in url else '?'}every=0.05"
    model = FakeEmbeddingModel()
    with CachedEmbeddingModel(model, [tmp_path / "a", every]) as cached:
        cached.embed_sync(["mine"])
        assert embed([tmp_path / "b", url], FEW) == 40
        end = time.monotonic() + 10
        while cached.missing(FEW) and time.monotonic() < end:
            cached.embed_sync(["mine"])
            time.sleep(0.02)
        cached.embed_sync(FEW)
    assert model.texts == ["mine"]


def test_each_file_is_put_once_and_what_is_there_costs_one_list(
    server: ObjectServer, s3: str, tmp_path: Path
) -> None:
    embed(tmp_path / "a", TEXTS[:2_000], chunk=100)
    files = len(segments(space_in(tmp_path / "a")))
    with open_cache(tmp_path / "a") as cache:
        receipt = cache.push(s3)
        assert receipt.pushed == server.asked["PUT"] - 1 == files  # and whose they are
        server.reset()
        assert cache.push(s3).pushed == 0
    assert dict(server.asked) == {"GET": 1}


@pytest.mark.parametrize(
    ("server", "conditions"),
    [
        *((FIRST, known) for known in ("kept", "ignored", "refused")),
        *(pytest.param(name, "kept", marks=pytest.mark.long) for name in OTHERS),
    ],
    indirect=["server"],
)
def test_two_that_push_the_same_at_once_cannot_conflict_whatever_a_server_knows_of_conditions(
    server: ObjectServer, s3: str, tmp_path: Path, conditions: str
) -> None:
    server.conditions = conditions
    embed(tmp_path / "a", TEXTS[:1_000], chunk=100)
    mine = segments(space_in(tmp_path / "a"))
    server.before = lambda _: time.sleep(0.01)
    with open_cache(tmp_path / "a") as one, open_cache(tmp_path / "a") as other:
        threads = [threading.Thread(target=each.push, args=[s3]) for each in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.before = None
        again = mirrored_at(one.store, s3).bucket
        names = again.list(space_in(tmp_path / "a").name)
        assert mine.keys() == names.keys() - {"_identity.json"}
        one.store.close()
    with open_cache(tmp_path / "b") as new:
        assert new.pull(s3).pulled == len(mine)
    assert segments(space_in(tmp_path / "b")) == mine


def test_what_is_new_comes_down_once_for_all_processes_of_a_machine(
    server: ObjectServer, s3: str, tmp_path: Path
) -> None:
    embed(tmp_path / "a", TEXTS[:500], chunk=100)
    embed(tmp_path / "b", ["mine"])
    pulled: list[int] = []
    with open_cache(tmp_path / "a") as cache:
        files = cache.push(s3).pushed
    server.before = lambda _: time.sleep(0.02)

    def pull() -> None:
        with open_cache(tmp_path / "b") as cache:
            pulled.append(cache.pull(s3).pulled)

    threads = [threading.Thread(target=pull) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pulled) == [0, 0, 0, files]


@pytest.mark.parametrize("command", ["push", "pull"])
def test_a_sync_that_is_killed_goes_on_where_it_was(
    server: ObjectServer, s3: str, tmp_path: Path, command: str
) -> None:
    embed(tmp_path / "a", TEXTS[:6_000], dimension=256, chunk=2_000)
    mine = segments(space_in(tmp_path / "a"))
    with open_cache(tmp_path / "a") as cache:
        if command == "pull":
            cache.push(s3)
    server.before = lambda _: time.sleep(0.1)
    here = tmp_path / ("a" if command == "push" else "b")
    program = [sys.executable, "-m", "kura_cache_adapters", command, s3, "--cache", str(here)]
    running = subprocess.Popen(program, env=os.environ)
    method, before = ("PUT", 3) if command == "push" else ("GET", 4)
    server.reset()
    server.before = lambda _: time.sleep(0.1)
    while server.asked[method] < before and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    server.reset()
    if command == "pull" and here.exists():
        assert segments(space_in(here)).items() <= mine.items()  # none is half there
    with open_cache(here) as cache:
        assert not getattr(cache, command)(s3).refused
    with open_cache(tmp_path / "c") as cache:
        cache.pull(s3)
    assert segments(space_in(tmp_path / "c")) == mine
    assert embed(here, TEXTS[:6_000], dimension=256) == 0


def test_what_was_merged_is_not_taken_down_again_and_newcomers_take_it_instead(
    url: str, tmp_path: Path
) -> None:
    with open_cache(tmp_path / "a") as one, open_cache(tmp_path / "b") as other:
        for start in range(0, 2_000, 100):
            embed(tmp_path / "a", TEXTS[start : start + 100])
            one.sync(url)
            other.sync(url)
        one.compact()
        assert (one.sync(url).pulled, other.sync(url).pulled) == (0, 0)
        other.compact()
        assert (other.pull(url).pulled, other.push(url).pushed) == (0, 0)
    with open_cache(tmp_path / "c") as new:
        assert new.pull(url).pulled < 10
        assert new.pull(url).pulled == 0
    assert embed(tmp_path / "c", TEXTS[:2_000]) == 0


def test_many_machines_that_merge_what_they_share_do_not_fill_the_bucket(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    for turn in range(4):
        for machine in "abc":
            texts = [f"{machine} {turn} {number}" for number in range(500)]
            assert embed([tmp_path / machine, url], texts, dimension=64, chunk=50) == 500
    rows = 6_000 * (64 * 4 + 48)
    assert sum(map(len, objects(tmp_path / "there").values())) < 3.5 * rows
    assert embed([tmp_path / "d", url], [f"a {turn} 7" for turn in range(4)], dimension=64) == 0


def test_what_is_forgotten_is_so_on_every_machine_and_gone_from_the_bucket_when_that_is_pruned(
    url: str, tmp_path: Path
) -> None:
    doomed = bytes.fromhex(CachedEmbeddingModel(FakeEmbeddingModel(), None).cache_key(FEW[3]))
    embed(tmp_path / "a", FEW)
    with open_cache(tmp_path / "a") as one, open_cache(tmp_path / "b") as other:
        one.push(url)
        other.pull(url)
        one.forget([doomed])
        one.sync(url)
        other.sync(url)
        assert doomed not in set(other.keys(other.spaces()[0]))
        rows = [content for name, content in segments(space_in(tmp_path / "b")).items() if "." in name]
        assert all(doomed not in content for content in rows)
        with open_cache(tmp_path / "c") as new:
            new.pull(url)
            assert doomed not in set(new.keys(new.spaces()[0]))
        assert other.prune(remote=url, dry_run=True).parts == 1
        assert other.prune(remote=url).parts == 1
        assert one.sync(url).pushed == 0
    with open_cache(tmp_path / "d") as new:
        new.pull(url)
        held = [content for name, content in segments(space_in(tmp_path / "d")).items() if "." in name]
        assert held
        assert all(doomed not in content for content in held)
    assert [embed(tmp_path / name, FEW) for name in "abd"] == [1, 1, 1]


def test_what_a_killed_pull_has_not_rewritten_the_next_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/there"
    embed(tmp_path / "a", FEW)
    with open_cache(tmp_path / "a") as one, open_cache(tmp_path / "b") as other:
        one.push(url)
        other.pull(url)
        doomed = next(iter(one.keys(one.spaces()[0])))
        one.forget([doomed])
        one.push(url)
        with monkeypatch.context() as killed:
            killed.setattr(SpaceMirror, "_sweep", interrupt)
            with pytest.raises(KeyboardInterrupt):
                other.pull(url)
        other.pull(url)
    assert all(doomed not in path.read_bytes() for path in space_in(tmp_path / "b").glob("0*"))


def test_a_file_of_which_all_is_forgotten_leaves_the_bucket_too(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    embed(tmp_path / "a", ["one"])
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
        cache.forget([*cache.keys(cache.spaces()[0])])
        assert cache.prune(remote=url).parts == 1
    assert not [name for name in objects(tmp_path / "there") if name.endswith(".arrow")]


def test_a_text_that_was_stored_anew_is_found_by_newcomers_when_the_bucket_is_pruned(tmp_path: Path) -> None:
    url, there = f"file://{tmp_path}/there", tmp_path / "there"
    cache = [str(tmp_path / "a"), url]
    with CachedEmbeddingModel(FakeEmbeddingModel(), cache) as cached:
        cached.embed_sync(FEW)
        cached.forget(FEW[:1])
        until(lambda: [*there.rglob("_forgotten-*")])
    assert embed(cache, FEW) == 1
    with open_cache(tmp_path / "a") as opened:
        opened.prune(remote=url)
    assert embed([tmp_path / "b", url], FEW) == 0


def test_a_receipt_of_forgetting_says_that_the_bucket_is_not_reached(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    with CachedEmbeddingModel(FakeEmbeddingModel(), [tmp_path / "a", url]) as cached:
        cached.embed_sync(FEW)
        receipt = cached.forget(FEW[:1])
    assert [trouble.where for trouble in receipt.unreachable] == [url]
    assert "prune --remote" in receipt.unreachable[0].why
    assert embed([tmp_path / "b", url], FEW) == 1  # the tombstone was pushed


def test_a_receipt_of_forgetting_knows_of_what_the_bucket_has_and_this_machine_has_not(
    tmp_path: Path,
) -> None:
    url = f"file://{tmp_path}/there"
    embed([tmp_path / "a", url], FEW)

    def reached(texts: list[str], machine: str = "a") -> list[str]:
        with CachedEmbeddingModel(FakeEmbeddingModel(), [tmp_path / machine, url]) as cached:
            return [trouble.where for trouble in cached.forget(texts).unreachable]

    assert reached(FEW[:1], "b") == [url]  # not pulled before
    assert reached(["never there"]) == []
    with open_cache(tmp_path / "a") as cache:
        cache.prune(max_bytes=0)
    assert reached(FEW[1:2]) == [url]


def test_a_receipt_of_forgetting_knows_that_what_is_there_was_not_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, listed = f"file://{tmp_path}/there", Bucket.list
    embed([tmp_path / "a", url], FEW)

    def refuse_once(bucket: Bucket, _: str) -> None:
        monkeypatch.setattr(Bucket, "list", listed)
        raise UnreachableError(bucket.url)

    def reached(cache: list[Any]) -> list[str]:
        with CachedEmbeddingModel(FakeEmbeddingModel(), cache) as cached:
            cached.embed_sync(["new"])
            until(lambda: [*(tmp_path / "there").rglob("000000001-*.arrow")])
            return [trouble.where for trouble in cached.forget(FEW[:1]).unreachable]

    assert reached([ArrowStore(tmp_path / "b", max_bytes=1000), url]) == [url]  # it has no room for them
    monkeypatch.setattr(Bucket, "list", refuse_once)
    monkeypatch.setattr(keeper, "_PAUSE", 0.0)
    assert reached([tmp_path / "c", url]) == [url]  # one push that succeeds says nothing of it


def test_nothing_is_deleted_there_but_by_prune(tmp_path: Path) -> None:
    url, there = f"file://{tmp_path}/there", tmp_path / "there"
    embed(tmp_path / "a", TEXTS[:1_000], chunk=100)
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
        before = objects(there)
        cache.compact()
        cache.forget([*cache.keys(cache.spaces()[0])][:5])
        cache.clear()
        cache.sync(url)
    assert before.items() <= objects(there).items()


def test_prune_leaves_there_what_nobody_else_holds(tmp_path: Path) -> None:
    url, there = f"file://{tmp_path}/there", tmp_path / "there"
    embed(tmp_path / "a", TEXTS[:1_000], chunk=100)
    embed(tmp_path / "b", TEXTS[1_000:1_100])
    with open_cache(tmp_path / "b") as other:
        other.push(url)
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
        before = objects(there)
        cache.compact()
        planned = cache.prune(remote=url, dry_run=True)
        assert objects(there) == before
        done = cache.prune(remote=url)
        assert done.parts >= planned.parts > 0  # what came down was merged, too
        assert (planned.dry_run, done.dry_run) == (True, False)
    assert len([name for name in objects(there) if name.endswith(".arrow")]) < len(before) - done.parts + 3
    assert embed([tmp_path / "c", url], TEXTS[:1_100]) == 0


def test_two_that_prune_at_once_leave_there_what_both_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, pushed, listed = f"file://{tmp_path}/there", threading.Barrier(2), threading.Barrier(2)
    push, delete, begun = SpaceMirror.push, Bucket.delete, threading.Event()

    def push_and_wait(mirror: SpaceMirror, *told: Any) -> Any:
        done = push(mirror, *told)
        if not pushed.broken:
            pushed.wait(10)
        return done

    def wait_and_delete(bucket: Bucket, *told: Any) -> None:
        if not begun.is_set():
            listed.wait(10)
            pushed.abort()
        delete(bucket, *told)
        begun.set()

    embed(tmp_path / "a", TEXTS[:1_000], chunk=100)
    with open_cache(tmp_path / "a") as one, open_cache(tmp_path / "b") as other:
        one.push(url)
        other.pull(url)
        one.compact()
        other.compact()
        monkeypatch.setattr(SpaceMirror, "push", push_and_wait)
        monkeypatch.setattr(Bucket, "delete", wait_and_delete)
        both = [threading.Thread(target=each.prune, kwargs={"remote": url}) for each in (one, other)]
        for each in both:
            each.start()
        for each in both:
            each.join()
    assert embed([tmp_path / "c", url], TEXTS[:1_000]) == 0


def test_prune_deletes_nothing_that_only_a_lineage_of_somebody_says_to_be_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"file://{tmp_path}/there"
    embed(tmp_path / "a", FEW[:20])
    embed(tmp_path / "b", FEW[20:])
    for machine in "ab":
        with open_cache(tmp_path / machine) as cache:
            cache.push(url)
    (mine,) = (name for name in segments(space_in(tmp_path / "a")) if "." in name)
    (theirs,) = (name for name in segments(space_in(tmp_path / "b")) if "." in name)
    for lie in (f"{theirs} {mine}\n", f"{theirs}\n"):  # made of what is here; all forgotten
        (space_in(tmp_path / "there") / f"_lineage-{theirs}").write_text(lie)
        (space_in(tmp_path / "a") / "_lineage").unlink()
        with open_cache(tmp_path / "a") as cache:
            assert cache.prune(remote=url).parts == 0
        assert f"as {theirs}" in caplog.records[-1].getMessage()
    assert theirs in segments(space_in(tmp_path / "there"))


def test_prune_makes_few_objects_of_many(tmp_path: Path) -> None:
    url, there = f"file://{tmp_path}/there", tmp_path / "there"
    for machine in "ab":
        texts = [f"{machine} {number}" for number in range(60)]
        embed(tmp_path / machine, texts, chunk=10)
        with open_cache(tmp_path / machine) as cache:
            cache.push(url)
    for path in there.rglob("0*.arrow"):
        os.utime(path, (0, time.time() - 4_000))
    embed([tmp_path / "a", url], ["young"])  # others would take all again for it
    with open_cache(tmp_path / "c") as cache:
        assert cache.prune(remote=url).parts == 12
        assert cache.prune(remote=url).parts == 0
    assert sorted(path.name[:9] for path in there.rglob("0*.arrow")) == ["000000001", "000000120"]


def test_prune_deletes_what_was_said_of_files_that_went_when_another_was_killed(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    embed(tmp_path / "a", FEW, chunk=20)
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
        old, young = (space_in(tmp_path / "there") / f"_lineage-000000001-{at * 16}.arrow" for at in "01")
        for path, seconds in ((old, 4_000), (young, 0)):
            path.write_text("")
            os.utime(path, (0, time.time() - seconds))
        cache.compact()
        assert cache.prune(remote=url).parts == 2
    assert (old.exists(), young.exists()) == (False, True)


def test_prune_holds_a_bucket_within_bytes_over_all_models_the_oldest_first(tmp_path: Path) -> None:
    url, there = f"file://{tmp_path}/there", tmp_path / "there"
    for name in ("one", "two", "three", "four"):
        with CachedEmbeddingModel(FakeEmbeddingModel(name), tmp_path / "a") as cached:
            cached.embed_sync(FEW)
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
        for age, name in enumerate(("three", "one", "four", "two")):
            (old,) = there.glob(f"{name}-*/*.arrow")
            os.utime(old, (0, 1_000_000_000 + age))
        most = 2 * old.stat().st_size + 100
        with open_cache(tmp_path / "b") as other:  # which has none of them yet
            assert other.prune(remote=url, max_bytes=most, dry_run=True).parts == 2
        assert cache.prune(remote=url, max_bytes=most).parts == 2
    assert {path.parent.name.partition("-")[0] for path in there.rglob("*.arrow")} == {"two", "four"}


def test_prune_takes_bounds_and_what_went_is_not_pushed_again(tmp_path: Path) -> None:
    url, there = f"file://{tmp_path}/there", tmp_path / "there"
    embed(tmp_path / "a", FEW, chunk=20)
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
        old = min(there.rglob("*.arrow"))
        for path in (old, space_in(tmp_path / "a") / old.name):
            os.utime(path, (0, 0))
        assert cache.prune(remote=url, older_than=3600).parts == 1
        assert not old.exists()
        assert cache.sync(url).pushed == 0
        with pytest.raises(ValueError, match="does not tell what was used"):
            cache.prune(remote=url, unused_for=1)
        assert cache.prune(remote=url, max_bytes=0).parts == 1
        assert cache.sync(url).pushed == 0
        shutil.rmtree(space_in(there))  # a bucket that was emptied is none that was pruned
        assert cache.sync(url).pushed == 2
    assert embed(tmp_path / "a", FEW) == 0


def test_a_bucket_of_the_same_name_on_another_server_is_another(tmp_path: Path) -> None:
    there = tmp_path / "there"
    embed(tmp_path / "a", FEW[:20])
    embed(tmp_path / "b", FEW[20:])
    with open_cache(tmp_path / "a") as one, open_cache(tmp_path / "b") as other:
        assert one.push(f"file://{there}?endpoint=https://staging").pushed == 1
        there.rename(tmp_path / "staging")
        other.push(f"file://{there}")
        assert one.push(f"file://{there}?endpoint=https://production").pushed == 1


def test_what_was_pruned_here_is_not_pulled_again(url: str, tmp_path: Path) -> None:
    embed(tmp_path / "a", FEW)
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
        cache.prune(max_bytes=0)
        assert cache.pull(url).pulled == 0
        cache.clear()
        assert not any((tmp_path / "a").glob("*-*"))
        assert cache.pull(url).pulled == 1  # nothing here says that it was ever here


def test_rows_that_are_damaged_here_are_taken_from_there_again_and_prune_keeps_them(
    url: str, tmp_path: Path
) -> None:
    embed(tmp_path / "a", FEW)
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
        (segment,) = space_in(tmp_path / "a").glob("*.arrow")
        content = bytearray(segment.read_bytes())
        content[-len(content) // 4] ^= 1
        segment.write_bytes(content)
    with open_cache(tmp_path / "a") as cache:
        assert not cache.verify(repair=True).sound or list(space_in(tmp_path / "a").glob("*.damaged"))
        assert not cache.prune(remote=url, dry_run=True).parts
        assert (cache.pull(url).pulled, cache.pull(url).pulled) == (1, 0)
        cache.prune(remote=url)
    assert [embed(cache, FEW) for cache in (tmp_path / "a", [tmp_path / "b", url])] == [0, 0]


def test_what_is_damaged_after_a_merge_is_taken_from_there_by_its_parts(url: str, tmp_path: Path) -> None:
    embed(tmp_path / "a", FEW, chunk=20)
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
        cache.compact()
        (merged,) = space_in(tmp_path / "a").glob("*.arrow")
        content = bytearray(merged.read_bytes())
        content[-len(content) // 4] ^= 1
        merged.write_bytes(content)
    with open_cache(tmp_path / "a") as cache:
        cache.verify(repair=True)
        assert (cache.pull(url).pulled, cache.pull(url).pulled) == (2, 0)
    assert embed(tmp_path / "a", FEW) == 0


def test_what_a_merge_saves_of_a_damaged_file_goes_there_too(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    embed(tmp_path / "a", FEW[:20])
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
        before = segments(space_in(tmp_path / "a"))
    embed(tmp_path / "a", FEW[20:])
    (new,) = segments(space_in(tmp_path / "a")).keys() - before.keys()
    content = bytearray((space_in(tmp_path / "a") / new).read_bytes())
    content[-len(content) // 4] ^= 1
    (space_in(tmp_path / "a") / new).write_bytes(content)
    with open_cache(tmp_path / "a") as cache:
        cache.compact()
        cache.push(url)
    assert embed([tmp_path / "b", url], FEW) == 1


def test_what_another_process_drops_while_it_is_pulled_is_not_pulled_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/there"
    embed(tmp_path / "a", FEW, chunk=20)
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
    monkeypatch.setattr(SpaceMirror, "_here", lambda _: frozenset())  # as who keeps within bounds leaves it
    with open_cache(tmp_path / "b") as cache:
        assert cache.pull(url).pulled == 2


def test_what_is_pulled_is_kept_within_the_bounds_of_the_directory(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    embed(tmp_path / "a", TEXTS[:500], chunk=100)
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
        nbytes = cache.stats().nbytes
    with open_cache(ArrowStore(tmp_path / "b", max_bytes=nbytes // 2)) as cache:
        assert 0 < cache.pull(url).pulled < 5
        assert cache.stats().nbytes <= nbytes // 2


def test_the_bounds_of_a_directory_are_those_of_all_its_spaces(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    for name in ("one", "two", "three", "four"):
        with CachedEmbeddingModel(FakeEmbeddingModel(name), tmp_path / "a") as cached:
            cached.embed_sync(FEW)
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
        nbytes = cache.stats().nbytes
    with open_cache(ArrowStore(tmp_path / "b", max_bytes=nbytes // 2)) as cache:
        assert cache.pull(url).pulled == 2


def test_identities_and_tombstones_travel_and_nothing_else_that_is_no_segment(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    embed(tmp_path / "a", FEW)
    space = space_in(tmp_path / "a")
    segment = next(space.glob("*.arrow"))
    for name in (f"_{segment.name}.damaged", f".{segment.name}.1-ab.tmp", "notes.txt", "_forgotten-x"):
        (space / name).write_bytes(b"mine")
    (space / ".claims").mkdir(exist_ok=True)
    (space / ".claims" / "claim").write_bytes(b"mine")
    (space / "_answered_by").write_bytes(b"a server's model")
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
    assert {Path(name).name for name in objects(tmp_path / "there")} == {
        segment.name,
        "_identity.json",
        "_answered_by",
    }
    with open_cache(tmp_path / "b") as cache:
        cache.pull(url)
        assert cache.spaces()[0].identity.model_name == "fake"
        assert cache.store.space(cache.spaces()[0].identity).answerer() == "a server's model"  # type: ignore[attr-defined]


@pytest.mark.parametrize("store", [ArrowStore, ParquetStore, JSONLStore])
def test_each_format_of_single_files_has_mirrors_and_takes_only_its_own(
    store: Callable[[Path], Any], tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/there"
    assert embed([ArrowStore(tmp_path / "x"), url], FEW[:5]) == 5
    before = len(objects(tmp_path / "there"))
    paid = embed([store(tmp_path / "a"), url], FEW)
    assert paid == (35 if store is ArrowStore else 40)
    assert len(objects(tmp_path / "there")) == before + 1
    assert embed([store(tmp_path / "b"), url], FEW) == 0


@pytest.mark.parametrize("server", [FIRST], indirect=True)  # whose client here puts names as they are
def test_what_is_not_what_its_name_says_is_refused_and_stays_outside(
    server: ObjectServer, s3: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embed(tmp_path / "a", FEW)
    embed(tmp_path / "a", TEXTS[100:140])
    with open_cache(tmp_path / "a") as cache:
        cache.push(s3)
    space = space_in(tmp_path / "a").name
    first = next(content for content in segments(space_in(tmp_path / "a")).values())
    flipped = bytearray(first)
    flipped[-len(flipped) // 4] ^= 1
    bad = {
        "000000040-" + 16 * "0" + ".arrow": bytes(flipped),  # a row is not its checksum's
        "000000040-" + 16 * "1" + ".arrow": first[: len(first) // 2],
        "000000041-" + 16 * "2" + ".arrow": first,  # another number of rows
        "000000040-" + 16 * "3" + ".arrow": b"garbage",
        "000000040-" + 16 * "4" + ".arrow": b"",
        "000000001-" + 16 * "5" + ".arrow": bytes(3 << 20),  # a row has no three MiB
        "_forgotten-" + 16 * "6": b"kura_cache_adapters forgotten 1\n" + bytes(40),
        "_lineage-000000040-" + 16 * "3" + ".arrow": b"\xff\n" + b"x " * 100 + b"\n",
        "_mirrored-0123456789abcdef": b"mine",
        "a" * 900: b"long",
        "000000040-" + 16 * "8" + ".arrow/x": first,
    }
    spaces = {f"..-{16 * '0'}/_identity.json", "loose", "a/b/c"}
    client, bucket = server.client(), s3.split("/")[2]
    for name, content in bad.items():
        client.put_object(Bucket=bucket, Key=f"team/vectors/{space}/{name}", Body=content)
    for key in spaces:
        client.put_object(Bucket=bucket, Key=f"team/vectors/{key}", Body=b"{}")
    with open_cache(tmp_path / "deep" / "b") as cache:
        receipt = cache.pull(s3)
        assert receipt.pulled == 2
        assert len(receipt.refused) == 5
        assert cache.verify().sound
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"b"}
    assert {path.name for path in (tmp_path / "deep" / "b").iterdir() if path.is_dir()} == {space}
    held = {
        path.name for path in space_in(tmp_path / "deep" / "b").iterdir() if not path.name.startswith("_")
    }
    assert held == {name for name in segments(space_in(tmp_path / "a")) if "." in name}
    assert embed([tmp_path / "c", s3], FEW) == 0
    for key in ("../../up", "/x", "./y"):
        client.put_object(Bucket=bucket, Key=f"team/vectors/{space}/{key}", Body=b"")
    with open_cache(tmp_path / "d") as cache:
        assert cache.pull(s3).pulled == 2
    client.put_object(Bucket=bucket, Key=f"team/vectors/{space}/5/../x", Body=b"")  # among ours
    with open_cache(tmp_path / "d") as cache, pytest.raises(UnreachableError, match=r"invalid path.*/5/\.\."):
        cache.pull(s3)
    assert embed([tmp_path / "e", s3], FEW) == 40
    assert [record.getMessage()[:19] for record in caplog.records] == [
        "Refused 5 files of ",
        "Could not sync with",
    ]


@pytest.mark.parametrize("server", [FIRST], indirect=True)  # whose client here puts names as they are
def test_what_was_refused_is_not_taken_down_again_as_long_as_it_is_as_it_was(
    server: ObjectServer, s3: str, tmp_path: Path
) -> None:
    embed(tmp_path / "a", FEW)
    with open_cache(tmp_path / "a") as cache:
        cache.push(s3)
    space = space_in(tmp_path / "a").name
    put = partial(server.client().put_object, Bucket=s3.split("/")[2])
    false = f"team/vectors/{space}/000000040-{16 * '0'}.arrow"
    put(Key=false, Body=b"garbage")

    def pull() -> tuple[int, int]:
        with open_cache(tmp_path / "b") as cache:
            receipt = cache.pull(s3)
            return len(receipt.refused), receipt.requests.get("get", 0)

    assert [pull(), pull()] == [(1, 3), (0, 0)]
    put(Key=false, Body=b"other garbage")
    assert [pull(), pull()] == [(1, 1), (0, 0)]
    with open_cache(tmp_path / "b") as cache:
        assert cache.pull(s3, dry_run=True).pulled == 0


def test_a_file_that_cannot_be_read_here_keeps_no_other_from_being_pushed(tmp_path: Path) -> None:
    url, elsewhere = f"file://{tmp_path}/there", tmp_path / "elsewhere"
    embed(tmp_path / "a", FEW)
    elsewhere.touch()
    (space_in(tmp_path / "a") / f"000000001-{16 * '0'}.arrow").symlink_to(elsewhere)
    with open_cache(tmp_path / "a") as cache:
        receipt = cache.push(url)
    assert (receipt.pushed, len(receipt.refused)) == (1, 1)
    assert "a symbolic link is not followed" in receipt.refused[0].why


def test_what_lies_beside_and_is_too_long_keeps_no_file_from_being_pulled(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    embed([str(tmp_path / "a"), url], FEW)
    (space_in(tmp_path / "there") / "_answered_by").write_bytes(2000 * b"x")
    assert embed([str(tmp_path / "b"), url], FEW) == 0
    assert not (space_in(tmp_path / "b") / "_answered_by").exists()


def test_vectors_of_another_dimension_do_not_come_between_those_that_are_here(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    embed([tmp_path / "a", url], TEXTS[:100], dimension=4)
    embed(tmp_path / "b", FEW)
    with open_cache(tmp_path / "b") as cache:
        receipt = cache.sync(url)
        assert (receipt.pulled, receipt.pushed, len(receipt.refused)) == (0, 1, 1)
        assert "4 dimensions, and those here 8" in receipt.refused[0].why
    assert embed(tmp_path / "b", FEW) == 0


def test_an_object_that_claims_a_trillion_rows_is_refused(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    embed([tmp_path / "a", url], FEW)
    real = next(space_in(tmp_path / "there").glob("0*.arrow"))
    content = real.read_bytes().replace((40).to_bytes(8, "little"), (1 << 40).to_bytes(8, "little"))
    (real.parent / f"000000040-{16 * '0'}.arrow").write_bytes(content)
    with open_cache(tmp_path / "b") as cache:
        receipt = cache.pull(url)
    assert (receipt.pulled, len(receipt.refused)) == (1, 1)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_object_that_would_expand_beyond_a_gigabyte_is_refused(tmp_path: Path) -> None:
    from tests.faults.crowd import start
    from tests.faults.test_bombs import write_zeros

    url = f"file://{tmp_path}/there"
    embed([ParquetStore(tmp_path / "a"), url], FEW)
    made = space_in(tmp_path / "there") / f"000000001-{16 * '0'}.parquet"
    start(write_zeros, made, 3 << 27).join()  # elsewhere: making it takes gigabytes
    with open_cache(ParquetStore(tmp_path / "b")) as cache:
        receipt = cache.pull(url)
    assert (receipt.pulled, len(receipt.refused)) == (1, 1)


def test_what_there_is_no_room_for_is_not_asked_for_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/there"
    embed([tmp_path / "a", url], FEW)
    usage = shutil.disk_usage(tmp_path)
    with open_cache(tmp_path / "b") as cache:
        with monkeypatch.context() as full:
            full.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
            full.setattr(Bucket, "fetch", None)
            with pytest.raises(OSError, match="No space left"):
                cache.pull(url)
        assert cache.pull(url).pulled == 1


def test_a_lineage_that_lies_costs_what_it_hides_and_nothing_else(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    embed(tmp_path / "a", FEW)
    with open_cache(tmp_path / "a") as cache:
        cache.push(url)
    there = space_in(tmp_path / "there")
    real = next(there.glob("*.arrow")).name
    false = "000000040-" + 16 * "9" + ".arrow"
    (there / false).write_bytes(b"garbage")
    (there / f"_lineage-{false}").write_text(f"{false} {real}\n{real} {false}\n")  # in a circle, too
    with open_cache(tmp_path / "b") as cache:
        cache.pull(url)
        cache.sync(url)
    assert embed(tmp_path / "b", FEW) in {0, 40}


def test_what_is_noted_of_files_does_not_grow_with_all_that_there_ever_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_REMEMBERED", 10)
    monkeypatch.setattr(ledger, "_LONG", 1_000)
    url, sizes = f"file://{tmp_path}/there", list[int]()
    with open_cache(tmp_path / "a") as one, open_cache(tmp_path / "b") as other:
        for turn in range(32):
            embed(tmp_path / "a", [f"{turn}"])
            one.sync(url)
            assert other.sync(url).pulled <= 1  # and none that was merged
            if turn % 4 == 3:
                one.compact()
                one.forget([*one.keys(one.spaces()[0])][:1])
                one.prune(remote=url)
                other.sync(url)
                other.compact()
            for path in tmp_path.glob("[ab]/*/_[lm]i*"):
                sizes.append(len({line.partition(" ")[0] for line in path.read_text().splitlines()}))
    assert max(sizes) < 2 * 10 + 20  # of more than a hundred files that there were
    assert [embed([tmp_path / name, url], ["last"]) for name in "abc"] == [1, 0, 0]


def test_what_a_power_cut_left_of_a_lineage_says_nothing_and_spoils_no_other(tmp_path: Path) -> None:
    names = [f"{rows:09d}-{rows:016x}.arrow" for rows in range(5)]
    whole = f"{' '.join(names[:3])}\n"
    for end in range(len(whole)):
        (tmp_path / "_lineage").write_text(whole[:end])
        lineage.append(tmp_path / "_lineage", f"{names[3]} {names[4]}\n")
        assert lineage.parsed(lineage.read(tmp_path / "_lineage")) == {names[3]: (names[4],)}


@pytest.mark.parametrize("server", [FIRST, LONG["azurite"], LONG["google"]], indirect=True)
def test_forks_read_without_credentials_and_push_nothing(
    server: ObjectServer, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed([tmp_path / "a", s3], FEW)
    assert server.signed
    for name in server.environment.keys() - {"AZURE_STORAGE_ACCOUNT_NAME"}:
        monkeypatch.delenv(name)
    server.publish(s3.split("/")[2])
    server.reset()
    assert embed([tmp_path / "b", f"{s3}&anonymous=true&push=false"], TEXTS[:50]) == 10
    assert dict(server.asked) == {"GET": 3}  # a list, whose it is, and the vectors
    assert not server.signed


@pytest.mark.parametrize("before", [[], ["memory://"]])
def test_a_mirror_is_counted_as_other_tiers_are_and_events_tell_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[str]
) -> None:
    monkeypatch.setattr(keeper, "_PAUSE", 0.0)
    monkeypatch.setattr(keeper, "_GATHERING", 0.01)
    there = tmp_path / "there"
    events: list[Any] = []
    there.write_text("in the way")
    model = CachedEmbeddingModel(
        FakeEmbeddingModel(),
        [*before, tmp_path / "here", f"file://{there}"],
        options=CacheOptions(observers=(events.append,)),
    )

    def tier() -> Any:
        return model.stats.tiers[-1]

    def told(change: str) -> list[Any]:
        return [each.stats for each in events if isinstance(each, Guarded) and each.change == change]

    model.embed_sync(["a", "b"])
    until(lambda: told("open"))
    there.unlink()
    model.embed_sync(["a", "c"])
    until(lambda: tier().mirror.pushed == 2 and told("closed"))
    assert [len(told("open")), len(told("closed"))] == [1, 1]
    assert [told(change)[0].mirror.error == "" for change in ("open", "closed")] == [False, True]
    hits = 0 if before else 1
    assert (tier().hits, tier().misses, tier().remote) == (hits, 4 - 1, False)
    store: Any = model.cache.store if model.cache else None
    assert tier().mirror == (store.stores[-1] if before else store).counts
    assert "pushed 2, pulled 0" in str(tier())


def test_credentials_that_only_read_pull_and_one_warning_says_how_not_to_push(
    server: ObjectServer, s3: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embed([tmp_path / "a", s3], FEW)
    server.denied = {"PUT", "POST", "DELETE"}
    with CachedEmbeddingModel(FakeEmbeddingModel(), [tmp_path / "b", f"{s3}&every=0.05"]) as cached:
        for turn in range(6):
            cached.embed_sync([*FEW[:turn], f"new {turn}"])
            time.sleep(0.2)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert "AccessDenied" in warning
    assert "?push=false" in warning
    with open_cache(tmp_path / "b") as cache, pytest.raises(UnreachableError, match=r"\?push=false"):
        cache.push(s3)


@pytest.mark.parametrize("server", [FIRST], indirect=True)  # whose client here knows of versions
def test_in_a_bucket_that_keeps_versions_what_was_pruned_is_not_found_again(
    server: ObjectServer, s3: str, tmp_path: Path
) -> None:
    client, bucket = server.client(), s3.split("/")[2]
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    embed(tmp_path / "a", FEW)
    with open_cache(tmp_path / "a") as cache:
        cache.push(s3)
        cache.forget([*cache.keys(cache.spaces()[0])][:1])
        assert cache.prune(remote=s3).parts == 1
    assert len(client.list_object_versions(Bucket=bucket)["DeleteMarkers"]) == 1
    assert embed([tmp_path / "b", s3], FEW) == 1


def test_a_store_that_refuses_connections_costs_no_second_one_warning_and_no_answer(
    s3: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        gone = f"s3://bucket/prefix?endpoint=http://127.0.0.1:{nobody.getsockname()[1]}&region=x"
        start = time.monotonic()
        with CachedEmbeddingModel(FakeEmbeddingModel(), [tmp_path / "a", gone]) as cached:
            for text in FEW:
                cached.embed_sync([text])
        assert time.monotonic() - start < 5
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(warnings) == 1
        start = time.monotonic()
        with (
            open_cache(tmp_path / "a") as cache,
            pytest.raises(UnreachableError, match=r"s3://bucket/prefix:"),
        ):
            cache.push(gone)
        assert time.monotonic() - start < 1
    assert embed([tmp_path / "a", s3], FEW) == 0
    assert embed([tmp_path / "b", s3], FEW) == 0  # the next who only looks has pushed what was left


@pytest.mark.usefixtures("s3")
def test_a_server_that_never_answers_is_waited_for_no_longer_than_said(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        mute = f"s3://bucket/prefix?endpoint=http://127.0.0.1:{silent.getsockname()[1]}&region=x&wait=0.3&push=no"
        start = time.monotonic()
        assert embed([tmp_path / "a", mute], FEW) == 40
        assert embed([tmp_path / "a", mute], FEW) == 0
        assert time.monotonic() - start < 3
        code = "import sys; from tests.test_mirror import embed; embed(sys.argv[1:], ['a'])"
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "b"), mute], check=True)
        assert time.monotonic() - start < 10  # it does not wait for an answer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_waits_for_no_pull_or_push_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulling = threading.Event()
    monkeypatch.setattr(SpaceMirror, "sync", lambda *_, **__: pulling.wait(20))
    model = CachedEmbeddingModel(
        FakeEmbeddingModel(), [tmp_path / "here", f"file://{tmp_path}/there?wait=20"]
    )
    store: Any = model.cache.store if model.cache else None
    parent = threading.Thread(target=model.embed_sync, args=(["a"],))
    parent.start()
    until(lambda: [each for each in store._spaces.values() if each.keeper._first])
    (space,) = store._spaces.values()

    def child() -> None:
        monkeypatch.setattr(SpaceMirror, "sync", lambda *_, **__: SpaceSync(""))
        begun = time.monotonic()
        model.embed_sync(["b"])
        model.close()
        assert time.monotonic() - begun < 5

    with space.keeper._hurry._cond:  # as the thread that pushes does for a moment
        in_child(child)
    pulling.set()
    parent.join()


def test_a_program_that_ends_has_pushed_what_it_wrote(url: str, tmp_path: Path) -> None:
    code = (
        "import sys; from kura_cache_adapters import CachedEmbeddingModel;"
        "from kura_cache_adapters.testing import FakeEmbeddingModel;"
        "CachedEmbeddingModel(FakeEmbeddingModel(), sys.argv[1:]).embed_sync(['a', 'b'])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a"), url], check=True)
    assert embed([tmp_path / "b", url], ["a", "b"]) == 0


def test_closing_waits_for_a_push_that_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put, begun = Bucket.put, threading.Event()

    def slow(bucket: Bucket, *told: Any) -> None:
        begun.set()
        time.sleep(0.5)
        put(bucket, *told)

    monkeypatch.setattr(Bucket, "put", slow)
    with CachedEmbeddingModel(FakeEmbeddingModel(), [tmp_path / "a", f"file://{tmp_path}/there"]) as cached:
        cached.embed_sync(FEW)
        assert begun.wait(10)
    assert [*(tmp_path / "there").rglob("*.arrow")]


def test_many_models_whose_pushes_hang_are_waited_for_as_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(keeper, "_LAST_WAIT", 0.4)
    monkeypatch.setattr(Bucket, "put", lambda *_: over.wait(20))
    store = mirrored_at(ArrowStore(tmp_path / "a"), f"file://{tmp_path}/there?wait=0.1")
    for name in "abcde":
        CachedEmbeddingModel(FakeEmbeddingModel(name), store).embed_sync(FEW)
    start = time.monotonic()
    store.close()
    taken = time.monotonic() - start
    over.set()
    for space in store._spaces.values():
        space.keeper.settle(5)  # type: ignore[attr-defined]
    assert taken < 1.5


def test_looks_at_a_store_that_hangs_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists, over = [], threading.Event()

    def hang(bucket: Bucket, _: str) -> dict[str, Any]:
        lists.append(bucket.url)
        over.wait(20)
        return {}

    monkeypatch.setattr(Bucket, "list", hang)
    cache = [str(tmp_path / "a"), f"file://{tmp_path}/there?every=0.01&wait=0.01&push=false"]
    with CachedEmbeddingModel(FakeEmbeddingModel(), cache) as cached:
        for _ in range(20):
            cached.contains(FEW[:1])
            time.sleep(0.02)
        over.set()
        time.sleep(0.2)
    assert lists.count(f"file://{tmp_path}/there") == 1


def test_what_could_not_be_pushed_is_when_the_next_look_finds_the_store_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, put, failed = tmp_path / "there", Bucket.put, threading.Event()

    def refuse(bucket: Bucket, *_: Any) -> None:
        failed.set()
        raise UnreachableError(bucket.url)

    monkeypatch.setattr(Bucket, "put", refuse)
    cache = [str(tmp_path / "a"), f"file://{there}?every=0.2"]
    with CachedEmbeddingModel(FakeEmbeddingModel(), cache) as cached:
        cached.embed_sync(FEW)
        assert failed.wait(10)
        monkeypatch.setattr(Bucket, "put", put)
        end = time.monotonic() + 10
        while not [*there.rglob("*.arrow")] and time.monotonic() < end:
            cached.contains(FEW[:1])
            time.sleep(0.05)
    assert [*there.rglob("*.arrow")]


def test_missing_credentials_are_named(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    metadata = f"http://127.0.0.1:{server.port}/169.254.169.254"
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata)
    embed(tmp_path / "a", FEW)
    with open_cache(tmp_path / "a") as cache, pytest.raises(UnreachableError, match="anonymous=true"):
        cache.push(f"s3://bucket/prefix?endpoint={server.endpoint}&region=x")


def test_a_fork_that_cannot_reach_the_store_goes_on_without(s3: str, tmp_path: Path) -> None:
    store = mirrored_at(ArrowStore(tmp_path / "a"), s3)
    assert embed(store, FEW[:20]) == 20
    store.close()
    child = os.fork()
    if not child:
        logging.disable()
        os._exit(embed(store, FEW))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 20
    with open_cache(tmp_path / "a") as cache:
        assert cache.push(s3).pushed == 1


@pytest.mark.parametrize("time", ["every=nan", "every=-1", "wait=-1", "wait=inf", "wait=1e12"])
def test_times_that_nobody_can_wait_for_are_refused(time: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        mirrored_at(ArrowStore(tmp_path / "a"), f"file://{tmp_path}/there?{time}")


def test_urls_alone_and_what_has_no_single_files_are_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'write \["./cache", "s3://...'):
        open_store("s3://bucket/prefix")
    with pytest.raises(TypeError, match="MemoryStore is none"):
        mirrored_at(MemoryStore(), "s3://bucket/prefix")
    with pytest.raises(TypeError, match="mirrors the directory before it"):
        open_cache(["s3://bucket/prefix"])
    with pytest.raises(ValueError, match="options are"):
        mirrored_at(ArrowStore(tmp_path), "s3://bucket/prefix?colour=red")
    with pytest.raises(ValueError, match="write s3://bucket"):
        open_cache(tmp_path).push("ftp://somewhere")
    with pytest.raises(UnsupportedError, match="keeps no files"):
        open_cache("memory://").push("s3://bucket/prefix")
    with pytest.raises(ValueError, match="not behind a"):
        MirroredStore(ArrowStore(tmp_path), "s3://bucket/prefix?region=x")


def test_datasets_are_refused_with_the_cure(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    with pytest.raises(ValueError, match="datasets are directories"):
        mirrored_at(HFDatasetStore(tmp_path), "s3://bucket/prefix")


@pytest.mark.parametrize(
    "url", ["s3://key:hunter2@bucket/prefix", "s3://bucket/prefix?endpoint=https://me:hunter2@host"]
)
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="into the environment") as refused:
        mirrored_at(ArrowStore(tmp_path), url)
    assert "hunter2" not in str(refused.value)


def test_the_command_line_pushes_pulls_syncs_and_prunes(url: str, tmp_path: Path) -> None:
    pytest.importorskip("typer", reason="needs the extra `cli`")
    import jsonschema
    from typer.testing import CliRunner

    from kura_cache_adapters.cli import app

    schema = json.loads((Path(__file__).parents[1] / "docs" / "command_line.schema.json").read_text())

    def told(*said: str, code: int = 0) -> Any:
        ended = CliRunner().invoke(app, list(said), catch_exceptions=False)
        assert ended.exit_code == code, ended.output
        answer = json.loads(ended.stdout) if "--json" in said and not code else ended.output
        if isinstance(answer, dict):
            jsonschema.validate(answer, schema)
        return answer

    a, b = ("--cache", str(tmp_path / "a")), ("--cache", str(tmp_path / "b"))
    embed(tmp_path / "a", FEW, chunk=20)
    assert told("push", url, *a, "--dry-run", "--json")["spaces"][0]["pushed"] == 2
    assert "2 pushed" in told("push", url, *a)
    assert told("pull", url, *b, "--json")["spaces"][0]["pulled"] == 2
    told("compact", *a)
    told("sync", url, *a, "--json", "--model", "fake")
    assert told("prune", "--remote", url, *a, "--dry-run", "--json")["parts"] == 2
    assert told("prune", "--remote", url, *a, "--yes", "--json")["parts"] == 2
    assert embed(tmp_path / "b", FEW) == 0
    told("push", "s3://bucket/prefix?endpoint=http://127.0.0.1:9&region=x", *a, code=3)
    told("push", "nowhere", *a, code=2)


def test_files_of_which_none_brings_anything_new_stay_where_they_are() -> None:
    names = [f"{rows:09d}-{rows:016x}.arrow" for rows in range(12)]
    few, merged, other = names[:8], names[8], names[9]
    made_of = {merged: tuple(few)}

    def seen(here: set[str], there: set[str], shared: set[str] = frozenset()) -> Names:  # type: ignore[assignment]
        return Names(frozenset(here), frozenset(there), frozenset(shared), made_of)

    assert seen(set(), {*few, merged, other}).to_pull() == [merged, other]
    assert seen({*few}, {*few, merged}).to_pull() == []
    assert seen({*few[:7]}, {*few, merged}).to_pull() == [few[7]]
    assert seen({merged}, {*few[1:]}).to_push() == [merged]
    assert seen({merged}, {*few}).to_push() == [merged]  # it stands for eight
    assert seen({merged}, {*few, names[10]}, {*few}).to_pull() == [names[10]]
    assert seen({other}, {*few}, {other}).to_push() == []  # it was pruned there
    assert seen({other}, set(), {other}).to_push() == [other]  # a new bucket


class TestMirroredStore(StoreContract):
    test_any_history_is_that_of_a_dict: Any = None  # each of its steps would wait for a mirror

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddingStore]:
        return lambda: mirrored_at(ArrowStore(tmp_path / "cache"), f"file://{tmp_path}/there")
