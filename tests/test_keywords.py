"""Keywords mean one thing: what changes the vectors; all else is refused with its cure."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, MemoryStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.frameworks import FACES, Spy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "MARKED-secret-0123456789"


def core(**keywords: Any) -> Any:
    return CachedEmbeddingModel(FakeEmbeddingModel(), MemoryStore(), **keywords)


def face(name: str) -> Callable[..., Any]:
    def wrap(**keywords: Any) -> Any:
        of = FACES[name]()
        return of.wrap(of.embedder(Spy(FakeEmbeddingModel())), MemoryStore(), **keywords)

    return wrap


def kura(**keywords: Any) -> Any:
    package = pytest.importorskip("kura_cache_adapters.kura", exc_type=ImportError)
    return package.cached(FakeEmbeddingModel(), MemoryStore(), **keywords)


DOORS = {"core": core, "langchain": face("langchain"), "llama_index": face("llama_index"), "kura": kura}

REFUSED: dict[str, tuple[Any, str]] = {
    "key_secret": (SECRET, "CacheOptions"),
    "chunk_size": (512, "CacheOptions"),
    "progress": (True, "CacheOptions"),
    "durable": (False, "CacheOptions"),
    "cache_dir": ("./cache", "cache="),
    "cache_folder": ("./cache", "cache="),
    "path": ("./cache", "cache="),
    "store": (None, "cache="),
    "ttl": (3600, "?ttl=30d"),
    "max_bytes": (1, "max_bytes=10e9"),
    "namespace": ("mine", "space of its own"),
    "query_embedding_cache": (True, "queries are cached already"),
    "key_encoder": ("sha256", "SHA-256 already"),
    "symmetric": (True, r"roles=\(\)"),
    "roles": (("query",), "source"),
    "use_async": (True, "source"),
    "api_key": (SECRET, "secret"),
    "openai_api_key": (SECRET, "secret"),
    "token": (SECRET, "secret"),
    "auth": ((SECRET, SECRET), "secret"),
    "headers": ({"authorization": SECRET}, "secret"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_key_parameter_is_refused_with_the_cure(door: str, name: str) -> None:
    value, cure = REFUSED[name]
    with pytest.raises(TypeError, match=rf"{name}= is no parameter of a key.*{cure}") as caught:
        DOORS[door](**{name: value})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "keywords",
    [
        {"temperature": 0.5, "custom_preprocessing": "lowercase", "batch_size": 50},  # the document's own
        {"device": "cpu"},
        {"max_tokens": 512},
        {"query_token": "[Q]"},
        {"preprocessing": None},
    ],
)
def test_any_other_keyword_is_in_the_key(door: str, keywords: dict[str, Any]) -> None:
    plain, keyed = DOORS[door](), DOORS[door](**keywords)
    assert getattr(plain, "cached", plain).cache_key("a") != getattr(keyed, "cached", keyed).cache_key("a")


@pytest.mark.parametrize("spelling", ["cache", "cache_manager"])
def test_both_spellings_of_a_cache_cache(tmp_path: Path, spelling: str) -> None:
    spelled: dict[str, Any] = {spelling: tmp_path}
    model = FakeEmbeddingModel()
    for _ in range(3):
        CachedEmbeddingModel(model, **spelled).embed_sync(["a"])
    assert model.texts == ["a"]
    with pytest.raises(TypeError, match="two names of one thing"):
        CachedEmbeddingModel(model, tmp_path, cache=tmp_path)


def test_no_secret_stands_on_disk_for_a_keyword_of_options(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"CacheOptions\(key_secret="):
        CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path, key_secret=SECRET)
    model = CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path, options=CacheOptions(key_secret=SECRET))
    model.embed_sync(["a"])
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_keyword_without_a_cache_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    CachedEmbeddingModel(FakeEmbeddingModel(), temperature=0.5)
    assert "Without a cache, temperature= has no meaning" in caplog.text
    caplog.clear()
    CachedEmbeddingModel(FakeEmbeddingModel())
    CachedEmbeddingModel(FakeEmbeddingModel(), MemoryStore(), temperature=0.5)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("thing", "cure"),
    [
        (len, "CallableEmbeddingModel"),
        (lambda texts: texts, "CallableEmbeddingModel"),
        (FakeEmbeddingModel, r"FakeEmbeddingModel\(\.\.\.\)"),
        ("text-embedding-3-small", "pass a BaseEmbeddingModel"),
        ({}, "pass a BaseEmbeddingModel"),
        (None, "pass a BaseEmbeddingModel"),
    ],
)
def test_what_is_no_model_is_refused_with_the_cure(thing: Any, cure: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=cure):
        CachedEmbeddingModel(thing, tmp_path)


def test_a_name_and_an_identity_stand_in_for_what_a_model_says_of_itself() -> None:
    model = FakeEmbeddingModel()
    renamed = CachedEmbeddingModel(model, MemoryStore(), model_name="other")
    assert renamed.model_name == "other"
    described = CachedEmbeddingModel(model, MemoryStore(), identity={"revision": 1})
    again = CachedEmbeddingModel(model, MemoryStore(), identity={"revision": 2})
    added = CachedEmbeddingModel(model, MemoryStore(), identity={"revision": 1}, revision=1)
    keys = {each.cache_key("a") for each in (renamed, described, again, added, CachedEmbeddingModel(model))}
    assert len(keys) == 5
