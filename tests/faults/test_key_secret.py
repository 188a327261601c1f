"""A secret in the keys: who can read a cache, but not the secret, learns nothing about the texts."""

from __future__ import annotations

import hmac
import pickle
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.fault_lab import WAYS, Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters.identity import Role

SECRET = "a secret of the team: 3fb1c2"
TEXTS = [f"guessable {at}" for at in range(12)] + ["é", "\ud800", ""]
ROLES: tuple[Role, ...] = ("document", "query")


def with_secret(secret: str | bytes | None) -> CacheOptions:
    return CacheOptions(key_secret=secret)


def cached_by(secret: str | bytes | None, cache: Any = None, **options: Any) -> CachedEmbeddingModel:
    model = FakeEmbeddingModel(roles=("query",))
    return CachedEmbeddingModel(model, cache, options=CacheOptions(key_secret=secret, **options))


def asked(cached: CachedEmbeddingModel) -> list[str]:
    model = cached.embedding_model
    assert isinstance(model, FakeEmbeddingModel)
    return model.texts


@pytest.mark.parametrize(
    "secret", [SECRET, SECRET.encode(), b"x" * 16, b"x" * 64, b"x" * 65, "ü" * 99, "\ud800" * 9]
)
@pytest.mark.parametrize("cache", [None, "memory://"])
def test_a_key_is_the_hmac_of_what_is_hashed_without_a_secret(secret: str | bytes, cache: str | None) -> None:
    cached, plain = cached_by(secret, cache), cached_by(None, cache)
    key = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret
    for role in ROLES:
        for text in TEXTS:
            message = cached.identity().head(role) + text.encode("utf-8", "surrogatepass")
            assert cached.cache_key(text, role=role) == hmac.digest(key, message, "sha256").hex()
            assert plain.cache_key(text, role=role) == sha256(message).hexdigest()


@pytest.mark.parametrize("secret", ["", "x" * 15, b"", b"x" * 15, "ü" * 7])
def test_a_secret_that_can_be_guessed_is_refused(secret: str | bytes) -> None:
    with pytest.raises(ValueError, match="at least 16 bytes"):
        with_secret(secret)


@pytest.mark.parametrize("secret", [1, bytearray(b"x" * 32), ["x" * 32]])
def test_a_secret_of_another_type_is_refused(secret: Any) -> None:
    with pytest.raises(TypeError, match=f"not {type(secret).__name__}"):
        with_secret(secret)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_stored_under_another_secret_is_not_found(way: str, tmp_path: Path) -> None:
    ledger = Ledger(way, tmp_path, "another secret")
    secrets = [None, SECRET, f"{SECRET}!", "\0" * 16]
    for secret in secrets:
        for _ in range(2):  # the second time all is found
            cached = ledger.open(with_secret(secret))
            assert len(cached.missing(TEXTS)) == len(TEXTS) * (not ledger.acknowledged)
            ledger.ask(cached, TEXTS)
            assert asked(cached) == (TEXTS if not cached.stats.hits else [])
        ledger.acknowledged.clear()
    assert ledger.audit(TEXTS).good


@pytest.mark.parametrize("way", WAYS)
def test_all_that_stores_and_finds_uses_the_secret(way: str, tmp_path: Path) -> None:
    cached = cached_by(SECRET, WAYS[way](tmp_path))
    model = FakeEmbeddingModel(roles=("query",))
    cached.embed_sync(["embedded"])
    cached.embed_sync(["asked"], role="query")
    cached.add(["added"], model.lists(["added"]))
    again = cached_by(SECRET, WAYS[way](tmp_path))
    outer = CachedEmbeddingModel(again, "memory://", options=with_secret(f"{SECRET} outside"))
    assert outer.embed_sync(["embedded", "added"]) == model.lists(["embedded", "added"])
    assert outer.embed_sync(["asked"], role="query") == model.lists(["asked"], "query")
    assert again.missing(["embedded", "new", "added"]) == [1]
    assert asked(again) == []
    keys = [cached.cache_key("embedded"), cached.cache_key("added"), cached.cache_key("asked", role="query")]
    space = cached._store.space(cached.identity())  # type: ignore[union-attr]
    assert sorted(key.hex() for key in set(space.keys())) == sorted(keys)


def test_a_stored_secret_would_be_found_here(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(SECRET)
    with pytest.raises(AssertionError, match="secret"):
        assert_not_below(tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_neither_the_secret_nor_a_plain_hash_is_stored(way: str, tmp_path: Path) -> None:
    ledger = Ledger(way, tmp_path, "a secret is stored")
    ledger.ask(ledger.open(with_secret(SECRET)), TEXTS)
    assert any(tmp_path.rglob("*"))
    assert_not_below(tmp_path)


def assert_not_below(path: Path) -> None:
    plain = cached_by(None)
    hidden = [SECRET.encode(), sha256(SECRET.encode()).digest(), sha256(SECRET.encode()).hexdigest().encode()]
    for text in TEXTS:
        key = bytes.fromhex(plain.cache_key(text))
        hidden += [
            key,
            key.hex().encode(),
            sha256(text.encode("utf-8", "surrogatepass")).digest(),
            key[:8],
            key[7::-1],
        ]
    for file in path.rglob("*"):
        content = str(file).encode() + (file.read_bytes() if file.is_file() else b"")
        assert not [part for part in hidden if part in content], "a secret, or what tells a text, is stored"


def test_a_secret_is_in_no_repr_and_travels_in_a_pickle(tmp_path: Path) -> None:
    cached = cached_by(SECRET, str(tmp_path))
    vectors = cached.embed_sync(TEXTS)
    for thing in (
        cached,
        cached.options,
        cached.identity(),
        cached.__reduce__(),
        cached.stats,
        cached._calls.keys(),
    ):
        assert "3fb1c2" not in f"{thing!r} {thing!s}"
    copy = pickle.loads(pickle.dumps(cached))
    assert copy.options == cached.options
    assert copy.cache_key("a") == cached.cache_key("a")
    assert copy.embed_sync(TEXTS) == vectors
    assert copy.stats.hits == len(TEXTS)


def test_adapters_and_imports_use_the_secret(tmp_path: Path) -> None:
    langchain = pytest.importorskip("kura_cache_adapters.langchain", exc_type=ImportError)
    llama_index = pytest.importorskip("kura_cache_adapters.llama_index", exc_type=ImportError)
    model, options = FakeEmbeddingModel(), with_secret(SECRET)
    langchain.LangChainCachedEmbeddings.from_embeddings(model, tmp_path, options=options).embed_documents(
        ["a"]
    )
    embedding = llama_index.LlamaIndexCachedEmbedding.from_embedding(model, tmp_path, options=options)
    assert embedding.get_text_embedding("a") == model.lists(["a"])[0]
    assert model.texts == ["a"]
    assert CachedEmbeddingModel(model, tmp_path).missing(["a"]) == [0]
    assert "3fb1c2" not in f"{embedding!r} {embedding.to_dict()}"
