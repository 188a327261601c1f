"""A mirror on the object stores there are: what each of them does otherwise, refuses, or breaks off."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("obstore", reason="needs the extra `object-store`")

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    MirroredStore,
    UnreachableError,
    open_cache,
)
from kura_cache_adapters.stores.mirror import mirrored_at
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.proxy import Proxy
from tests.object_stores import object_servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kura_cache_adapters._mirror.bucket import Bucket
    from tests.object_stores import ObjectServer

AZURITE = pytest.param("azurite", marks=pytest.mark.long)
SERVERS = ["moto", "rclone", "google", AZURITE]
TEXTS = [f"text {number}" for number in range(60)]
SPACE = f"space-{16 * '0'}"

running = pytest.fixture(scope="module")(object_servers)


@pytest.fixture(params=SERVERS)
def server(
    running: Callable[[str], ObjectServer], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> ObjectServer:
    return running(request.param).introduce(monkeypatch)


@pytest.fixture
def url(server: ObjectServer) -> str:
    return server.url(server.new_bucket())


def bucket_at(url: str) -> Bucket:
    return mirrored_at(ArrowStore("unused"), url).bucket


def embed(cache: Any, texts: list[str], dimension: int = 8) -> int:
    """Embed, and return how many were paid for."""
    model = FakeEmbeddingModel(dimension=dimension)
    with CachedEmbeddingModel(model, cache) as cached:
        found = cached.embed_array_sync(texts)
    assert found.tobytes() == FakeEmbeddingModel(dimension=dimension).array(texts).tobytes()
    return len(model.texts)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_one_machine_has_paid_for_none_pays_again_until_it_is_forgotten(
    url: str, tmp_path: Path
) -> None:
    assert embed([tmp_path / "a", url], TEXTS[:40]) == 40
    assert embed([tmp_path / "b", url], TEXTS) == 20
    with CachedEmbeddingModel(FakeEmbeddingModel(), [tmp_path / "a", url]) as cached:
        cached.forget(TEXTS[:1])
    with open_cache(tmp_path / "a") as cache:
        cache.sync(url)
        cache.compact()
        assert cache.prune(remote=url).parts == 2
        assert cache.prune(remote=url).parts == 0
    assert embed([tmp_path / "c", url], TEXTS) == 1


def test_a_file_of_several_parts_goes_up_and_comes_down(url: str, tmp_path: Path) -> None:
    assert embed(tmp_path / "a", TEXTS, dimension=32_768) == 60
    with open_cache(tmp_path / "a") as cache:
        assert cache.push(url).pushed == 1
    with open_cache(tmp_path / "b") as cache:
        assert cache.pull(url).pulled == 1
    mine, theirs = (next((tmp_path / name).rglob("*.arrow")).read_bytes() for name in "ab")
    assert mine == theirs
    assert len(mine) > 7 << 20


def test_one_that_is_gone_already_leaves_no_other_there(url: str) -> None:
    bucket, names = bucket_at(url), [f"{number:09d}-{number:016x}.arrow" for number in range(1, 5)]
    for name in names:
        bucket.put(SPACE, name, b"x")
    bucket.delete(SPACE, names[1:2])
    bucket.delete(SPACE, names)
    assert not bucket.list(SPACE)


@pytest.mark.parametrize(
    ("server", "objects", "spaces"),
    [
        ("moto", 1_001, 3),
        pytest.param("moto", 2_001, 2_001, marks=pytest.mark.long),
        pytest.param("rclone", 1_001, 1_001, marks=pytest.mark.long),
        pytest.param("google", 1_001, 1_001, marks=pytest.mark.long),
        pytest.param("azurite", 5_001, 5_001, marks=pytest.mark.long),
    ],
    indirect=["server"],
)
def test_there_may_be_more_objects_and_spaces_than_a_page_of_a_list_has(
    url: str, objects: int, spaces: int
) -> None:
    bucket = bucket_at(url)
    names = [f"{number:09d}-{number:016x}.arrow" for number in range(objects)]
    others = [f"space-{number:016x}" for number in range(1, spaces)]
    with ThreadPoolExecutor(8) as threads:
        put = partial(bucket.put, content=b"x")
        list(threads.map(put, [SPACE] * objects, names))
        list(threads.map(put, others, names))
    assert sorted(bucket.list(SPACE)) == names
    assert bucket.spaces() == [SPACE, *others]


@pytest.mark.parametrize("server", ["rclone", AZURITE], indirect=True)
def test_a_refusal_is_an_error_and_no_miss_and_shows_no_secret(
    server: ObjectServer,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert embed([tmp_path / "a", url], TEXTS[:40]) == 40
    server.introduce(monkeypatch, **server.wrong)
    store = mirrored_at(ArrowStore(tmp_path / "b"), url)
    assert embed(store, TEXTS) == 60
    assert (store.counts.errors > 0, store.counts.pulled) == (True, 0)
    (warning,) = warnings_in(caplog)
    assert "403" in warning
    for command in ("push", "pull", "sync"):
        with open_cache(tmp_path / "b") as cache, pytest.raises(UnreachableError, match="403") as refused:
            getattr(cache, command)(url)
        assert "MARKED" not in str(refused.value) + warning


def test_a_bucket_that_is_not_there_is_an_error_that_says_so(
    server: ObjectServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = server.url("nowhere")
    assert embed([tmp_path / "a", nowhere], TEXTS) == 60
    assert len(warnings_in(caplog)) == 1
    for command in ("push", "pull", "sync"):
        with open_cache(tmp_path / "a") as cache, pytest.raises(UnreachableError) as missing:
            getattr(cache, command)(nowhere)
        assert "NoSuchBucket" in str(missing.value) or "ContainerNotFound" in str(missing.value)


@pytest.fixture
def proxy(server: ObjectServer) -> Iterator[Proxy]:
    between = Proxy(server.port, delay=0.1)
    yield between
    between.close()


@pytest.mark.parametrize("mode", ["cut", "garble", "refuse", "delay"])
@pytest.mark.parametrize(
    "server",
    ["moto", *(pytest.param(each, marks=pytest.mark.long) for each in ("rclone", "google", "azurite"))],
    indirect=True,
)
def test_a_connection_that_breaks_or_is_slow_leaves_nothing_half_and_is_made_up_for(
    server: ObjectServer, url: str, proxy: Proxy, tmp_path: Path, mode: str
) -> None:
    through = url.replace(f":{server.port}", f":{proxy.port}")
    assert embed([tmp_path / "a", url], TEXTS[:40], dimension=4_096) == 40
    proxy.set(mode)
    late = mode == "delay"
    begun = time.monotonic()
    assert embed([tmp_path / "b", f"{through}&wait=10"], TEXTS, dimension=4_096) == (20 if late else 60)
    assert time.monotonic() - begun < 10
    if not late:
        for command in ("push", "pull"):
            with open_cache(tmp_path / "b") as cache, pytest.raises(UnreachableError):
                getattr(cache, command)(through)
    proxy.set("pass")
    with open_cache(tmp_path / "b") as cache:
        cache.sync(through)
        assert cache.verify().sound
    assert embed([tmp_path / "c", url], TEXTS, dimension=4_096) == 0


def test_an_account_that_is_missing_is_named_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    embed(tmp_path / "a", TEXTS)
    with open_cache(tmp_path / "a") as cache, pytest.raises(UnreachableError, match="set AZURE_STORAGE_ACC"):
        cache.push("az://container/prefix")


def test_what_a_scheme_does_not_know_is_refused_at_once(tmp_path: Path) -> None:
    for scheme in ("gs", "az", "file"):
        with pytest.raises(ValueError, match="takes no region"):
            MirroredStore(ArrowStore(tmp_path), f"{scheme}://bucket/prefix", region="eu-west-1")
