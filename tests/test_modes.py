"""Modes: what a miss may cost, what may be stored, and who has the last word."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import (
    ArrowStore,
    BaseEmbeddingModel,
    CachedEmbeddingModel,
    CacheMissError,
    CacheOptions,
    MemoryStore,
    SentenceTransformerEmbeddingModel,
    TieredStore,
    open_cache,
)
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.fault_lab import WAYS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TEXTS = ["one", "two", "three"]
REPLAY = CacheOptions(on_miss="raise")
REFRESH = CacheOptions(refresh=True)
READ_ONLY = CacheOptions(read_only=True)


class Drifting(BaseEmbeddingModel):
    """A model whose provider changes it behind its name: each answer is another one."""

    model_name = "drifting"

    def __init__(self, dimension: int = 4) -> None:
        self.answers = 0.0
        self.asked: list[str] = []
        self.dimension = dimension

    def slug(self) -> str:
        return "drifting"

    async def embed(self, texts: list[str]) -> list[list[float]]:
        self.answers += 1
        self.asked += texts
        await asyncio.sleep(0.001)
        return [[self.answers] * self.dimension for _ in texts]


def traces(directory: Path) -> dict[str, tuple[float, float, int]]:
    """Return everything below a directory, and when it was read and written."""
    paths = [directory, *directory.rglob("*")] if directory.exists() else []
    stats = {str(path): path.stat() for path in sorted(paths)}
    return {
        name: (0 if directory.is_dir() else s.st_atime, s.st_mtime, s.st_size) for name, s in stats.items()
    }


def age(directory: Path) -> None:
    """Let all files be last used two days ago, so that a use would be stamped."""
    for path in [each for each in directory.rglob("*") if each.is_file()]:
        os.utime(path, (path.stat().st_mtime - 172_800, path.stat().st_mtime - 172_800))


# A miss that raises


def test_a_miss_that_raises_asks_nobody_and_leaves_no_trace(tmp_path: Path) -> None:
    model = FakeEmbeddingModel()
    events: list[Any] = []
    options = CacheOptions(on_miss="raise", observers=[events.append])
    cached = CachedEmbeddingModel(model, tmp_path / "cache", options=options)
    told = r"^3 of 4 texts for fake are not in ArrowStore.*\n.*KURA_CACHE=embed"
    with pytest.raises(LookupError, match=told) as caught:
        cached.embed_sync([*TEXTS, "one"])
    assert not model.calls
    assert not [*tmp_path.iterdir()]
    looked, failed = events
    assert (looked.missing, looked.repeated, failed.action) == (3, 1, "embed")
    assert (failed.call, failed.error) == (looked.call, caught.value)


def test_a_miss_names_the_first_keys_and_knows_all(tmp_path: Path) -> None:
    texts = [*TEXTS, "four"]
    CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path).embed_sync(["two"])
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path, options=REPLAY)
    with pytest.raises(CacheMissError) as caught:
        cached.embed_sync(["two", *texts])
    error = caught.value
    assert error.keys == tuple(cached.cache_key(text) for text in ("one", "three", "four"))
    assert all(key in str(error) for key in error.keys)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.keys, again.model_name) == (str(error), error.keys, "fake")
    with pytest.raises(CacheMissError) as caught:
        cached.embed_sync([str(number) for number in range(1000)])
    assert len(caught.value.keys) == 1000
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("way", WAYS)
def test_what_is_there_is_replayed_from_every_store(tmp_path: Path, way: str) -> None:
    recorded = CachedEmbeddingModel(FakeEmbeddingModel(), WAYS[way](tmp_path)).embed_sync(TEXTS)
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, WAYS[way](tmp_path), options=REPLAY)
    assert cached.embed_sync(TEXTS) == recorded
    assert asyncio.run(cached.embed(TEXTS[:1])) == recorded[:1]
    with pytest.raises(CacheMissError):
        asyncio.run(cached.embed_array([*TEXTS, "new"]))
    assert not model.calls


def test_a_role_that_was_not_recorded_is_a_miss(tmp_path: Path) -> None:
    CachedEmbeddingModel(FakeEmbeddingModel(roles=["query"]), tmp_path).embed_sync(TEXTS)
    cached = CachedEmbeddingModel(FakeEmbeddingModel(roles=["query"]), tmp_path, options=REPLAY)
    assert cached.embed_sync(TEXTS)
    with pytest.raises(CacheMissError):
        cached.embed_sync(TEXTS, role="query")


@pytest.mark.parametrize("options", [REPLAY, CacheOptions(on_miss="raise", enabled=False)])
def test_without_a_cache_all_is_a_miss(options: CacheOptions) -> None:
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, options=options)
    assert cached.embed_sync([]) == []
    with pytest.raises(CacheMissError, match="are not in a cache: it has none"):
        cached.embed_sync(TEXTS)
    assert not model.calls


def test_a_store_that_fails_is_a_miss_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("no directory")
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), ArrowStore(tmp_path / "cache"), options=REPLAY)
    with pytest.raises(CacheMissError):
        cached.embed_sync(TEXTS)
    assert "Could not read" in caplog.text


def python(code: str, home: Path, **environment: str) -> Any:
    """Run a program without a key, a network or a home; return the JSON that it prints."""
    known = {"XDG_CACHE_HOME": str(home), "PATH": "", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**known, **environment},
        timeout=60,
    )
    return json.loads(done.stdout)


ASK = """
import json, sys
from kura_cache_adapters import CachedEmbeddingModel, CacheMissError, {name}
cached = CachedEmbeddingModel({name}({arguments}), {cache!r})
try:
    told = len(cached.embed_sync({texts!r}))
