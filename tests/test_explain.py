"""Of a miss it is said what lies nearest; of a new space and another format so does the log, once."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import (
    ArrowStore,
    CachedEmbeddingModel,
    CacheOptions,
    JSONLCheckpointManager,
    MemoryStore,
    ParquetStore,
    TieredStore,
)
from kura_cache_adapters._segments import beside
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = [f"text {at}" for at in range(324)]
CACHES: list[Callable[[Path], Any]] = [
    ArrowStore,
    lambda _: MemoryStore(),
    lambda path: TieredStore(MemoryStore(), ParquetStore(path)),
    lambda path: JSONLCheckpointManager(path).open_store(),
]


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin as a process does."""
    monkeypatch.setattr(beside, "_told", set())


def cached(cache: Any, name: str = "fake", options: CacheOptions | None = None, **keys: Any) -> Any:
    options = options or CacheOptions()
    return CachedEmbeddingModel(FakeEmbeddingModel(name), cache, options=options, **keys)


@pytest.mark.parametrize("make", CACHES)
def test_a_miss_names_the_nearest_identity_and_what_differs(make: Any, tmp_path: Path) -> None:
    store = make(tmp_path)
    cached(store, batch_size=100).embed_sync(TEXTS)
    cached(store, batch_size=100, lower=True, way="x").embed_sync(["other"])
    cached(store, "another", batch_size=50).embed_sync(["text 1"])
    model = cached(store, batch_size=50)
    explained = model.explain("never seen")
    assert str(explained) == "miss: same model; parameters.batch_size 50 here, 100 there: 324 entries"
    assert (explained.identity, explained.key) == (model.identity(), model.cache_key("never seen"))
    assert explained.nearest.identity == cached(store, batch_size=100).identity()
    assert explained.nearest.differences == (("parameters.batch_size", "50", "100"),)
    assert "324 entries, this text among them" in str(model.explain("text 1"))
    assert "parameters.lower nothing here, true there" in str(model.explain("other"))
    assert model.embedding_model.calls == []


def test_a_hit_is_one_and_a_new_text_is_told_from_a_moved_one(tmp_path: Path) -> None:
    model = cached(tmp_path)
    assert str(model.explain("a")) == "miss: nothing of fake is there"
    model.embed_sync(["a", "b"])
    explained = model.explain("a")
    assert (explained.hit, explained.nearest, explained.key) == (True, None, model.cache_key("a"))
    assert str(explained).startswith("hit: fake as 'document', key ")
    assert (
        str(model.explain("c")) == "miss: 2 entries of this very model and its parameters, and not this text"
    )


def test_a_miss_in_a_role_says_as_what_the_text_is_there(tmp_path: Path) -> None:
    model = CachedEmbeddingModel(FakeEmbeddingModel(roles=["query"]), tmp_path)
    model.embed_sync(["a"])
    assert str(model.explain("a", role="query")) == "miss: the text is there as 'document', not as 'query'"
    with pytest.raises(ValueError, match="quary"):
        model.explain("a", role="quary")


def test_the_text_is_found_under_a_secret_too(tmp_path: Path) -> None:
    options = CacheOptions(key_secret="0123456789abcdef")
    cached(tmp_path, options=options, p=1).embed_sync(["a"])
    assert cached(tmp_path, options=options, p=2).explain("a").nearest.has_text
    assert not cached(tmp_path, p=2).explain("a").nearest.has_text


def test_other_formats_damage_and_no_cache_are_reasons(tmp_path: Path) -> None:
    assert str(cached(None).explain("a")) == "miss: there is no cache"
    cached(ArrowStore(tmp_path)).embed_sync(["a"])
    told = cached(ParquetStore(tmp_path)).explain("a")
    assert told.formats == (".arrow",)
    assert "segments in .arrow" in str(told)
    (segment,) = tmp_path.glob("*/*.arrow")
    content = segment.read_bytes()
    key = bytes.fromhex(told.key)
    at = content.index(key) + 40  # in the vector's or the checksum's bytes behind the key
    damaged = bytearray(content)
    for each in range(at, at + 24):
        damaged[each] ^= 1
    segment.write_bytes(damaged)
    told = cached(ArrowStore(tmp_path)).explain("a")
    assert told.damaged
    assert str(told) == "miss: the entry is there, and damaged"


def test_a_store_that_fails_is_heard_of() -> None:
    from tests.test_observers import Broken

    with pytest.raises(OSError, match="No space"):
        cached(Broken()).explain("a")


def test_a_new_space_beside_the_same_model_is_logged_once_at_its_first_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cached(tmp_path, batch_size=100).embed_sync(TEXTS)
    cached(tmp_path, "another").embed_sync(["a"])
    with caplog.at_level(logging.INFO, "kura_cache_adapters.store"):
        new = cached(tmp_path, batch_size=50)
        new.missing(["a"])
        assert caplog.records == []
        for at in range(3):
            new.embed_sync([f"new {at}"])
            cached(tmp_path, batch_size=at).embed_sync(["a"])
        cached(tmp_path, batch_size=100).embed_sync(["known space"])
    (record,) = [each for each in caplog.records if each.name.endswith(".store")]
    assert record.levelno == logging.INFO
    assert "parameters.batch_size 50 here, 100 there: 324 entries" in record.getMessage()


def test_a_space_that_is_being_made_beside_is_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new, other = cached(tmp_path, batch_size=50), cached(tmp_path, batch_size=100)
    (tmp_path / other.identity().directory).mkdir(parents=True)
    new.embed_sync(["a"])
    assert "Ignored" not in caplog.text


def test_another_process_that_goes_on_in_a_space_says_nothing(tmp_path: Path) -> None:
    code = (
        "import logging; logging.basicConfig(level='INFO')\n"
        "from kura_cache_adapters import CachedEmbeddingModel; import sys\n"
        "from kura_cache_adapters.testing import FakeEmbeddingModel\n"
        "path, p, text = sys.argv[1:]\n"
        "CachedEmbeddingModel(FakeEmbeddingModel(), path, p=p).embed_sync([text])"
    )
    said = []
    for p, text in [("1", "a"), ("2", "a"), ("2", "b")]:
        command = [sys.executable, "-c", code, str(tmp_path), p, text]
        said.append(
            subprocess.run(command, capture_output=True, check=True, text=True).stderr.count("nearest")
        )
    assert said == [0, 1, 0]


def test_a_switch_of_format_is_a_warning_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cached(ArrowStore(tmp_path)).embed_sync(TEXTS[:7])
    for text in "ab":
        cached(ParquetStore(tmp_path)).embed_sync([text])
    (record,) = caplog.records
    assert "7 entries in .arrow" in record.getMessage()
    assert "reads .parquet" in record.getMessage()


def test_identities_differ_exactly_where_they_are_not_equal() -> None:
    one = ModelIdentity.of("m", {"p": 1, "deep": {"x": None, "y": [1]}, "empty": {}}, {"base": "u"})
    two = ModelIdentity.of("m", {"p": 1.0, "deep": {"y": [1]}}, {"base": "v"})
    assert one.differences(one) == ()
    assert one.differences(two) == (
        ("parameters.deep.x", "null", ""),
        ("parameters.empty", "{}", ""),
        ("parameters.p", "1", "1.0"),
        ("source.base", '"u"', '"v"'),
    )
    long = ModelIdentity.of("m", {"p": "x" * 1_000})
    assert len(str(long.differences(ModelIdentity.of("m"))[0])) < 100
