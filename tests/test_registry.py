"""How a store is found: plain paths and what is there, URLs and their options, entry points of others."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from kura_cache_adapters import (
    CachedEmbeddingModel,
    JSONLCheckpointManager,
    MemoryStore,
    open_cache,
    open_store,
)
from kura_cache_adapters._identity.providers import RECORDS, known
from kura_cache_adapters.errors import RegistrationError
from kura_cache_adapters.integrations.batches import Embed
from kura_cache_adapters.stores import ArrowStore, ParquetStore, as_store
from kura_cache_adapters.stores.registry import STORES
from kura_cache_adapters.stores.url_options import read_options
from kura_cache_adapters.testing import FakeEmbeddingModel
from kura_cache_adapters.testing.checkpoints import Leaf
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of
from tests.distributions import Site, a_site

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

site = pytest.fixture(a_site)

STORES_GROUP = "kura_cache_adapters.stores"
PROVIDERS_GROUP = "kura_cache_adapters.providers"

# Options


def test_a_url_carries_the_options_of_its_store(tmp_path: Path) -> None:
    noise = np.repeat(vectors_of([0], 512), 64, axis=0)
    sizes = {}
    for url in (f"parquet://{tmp_path}/small?compression=zstd", f"parquet://{tmp_path}/plain"):
        space: Any = open_store(url).space(IDENTITY)
        space.put_many(map(key_of, range(64)), noise)
        assert np.array_equal(space.get_many(map(key_of, range(64))).vectors, noise)
        sizes[url] = sum(path.stat().st_size for path in space.path.glob("*.parquet"))
    small, plain = sizes.values()
    assert 4 * small < plain


def test_options_of_files_and_of_memory_reach_them(tmp_path: Path) -> None:
    for word, mode in (("true", 0o755), ("no", 0o700)):
        space: Any = open_store(f"arrow://{tmp_path}/{word}?shared={word}").space(IDENTITY)
        space.put_many([key_of(1)], vectors_of([1]))
        assert space.path.stat().st_mode & 0o055 == mode & 0o055
    memory: Any = open_store("memory://?max_bytes=1e8")
    assert isinstance(memory, MemoryStore)
    assert (memory.max_bytes, type(memory.max_bytes)) == (100_000_000, int)


class Many:
    """A store with options of all kinds; what is no text cannot be in a URL."""

    def __init__(  # type: ignore[no-untyped-def]
        self,
        path: str | os.PathLike[str] = "",
        retries: int = 0,
        *,
        flag: bool = False,
        count: int = 0,
        most: int | None = 1,
        share: float = 0.5,
        name: str | None = None,
        mode: Literal["r", "w"] = "r",
        client: Path | None = None,
        known_to_checkers: Callable[[], int] | None = None,
        bare=None,  # noqa: ANN001 - no type is no option
    ) -> None:
        pass


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("flag=YES&count=0", {"flag": True, "count": 0}),
        ("flag=0", {"flag": False}),
        ("count=1e8", {"count": 10**8}),
        ("count=-12", {"count": -12}),
        ("count=9007199254740993", {"count": 2**53 + 1}),
        ("most=None", {"most": None}),
        ("most=7", {"most": 7}),
        ("share=1e-3", {"share": 0.001}),
        ("name=none", {"name": None}),
        ("name=a+b%26%3Dc%C3%A9", {"name": "a b&=cé"}),
        ("name=", {"name": ""}),
        ("mode=w", {"mode": "w"}),
    ],
)
def test_an_option_is_read_by_its_type(query: str, expected: dict[str, object]) -> None:
    options = read_options("many", Many, query)
    assert options == expected
    assert [*map(type, options.values())] == [*map(type, expected.values())]


@pytest.mark.parametrize(
    "query",
    [
        *("flag=maybe", "flag", "count=1.5", "count=inf", "count=", "count=ten", "share=half", "mode=x"),
        *("client=none", "known_to_checkers=1", "bare=1", "retries=3", "path=x", "self=1", "flags=1"),
        *("count=1&count=1", "", "&", "a/path"),
    ],
)
def test_an_option_that_is_none_is_refused_with_all_that_there_are(query: str) -> None:
    with pytest.raises(ValueError, match="cannot be opened") as caught:
        read_options("many", Many, query)
    told = str(caught.value).partition("its options are: ")[2]
    assert told == (
        "flag=(true | false), count=(a whole number), most=(a whole number | none), share=(a number), "
        "name=(none | text), mode=(r | w)"
    )


def test_a_store_without_options_says_so_and_one_that_needs_some_names_them() -> None:
    def needy(*, host: str) -> None: ...

    with pytest.raises(ValueError, match=r"'x'.*options are: none"):
        read_options("plain", lambda path: path, "x=1")
    with pytest.raises(ValueError, match="'host' is missing"):
        read_options("needy", needy, None)


@pytest.mark.parametrize("scheme", STORES)
def test_every_keyword_of_our_stores_is_an_option(scheme: str) -> None:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    with pytest.raises(ValueError, match="its options are: ") as caught:
        open_store(f"{scheme}://{'' if scheme == 'memory' else 'c'}?nothing=1")
    of_disk = "shared mapped max_bytes ttl"
    of_postgres = "schema table timeout connect_timeout batch sign"
    of_redis = "prefix ttl batch sign cluster timeout"
    others = {
        "memory": "max_bytes",
        "parquet": f"compression {of_disk}",
        "postgres": of_postgres,
        "postgresql": of_postgres,
        "redis": of_redis,
        "rediss": of_redis,
    }
    keywords = others.get(scheme, of_disk)
    assert re.findall(r"(\w+)=\(", str(caught.value)) == keywords.split()


# Paths


@pytest.mark.parametrize(
    "name", ["what?", "a?b=c", "100%", "a%20b", "one#two", "a b", "ü", "~x", "x~", "a:b"]
)
def test_a_plain_path_is_taken_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (f"./{name}", tmp_path / name, str(tmp_path / name), name):
        store: Any = open_store(path)
        assert store.path == tmp_path / name


@pytest.mark.parametrize("name", ["100%", "a%20b", "one#two", "a b", "ü", "x~"])
def test_the_path_of_a_url_is_taken_as_it_is_up_to_the_options(name: str, tmp_path: Path) -> None:
    for query in ("", "?shared=1"):
        store: Any = open_store(f"arrow://{tmp_path}/{name}{query}")
        assert store.path == tmp_path / name


def test_a_path_with_a_scheme_inside_is_a_path(tmp_path: Path) -> None:
    store: Any = open_store(f"{tmp_path}/parquet://x")
    assert isinstance(store, ArrowStore)
    assert store.path == tmp_path / "parquet:" / "x"


@pytest.mark.parametrize("path", ["~/c", Path("~/c"), "arrow://~/c", "parquet://~/c?compression=zstd"])
def test_a_tilde_is_the_home_of_the_user(path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store: Any = open_store(path)
    assert store.path == tmp_path / "c"


def test_the_home_of_another_user_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/elsewhere")
    store: Any = open_store("~root/c")
    assert store.path == Path("~root/c").expanduser()
    assert "~" not in str(store.path)


def test_a_tilde_finds_the_format_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    CachedEmbeddingModel(FakeEmbeddingModel(), "parquet://~/c").embed_sync(["a"])
    assert isinstance(open_store("~/c"), ParquetStore)


# What is another tool's


def files(*names: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).touch()

    return make


def diskcache(path: Path) -> None:
    with pytest.importorskip("diskcache").Cache(str(path)) as cache:
        cache["a"] = 1


def langchains_cache(path: Path) -> None:
    embeddings = pytest.importorskip("langchain_classic.embeddings")
    storage = pytest.importorskip("langchain_classic.storage")
    fake = pytest.importorskip("langchain_core.embeddings").DeterministicFakeEmbedding(size=3)
    embeddings.CacheBackedEmbeddings.from_bytes_store(
        fake, storage.LocalFileStore(path), namespace="text-embedding-3-small"
    ).embed_documents(["a"])


def llama_indexs_storage(path: Path) -> None:
    pytest.importorskip("llama_index.core").StorageContext.from_defaults().persist(str(path))


def faiss_of_langchain(path: Path) -> None:
    pytest.importorskip("faiss")
    stores = pytest.importorskip("langchain_community.vectorstores")
    fake = pytest.importorskip("langchain_core.embeddings").DeterministicFakeEmbedding(size=3)
    stores.FAISS.from_texts(["a"], fake).save_local(str(path))


def dataset(path: Path) -> None:
    pytest.importorskip("datasets").Dataset.from_dict({"a": [1]}).save_to_disk(path)


OTHERS: dict[str, Callable[[Path], None]] = {
    "diskcache": diskcache,
    "Chroma": files("chroma.sqlite3", "5d0c/data_level0.bin"),
    "FAISS": faiss_of_langchain,
    "LlamaIndex": llama_indexs_storage,
    "CacheBackedEmbeddings": langchains_cache,
    "model of HuggingFace": files("config.json", "modules.json", "model.safetensors"),
    "dataset of HuggingFace": dataset,
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("what", OTHERS)
def test_a_directory_of_another_tool_is_refused_before_anything_is_spent(what: str, tmp_path: Path) -> None:
    OTHERS[what](tmp_path / "c")
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=rf"{what}.*cache=.*arrow://") as caught:
        CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path / "c")
    assert str(tmp_path / "c") in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == there


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_url_opens_it_all_the_same_and_then_its_path_does(tmp_path: Path) -> None:
    files("chroma.sqlite3")(tmp_path)
    CachedEmbeddingModel(FakeEmbeddingModel(), f"parquet://{tmp_path}").embed_sync(["a"])
    assert isinstance(open_store(tmp_path), ParquetStore)


def kuras_checkpoints(path: Path) -> None:
    JSONLCheckpointManager(path).save_checkpoint("summaries", [Leaf(value=1)])


HARMLESS: dict[str, Callable[[Path], None]] = {
    "a project": files(
        ".git/HEAD", ".git/config", "pyproject.toml", "config.json", "main.py", "data.parquet"
    ),
    "a cache of much": files("mypy/3.11/x.json", "http.sqlite", "notes.pkl", "state.json", ".cache.db"),
    "sessions by their UUID": files("s-21f7f8de-8051-5b89-8680-0195ef798b6a/log", "21f7f8de-8051-5b89.txt"),
    "random names": files("up-21f7f8de-8051-4b89-8680-0195ef798b6a", f"sha256-{'0f' * 32}"),
    "Kura's checkpoints": kuras_checkpoints,
    "another tool's below": files("chroma/chroma.sqlite3", "model/config.json", "model/model.safetensors"),
    "Kura's own": files("conversations.json", "clusters.jsonl", "meta_clusters.jsonl"),
}


@pytest.mark.parametrize("there", HARMLESS)
def test_a_directory_of_the_users_is_not_refused(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    HARMLESS[there](tmp_path)
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_store("./"), ArrowStore)
    assert CachedEmbeddingModel(model := FakeEmbeddingModel(), "./").embed_sync(["a"]) == model.lists(["a"])
    assert caplog.records == []


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to(__file__)])
def test_a_file_is_no_cache(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "c")
    with pytest.raises(ValueError, match=r"c is a file.*cache="):
        CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path / "c")
    assert isinstance(open_store(f"arrow://{tmp_path}/c"), ArrowStore)


# Entry points


def test_a_broken_entry_point_names_its_distribution_and_the_cause_and_harms_no_other(site: Site) -> None:
    groups = {
        (STORES_GROUP, "absent"): "nowhere_at_all:Store",
        (STORES_GROUP, "nameless"): "broken_one:Missing",
        (STORES_GROUP, "raising"): "broken_two:Store",
        (STORES_GROUP, "odd"): "broken_one:number",
        (STORES_GROUP, "fine"): "kura_cache_adapters.stores:MemoryStore",
    }
    site.install("broken_one", groups, "number = 1")
    site.install("broken_two", {}, "raise RuntimeError('out of order')")
    for scheme, cause in {
        "absent": "ModuleNotFoundError.*nowhere_at_all",
        "nameless": "AttributeError.*Missing",
        "raising": "RuntimeError: out of order",
        "odd": "broken_one:number, which is not a store's class",
    }.items():
        with pytest.raises(RegistrationError, match=rf"'{scheme}' of broken_one 1\.0.*{cause}"):
            open_store(f"{scheme}://x")
    assert isinstance(open_store("fine://"), MemoryStore)
    assert isinstance(open_store("memory://"), MemoryStore)


def test_what_an_entry_point_makes_must_be_a_store(site: Site) -> None:
    site.install("no_store", {(STORES_GROUP, "number"): "no_store:make"}, "def make(): return 1")
    with pytest.raises(ValueError, match="makes a int, which is no EmbeddingStore"):
        open_store("number://")


def test_an_unknown_scheme_is_told_all_that_there_are(site: Site) -> None:
    site.install("one_more", {(STORES_GROUP, "zebra"): "one_more:Store"}, "")
    with pytest.raises(ValueError, match=r"no store for s4://; there are arrow, hf, .*, zebra"):
        open_store("s4://bucket")


@pytest.mark.parametrize(
    ("typed", "cure"),
    [
        ("redis:/me:MARKED@h", "redis://"),
        ("redis//me:MARKED@h", "redis://"),
        ("rediss:h", "rediss://"),
        ("Redis:/h", "redis://"),
        ("postgresql:/me:MARKED@h/db", "postgresql://"),
        ("postgres:me:MARKED@h/db", "postgres://"),
        ("s3:/bucket", "s3://"),
        ("az:/MARKED@bucket", "az://"),
        ("parquet:./cache", "parquet://"),
        (Path("redis://me:MARKED@h/0"), "as a str"),
        ("me:MARKED@h:6379/0", "redis://"),
        (":MARKED@h", "redis://"),
        ("redis;//me:MARKED@h", "redis://"),
        ("me:MARKED@redis://h", "redis://"),
        (" redis://me:MARKED@h", "redis://"),
    ],
)
def test_a_mistyped_url_is_refused_and_no_directory_has_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str | Path, cure: str
) -> None:
    monkeypatch.chdir(tmp_path)
    makers: list[Callable[[Any], object]] = [
        as_store,
        lambda cache: as_store(["./cache", cache]),
        lambda cache: Embed(FakeEmbeddingModel, cache),
        lambda cache: Embed(FakeEmbeddingModel, ["./cache", cache]),
    ]
    for make in makers:
        with pytest.raises(ValueError, match=cure) as refused:
            make(typed)
        assert "MARKED" not in str(refused.value)
    with pytest.raises(ValueError, match="s3://") as refused:
        open_cache("./cache").push(str(typed))
    assert "MARKED" not in str(refused.value)
    assert [*tmp_path.iterdir()] == []


def test_the_scheme_of_another_distribution_is_known_when_it_is_mistyped(site: Site) -> None:
    site.install("one_more", {(STORES_GROUP, "zebra"): "one_more:Store"}, "")
    with pytest.raises(ValueError, match="write zebra://"):
        open_store("zebra:/x")


@pytest.mark.parametrize(
    "path",
    [
        "C:\\Users\\me@h\\cache",
        "C:/Users/me@h/cache",
        "D:",
        "runs:2024",
        "runs:10:30/me@h",
        "./redis:6379",
        "a@b:c",
        "redis",
        "redis/h",
        Path("redis:6379"),
        Path("a:b@c"),
    ],
)
def test_drives_and_names_with_a_colon_stay_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | Path
) -> None:
    monkeypatch.chdir(tmp_path)
    store = as_store(path)
    assert isinstance(store, ArrowStore)
    assert store.path == tmp_path / path


def test_postgres_is_another_word_for_postgresql() -> None:
    pytest.importorskip("psycopg", reason="needs the extra `postgres`")
    assert "'host=h dbname=db user=me'" in repr(as_store("postgres://me:MARKED@h/db"))


def test_two_distributions_that_claim_one_scheme_are_both_named(site: Site) -> None:
    for name in ("claim_one", "claim_two"):
        site.install(name, {(STORES_GROUP, "both"): f"{name}:Store"}, "class Store: pass")
    with pytest.raises(RegistrationError, match=r"claim_one 1\.0 and claim_two 1\.0.*more than once"):
        open_store("both://")


def test_what_is_ours_is_not_taken_over_and_asks_for_no_entry_points(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    path = next(path for path in RECORDS if path.startswith("langchain_core:"))
    package, _, name = path.partition(":")
    groups = {(STORES_GROUP, "arrow"): "taker:Taken"}
    groups[PROVIDERS_GROUP, package] = "taker:RECORDS"
    site.install("taker", groups, "raise SystemExit('was loaded')")
    monkeypatch.setattr("kura_cache_adapters._runtime.entry_points.entry_points", None)
    assert isinstance(open_store(f"arrow://{tmp_path}"), ArrowStore)
    methods = dict.fromkeys(("embed_documents", "embed_query"), list)
    found = known(type(name, (), {"__module__": f"{package}.somewhere", **methods})())
    assert (found.path, found.record) == (path, RECORDS[path])
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ("raise ImportError('not today')", "ImportError: not today"),
        ("RECORDS = ['Embedder']", "which is not a mapping of 'oddrecords3:ClassName'"),
        ("RECORDS = {'oddrecords3:Embedder': {'name': 'model'}}", "which is not a mapping"),
        (
            "from kura_cache_adapters.embedding import Provider\nRECORDS = {'openai:Client': Provider()}",
            "which is not a mapping",
        ),
    ],
)
def test_a_broken_record_is_an_error_since_what_it_would_refuse_is_not_known(
    records: str, why: str, site: Site
) -> None:
    site.install("oddrecords3", {(PROVIDERS_GROUP, "oddrecords3"): "oddrecords3:RECORDS"}, records)

    class Embedder:
        model = "m"

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[1.0] for _ in texts]

    Embedder.__module__, Embedder.__qualname__ = "oddrecords3.inside", "Embedder"
    with pytest.raises(RegistrationError, match=rf"'oddrecords3' of oddrecords3 1\.0.*{why}"):
        CachedEmbeddingModel(Embedder(), "memory://")


def test_a_record_of_one_package_is_not_asked_for_by_another(site: Site) -> None:
    site.install("other_records", {(PROVIDERS_GROUP, "other_records"): "nowhere:R"}, "")
    assert known(FakeEmbeddingModel()).record is None