except CacheMissError as error:
    told = len(error.keys)
print(json.dumps([told, [each for each in ("openai", "httpx", "torch") if each in sys.modules]]))
"""


@pytest.mark.parametrize("texts", [TEXTS, ["unheard"]], ids=["hits", "misses"])
def test_in_replay_openai_needs_no_key_and_no_client(
    tmp_path: Path, openai_server: Any, texts: list[str]
) -> None:
    from kura_cache_adapters import OpenAIEmbeddingModel

    CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path).embed_sync(TEXTS)
    where = {"OPENAI_BASE_URL": openai_server.url, "KURA_CACHE": "replay"}
    code = ASK.format(name="OpenAIEmbeddingModel", arguments="", cache=str(tmp_path), texts=texts)
    assert python(code, tmp_path, **where) == [len(texts), []]


@pytest.mark.parametrize("texts", [TEXTS, ["unheard"]], ids=["hits", "misses"])
def test_in_replay_a_local_model_needs_no_torch(minilm: Path, tmp_path: Path, texts: list[str]) -> None:
    CachedEmbeddingModel(SentenceTransformerEmbeddingModel(path=minilm), tmp_path).embed_sync(TEXTS)
    arguments = f"path={str(minilm)!r}"
    code = ASK.format(
        name="SentenceTransformerEmbeddingModel", arguments=arguments, cache=str(tmp_path), texts=texts
    )
    home = os.environ["XDG_CACHE_HOME"]
    assert python(code, tmp_path, KURA_CACHE="replay", XDG_CACHE_HOME=home) == [len(texts), []]


# Embedding anew


@pytest.mark.parametrize("way", WAYS)
def test_refreshing_embeds_anew_and_replaces_in_every_store(tmp_path: Path, way: str) -> None:
    CachedEmbeddingModel(Drifting(), WAYS[way](tmp_path)).embed_sync([*TEXTS, "left"])
    model = Drifting()
    model.answers = 1
    refreshing = CachedEmbeddingModel(model, WAYS[way](tmp_path), options=REFRESH)
    assert refreshing.missing(TEXTS) == [0, 1, 2]
    assert refreshing.embed_sync([*TEXTS, "one", "new"]) == [[2.0] * 4] * 5
    assert model.asked == [*TEXTS, "new"]
    plain = CachedEmbeddingModel(Drifting(), WAYS[way](tmp_path), options=REPLAY)
    assert plain.embed_sync([*TEXTS, "new", "left"]) == [[2.0] * 4] * 4 + [[1.0] * 4]


def test_refreshing_again_embeds_again_and_at_once_but_once(tmp_path: Path) -> None:
    cached = CachedEmbeddingModel(model := Drifting(), tmp_path, options=REFRESH)

    async def together() -> None:
        await asyncio.gather(*(cached.embed(["one"]) for _ in range(5)))

    asyncio.run(together())
    assert model.asked == ["one"]
    assert asyncio.run(cached.embed(["one"])) == [[2.0] * 4]
    assert cached.embed_sync(["one"]) == [[3.0] * 4]


def test_refreshing_in_chunks_keeps_what_was_refreshed(tmp_path: Path) -> None:
    texts = [str(number) for number in range(50)]
    CachedEmbeddingModel(Drifting(), tmp_path).embed_sync(texts)
    options = CacheOptions(refresh=True, chunk_size=8)
    cached = CachedEmbeddingModel(Drifting(), tmp_path, options=options)
    vectors = cached.embed_sync(texts)
    assert len({row[0] for row in vectors}) == 7
    assert CachedEmbeddingModel(Drifting(), tmp_path, options=REPLAY).embed_sync(texts) == vectors


def test_adding_to_what_is_refreshed_keeps_known_vectors(tmp_path: Path) -> None:
    CachedEmbeddingModel(Drifting(), tmp_path).embed_sync(["one"])
    cached = CachedEmbeddingModel(Drifting(), tmp_path, options=REFRESH)
    assert cached.add(["one", "two"], [[7.0] * 4] * 2) == 1
    plain = CachedEmbeddingModel(Drifting(), tmp_path, options=REPLAY)
    assert plain.embed_sync(["one", "two"]) == [[1.0] * 4, [7.0] * 4]


def test_a_refresh_of_another_dimension_is_handed_out_and_destroys_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    CachedEmbeddingModel(Drifting(), tmp_path).embed_sync(TEXTS)
    cached = CachedEmbeddingModel(Drifting(dimension=2), tmp_path, options=REFRESH)
    assert cached.embed_sync(["one"]) == [[1.0] * 2]
    assert cached.stats.save_failures == 1
    assert "dimension" in caplog.text
    assert CachedEmbeddingModel(Drifting(), tmp_path, options=REPLAY).embed_sync(["one"]) == [[1.0] * 4]


def test_a_refresh_over_a_store_that_fails_costs_no_vector(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no directory")
    cached = CachedEmbeddingModel(Drifting(), ArrowStore(tmp_path / "cache"), options=REFRESH)
    assert cached.embed_sync(["one"]) == [[1.0] * 4]


# Reading only


@pytest.mark.parametrize("way", WAYS)
def test_what_is_read_only_stays_byte_for_byte_and_stamp_for_stamp(tmp_path: Path, way: str) -> None:
    recorded = CachedEmbeddingModel(FakeEmbeddingModel(), WAYS[way](tmp_path)).embed_sync(TEXTS)
    age(tmp_path)
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, WAYS[way](tmp_path), options=READ_ONLY)
    before = traces(tmp_path)
    for _ in range(2):
        assert cached.embed_sync([*TEXTS, "new"])[:3] == recorded
        assert asyncio.run(cached.embed(["one"])) == recorded[:1]
    assert cached.add(["other"], [[1.0] * 8]) == 0
    assert cached.add(TEXTS, [[1.0] * 8] * 3, replace=True) == 0
    cached.close()
    assert traces(tmp_path) == before
    assert model.texts == ["new", "new"]
    assert cached.stats.stored == 0


def test_a_directory_that_is_read_only_is_not_made(tmp_path: Path) -> None:
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path / "cache", options=READ_ONLY)
    assert cached.embed_sync(TEXTS) == FakeEmbeddingModel().lists(TEXTS)
    assert not [*tmp_path.iterdir()]


def test_a_tier_on_disk_is_not_filled_and_one_in_memory_is(tmp_path: Path) -> None:
    CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path / "slow").embed_sync(TEXTS)
    store = TieredStore(MemoryStore(), ArrowStore(tmp_path / "fast"), ArrowStore(tmp_path / "slow"))
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), store, options=READ_ONLY)
    for _ in range(2):
        cached.embed_sync(TEXTS)
    assert not (tmp_path / "fast").exists()
    assert len([*store.stores[0].space(cached.identity()).keys()]) == 3
    CachedEmbeddingModel(FakeEmbeddingModel(), store).embed_sync(TEXTS)


def test_who_may_write_stamps_uses_beside_who_only_reads(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        writing = CachedEmbeddingModel(FakeEmbeddingModel(), cache.store)
        reading = CachedEmbeddingModel(FakeEmbeddingModel(), cache.store, options=READ_ONLY)
        writing.embed_sync(TEXTS)
        age(tmp_path)
        (segment,) = tmp_path.glob("*/*.arrow")
        before = segment.stat().st_atime
        reading.embed_sync(TEXTS)
        assert segment.stat().st_atime == before
        writing.embed_sync(TEXTS)
        assert segment.stat().st_atime > before


# Not enabled, and what does not go together


def test_what_is_not_enabled_is_as_without_a_cache(tmp_path: Path) -> None:
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, tmp_path / "cache", options=CacheOptions(enabled=False))
    assert cached.embed_sync(TEXTS) == cached.embed_sync(TEXTS) == model.lists(TEXTS)
    assert len(model.calls) == 2
    assert cached.cache is None
    assert cached.slug() == model.slug()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"on_miss": "skip"}, "'embed' or 'raise', not 'skip'"),
        ({"refresh": True, "read_only": True}, "read_only=True forbids"),
        ({"refresh": True, "on_miss": "raise"}, "on_miss='raise' forbids"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        CacheOptions(**options)


# KURA_CACHE


@pytest.mark.parametrize(
    ("mode", "asked", "stored"),
    [
        ("embed", ["new"], ["new"]),
        ("replay", [], []),
        ("refresh", ["one", "new"], ["one", "new"]),
        ("read-only", ["new"], []),
        ("off", ["one", "new"], []),
        ("", [], []),
    ],
)
def test_the_environment_has_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, asked: Iterable[str], stored: Iterable[str]
) -> None:
    CachedEmbeddingModel(Drifting(), tmp_path).embed_sync(["one"])
    monkeypatch.setenv("KURA_CACHE", mode)
    model = Drifting()
    model.answers = 1
    options = CacheOptions(
        on_miss="raise", chunk_size=3
    )  # what an unset one, and an empty one, leaves as it is
    cached = CachedEmbeddingModel(model, tmp_path, options=options)
    monkeypatch.delenv("KURA_CACHE")
    if mode in {"", "replay"}:
        with pytest.raises(CacheMissError):
            cached.embed_sync(["one", "new"])
    else:
        cached.embed_sync(["one", "new"])
    assert model.asked == asked
    plain = CachedEmbeddingModel(Drifting(), tmp_path, options=REPLAY)
    there = [text for text in ("one", "new") if not plain.missing([text])]
    assert [text for text in there if plain.embed_sync([text]) != [[1.0] * 4]] == stored


def test_a_mode_that_there_is_not_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KURA_CACHE", "replya")
    with pytest.raises(
        ValueError, match=r"KURA_CACHE='replya' is no mode.*embed, replay, refresh, read-only, off"
    ):
        CachedEmbeddingModel(FakeEmbeddingModel())


def test_threads_that_replay_hinder_nobody(tmp_path: Path) -> None:
    CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path).embed_sync(TEXTS)
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path, options=REPLAY)

    def ask(number: int) -> bool:
        try:
            cached.embed_sync([TEXTS[number % 3], *([str(number)] * (number % 2))])
        except CacheMissError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(ask, range(200))] == [number % 2 == 0 for number in range(200)]
