"""Identities of real embedders: what changes a vector moves its keys, and nothing else does."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kura_cache_adapters import IdentityError
from kura_cache_adapters._identity.fingerprint import fingerprint, state
from kura_cache_adapters._identity.providers import RECORDS, known
from kura_cache_adapters._identity.reading import held
from kura_cache_adapters.identity import ModelIdentity
from tests import provider_table
from tests.provider_cases import CASES, LANGCHAIN, LLAMA_INDEX, LOCAL, SECRET, Case, http_client

DIGESTS = Path(__file__).with_name("digests.json")
# Options that some supported releases do not have yet.
NEWER = {"dimensions", "output_dimensionality", "application_inference_profile_arn"}
OPENAI, LLAMA_OPENAI = LANGCHAIN[0], LLAMA_INDEX[0]
AROUND = {  # built in tests of their own
    "kura_cache_adapters:LangChainCachedEmbeddings",
    "kura_cache_adapters:LlamaIndexCachedEmbedding",
    "langchain_classic:CacheBackedEmbeddings",
    "langchain_core:FakeEmbeddings",
    "langchain_huggingface:HuggingFaceEmbeddings",
    "llama_index.embeddings.adapter:AdapterEmbeddingModel",
    "llama_index.embeddings.huggingface:HuggingFaceEmbedding",
    "llama_index.embeddings.langchain:LangchainEmbedding",
}
named = pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.partition(":")[2])


def keys(embedder: Any) -> tuple[bytes, bytes]:
    """Return what is hashed before a document, and before a query."""
    seen = fingerprint(embedder)
    document = seen.identity.head("document")
    return document, seen.identity.head("query") if seen.roles else document


def told(embedder: Any) -> str:
    seen = fingerprint(embedder)
    return json.dumps([seen.name, seen.fields, seen.of_roles])


def offered(case: Case, change: dict[str, Any]) -> bool:
    return all(name in getattr(case.kind, "model_fields", NEWER) for name in NEWER & change.keys())


@named
def test_what_changes_the_vector_moves_its_keys_and_nothing_else_does(case: Case) -> None:
    embedder = case.build()
    plain = keys(embedder)
    assert keys(case.build()) == plain
    assert fingerprint(embedder).roles == case.roles
    assert not fingerprint(embedder).local
    assert SECRET not in told(embedder)
    seen: dict[Any, Any] = {plain: "the plain one"}
    for change in case.changes + case.queries + case.documents:
        if offered(case, change):
            changed = keys(case.build(**change))
            assert changed not in seen, (change, seen[changed])
            seen[changed] = change
            assert SECRET not in told(case.build(**change)), change
    for change in case.same:
        other = case.build(**change)
        assert keys(other) == plain, change
        assert SECRET not in told(other), change


@named
def test_what_is_for_one_role_leaves_the_others_keys_alone(case: Case) -> None:
    plain = fingerprint(case.build()).identity
    for change in case.queries:
        changed = fingerprint(case.build(**change)).identity
        assert changed.head("document") == plain.head("document"), change
        assert changed.digest == plain.digest, "they share a directory"
    for change in case.documents:
        changed = fingerprint(case.build(**change)).identity
        assert changed.head("query") == plain.head("query"), change


@named
def test_every_field_is_placed_exactly_once(case: Case) -> None:
    embedder = case.build()
    record = known(embedder).record
    assert record, f"{case.path} has no record"
    assert_placed(embedder, record)


def assert_placed(embedder: Any, record: Any) -> None:
    placed = list(record.placed())
    names = [name.rstrip("?") for name in placed]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    kind = type(embedder)
    private = set(getattr(kind, "__private_attributes__", {}))
    there = {name for name, _ in held(embedder)} | set(getattr(kind, "model_fields", {})) | private
    assert not there - set(names), "in none of the record's categories"
    assert not {name for name in placed if not name.endswith("?")} - there, "the class has no such field"


def test_every_record_has_a_case() -> None:
    # Where all embedders are installed, a class that is gone or renamed fails its case.
    paths = {re.sub(r"^((?:llama_index\.embeddings\.)?\w+)[\w.]*:", r"\1:", case.path) for case in CASES}
    assert paths | AROUND == set(RECORDS)


@named
def test_a_fact_that_is_gone_is_an_error_and_never_a_silent_none(case: Case) -> None:
    record = known(case.build()).record
    assert record
    for names in (record.name, record.decides, record.queries, record.documents, record.addresses):
        for name in names.split():
            if name.endswith("?") or "." in name:
                continue
            embedder = case.build()
            for place in (embedder.__dict__, getattr(embedder, "__pydantic_private__", None) or {}):
                place.pop(name, None)
            if not hasattr(embedder, name) and name in f"{record.name} {record.decides}".split():
                with pytest.raises(IdentityError, match=f"has no {name} any more"):
                    fingerprint(embedder)


def test_an_address_that_a_client_no_longer_tells_is_an_error() -> None:
    embedder = OPENAI.build()
    embedder.client._client = SimpleNamespace(_custom_headers={}, _custom_query={})
    with pytest.raises(IdentityError, match=r"has no client\._client\.base_url any more"):
        fingerprint(embedder)


def test_digests_are_those_of_every_supported_release() -> None:
    now: dict[str, str] = {}
    for case in CASES:
        try:
            embedder = case.build()
        except pytest.skip.Exception:
            continue
        now[case.path] = fingerprint(embedder).identity.digest
    before = json.loads(DIGESTS.read_text())
    if "KURA_WRITE_DIGESTS" in os.environ:
        before |= now
        DIGESTS.write_text(json.dumps(before, indent=2, sort_keys=True) + "\n")
    assert {path: before.get(path) for path in now} == now


# What the SDKs take from the environment, and what they make later


def test_the_address_that_the_sdk_took_from_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = keys(OPENAI.build(base_url=None))
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://user:{SECRET}@127.0.0.1:9/v1?token={SECRET}")
    proxied = OPENAI.build(base_url=None)
    assert keys(proxied) != plain
    address = fingerprint(proxied).fields["address"]
    assert address.startswith(f"{LOCAL}/v1?token=")  # sealed: it may choose what is opened
    assert SECRET not in address


@pytest.mark.parametrize(
    ("case", "variable", "none"),
    [
        (LLAMA_OPENAI, "OPENAI_API_BASE", {"api_base": None}),
        (LLAMA_INDEX[1], "AZURE_OPENAI_ENDPOINT", {"azure_endpoint": None}),
        (LANGCHAIN[5], "OLLAMA_HOST", {"base_url": None}),
    ],
)
def test_so_does_that_of_the_others(
    case: Case, variable: str, none: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1/v1")
    one = keys(case.build(**none))
    monkeypatch.setenv(variable, "http://127.0.0.1:2/v1")
    assert keys(case.build(**none)) != one


def test_llama_index_asks_its_own_address_whatever_the_sdks_variable_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = keys(LLAMA_OPENAI.build(api_base=None))
    monkeypatch.setenv("OPENAI_BASE_URL", f"{LOCAL}/v1")
    embedder = LLAMA_OPENAI.build(api_base=None)
    assert keys(embedder) == plain
    with embedder._get_client() as client:
        assert str(client.base_url) == "https://api.openai.com/v1/"


def test_a_client_that_was_handed_in_counts_with_all_it_adds() -> None:
    openai = pytest.importorskip("openai")
    seen = {keys(OPENAI.build())}
    for options in ({"default_query": {"v": "1"}}, {"default_query": {"v": "2"}}, {"base_url": LOCAL}):
        with openai.OpenAI(api_key=SECRET, **options) as client:
            embedder = OPENAI.build(client=client.embeddings)
            assert keys(embedder) not in seen, options
            seen.add(keys(embedder))


def test_a_client_made_on_first_use_changes_nothing(openai_server: Any) -> None:
    embedder = LLAMA_OPENAI.build(api_base=openai_server.url, dimensions=8, max_retries=0, timeout=3)
    before = keys(embedder)
    assert embedder.get_text_embedding("a") == openai_server.lists(["a"], "text-embedding-ada-002")[0]
    assert embedder._client is not None
    assert keys(embedder) == before
    embedder._client.close()


def test_nor_does_that_of_azure_and_cohere() -> None:
    azure, cohere = LLAMA_INDEX[1].build(), LLAMA_INDEX[3].build()
    before = [keys(embedder) for embedder in (azure, cohere)]
    with azure._get_client():
        assert [azure._client, cohere._get_client()]
        assert [keys(embedder) for embedder in (azure, cohere)] == before
    cohere._client._client_wrapper.httpx_client.httpx_client.close()


def test_settings_that_are_changed_live_are_seen_at_a_glance() -> None:
    for embedder, change in (
        (OPENAI.build(), {"dimensions": 8}),
        (OPENAI.build(), {"default_query": {"v": "1"}}),
        (OPENAI.build(), {"client": OPENAI.build(base_url=LOCAL).client}),
        (LLAMA_OPENAI.build(), {"additional_kwargs": {"dimensions": 8}}),
        (LLAMA_OPENAI.build(), {"api_base": LOCAL}),
        (LLAMA_INDEX[7].build(), {"additional_kwargs": {"normalize": True}}),
    ):
        before, key = state(known(embedder)), keys(embedder)
        assert state(known(embedder)) == before
        for name, value in change.items():
            setattr(embedder, name, value)
        assert state(known(embedder)) != before, change
        assert keys(embedder) != key, change


# What cannot be cached


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("langchain_voyageai:VoyageAIEmbeddings", {"model": "voyage-context-3", "api_key": SECRET}),
        (
            "llama_index.embeddings.voyageai:VoyageEmbedding",
            {"model_name": "voyage-context-3", "voyage_api_key": SECRET},
        ),
        (
            "llama_index.embeddings.jinaai:JinaEmbedding",
            {"model": "jina-embeddings-v3", "api_key": SECRET, "late_chunking": True},
        ),
        ("langchain_core.embeddings:FakeEmbeddings", {"size": 3}),
    ],
)
def test_what_has_no_vector_for_a_text_alone_is_refused_named_or_not(
    path: str, arguments: dict[str, Any]
) -> None:
    embedder = Case(path=path).build(**arguments)
    for named_ in (False, True):
        with pytest.raises(IdentityError, match="without a cache"):
            fingerprint(embedder, named=named_)


@pytest.mark.parametrize("case", LLAMA_INDEX, ids=lambda case: case.path.partition(":")[2])
def test_an_embeddings_cache_is_refused_on_every_class_of_llama_index(case: Case) -> None:
    embedder = case.build()
    embedder.embeddings_cache = pytest.importorskip(
        "llama_index.core.storage.kvstore.simple_kvstore"
    ).SimpleKVStore()
    with pytest.raises(IdentityError, match=r"embeddings_cache.*Set it to None"):
        fingerprint(embedder)


@pytest.mark.parametrize("method", ["embed_documents", "embed_query", "_tokenize"])
def test_a_method_that_was_replaced_on_one_embedder_is_the_users_own(method: str) -> None:
    embedder = OPENAI.build()
    object.__setattr__(embedder, method, lambda _: [[0.0]])
    with pytest.raises(IdentityError, match=f"{method} replaced by code of your own.*model_name="):
        fingerprint(embedder)
    assert fingerprint(embedder, named=True).fields == {}


# Wrappers and adapters


def test_wrappers_are_placed_and_seen_through() -> None:
    beneath = OPENAI.build()
    base = pytest.importorskip("llama_index.embeddings.langchain").LangchainEmbedding
    wrapped = base(beneath)
    assert known(wrapped).embedder is beneath
    assert_placed(wrapped, RECORDS["llama_index.embeddings.langchain:LangchainEmbedding"])
    classic = pytest.importorskip("langchain_classic.embeddings").CacheBackedEmbeddings
    backed = classic(beneath, None)
    assert known(backed).embedder is beneath
    assert_placed(backed, RECORDS["langchain_classic:CacheBackedEmbeddings"])
    object.__setattr__(wrapped, "_get_text_embedding", lambda _: [0.0])
    with pytest.raises(IdentityError, match="replaced by code of your own"):
        fingerprint(wrapped)


def adapter(base: Any, folder: Path, scale: float = 1.0, **options: Any) -> Any:
    torch = pytest.importorskip("torch", reason="adapters need torch")
    package = pytest.importorskip("llama_index.embeddings.adapter", reason="needs it")
    layer = package.LinearLayer(3, 3)
    with torch.no_grad():
        layer.linear.weight.mul_(scale)
    layer.save(str(folder))
    return package.LinearAdapterEmbeddingModel(base, str(folder), device="cpu", **options)


def test_an_adapter_is_its_base_its_weights_and_not_its_path(tmp_path: Path) -> None:
    mock = LLAMA_INDEX[-1]
    plain = adapter(mock.build(), tmp_path / "a")
    assert_placed(plain, RECORDS["llama_index.embeddings.adapter:AdapterEmbeddingModel"])
    document, query = keys(plain)
    assert keys(adapter(mock.build(), tmp_path / "b")) == (document, query), "only another path"
    assert document == keys(mock.build())[0], "documents are those of the base model"
    assert query != document
    trained = keys(adapter(mock.build(), tmp_path / "a", 2.0))
    assert trained[0] == document
    assert trained[1] not in {document, query}, "other weights at the same path"
    assert keys(adapter(mock.build(embed_dim=4), tmp_path / "a"))[0] != document
    assert keys(adapter(mock.build(), tmp_path / "a", transform_query=False)) == keys(mock.build())


def test_an_adapter_that_is_trained_live_is_seen(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="adapters need torch")
    embedder = adapter(LLAMA_INDEX[-1].build(), tmp_path)
    before, key = state(known(embedder)), keys(embedder)
    assert state(known(embedder)) == before
    with torch.no_grad():
        embedder._adapter.linear.weight.mul_(3)
    assert state(known(embedder)) != before
    assert keys(embedder)[0] == key[0]
    assert keys(embedder)[1] != key[1]


def test_fastembeds_model_is_its_files(tmp_path: Path) -> None:
    text = pytest.importorskip("fastembed", reason="needs fastembed").TextEmbedding
    case = next(case for case in LANGCHAIN if "FastEmbed" in case.path)
    seen = set()
    for at, content in enumerate(["one", "two", "one"]):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        (folder / "model.onnx").write_text(content)
        model = text("BAAI/bge-small-en-v1.5", specific_model_path=str(folder), lazy_load=True)
        seen.add(keys(case.build(model=lambda model=model: model)))
    assert len(seen) == 2


# Local models in the frameworks


def test_a_local_models_identity_is_what_embeds_through_langchain(minilm: Path, tmp_path: Path) -> None:
    package = pytest.importorskip("langchain_huggingface", reason="needs langchain-huggingface")

    def make(path: Path = minilm, **options: Any) -> Any:
        return package.HuggingFaceEmbeddings(model_name=str(path), **options)

    embedder = make()
    assert_placed(embedder, RECORDS["langchain_huggingface:HuggingFaceEmbeddings"])
    plain = keys(embedder)
    assert fingerprint(embedder).local
    assert fingerprint(embedder).roles == ()
    changes: list[dict[str, Any]] = [
        {"model_kwargs": {"truncate_dim": 64}},
        {"encode_kwargs": {"normalize_embeddings": True}},
        {"encode_kwargs": {"precision": "binary"}},
    ]
    for change in changes:
        assert keys(make(**change))[0] != plain[0], change
    query = make(query_encode_kwargs={"prompt": "query: "})
    assert keys(query)[0] == plain[0]
    assert keys(query)[1] != plain[1]
    harmless: list[dict[str, Any]] = [
        {"model_kwargs": {"device": "cpu"}},
        {"model_kwargs": {"prompts": {"unused": "q: "}}},
        {"encode_kwargs": {"batch_size": 7}},
        {"encode_kwargs": {"normalize_embeddings": False}},
        {"show_progress": True},
        {"cache_folder": str(tmp_path)},
    ]
    for same in harmless:
        assert keys(make(**same)) == plain, same
    for precision in ("int8", "uint8"):
        for options in (
            {"encode_kwargs": {"precision": precision}},
            {"query_encode_kwargs": {"precision": precision}},
        ):
            with pytest.raises(IdentityError, match="without a cache"):
                fingerprint(make(minilm, **options))


def test_and_through_llama_index(minilm: Path) -> None:
    package = pytest.importorskip(
        "llama_index.embeddings.huggingface", reason="needs its HuggingFaceEmbedding"
    )

    def make(**options: Any) -> Any:
        return package.HuggingFaceEmbedding(model_name=str(minilm), device="cpu", **options)

    embedder = make()
    assert_placed(embedder, RECORDS["llama_index.embeddings.huggingface:HuggingFaceEmbedding"])
    plain = keys(embedder)
    assert fingerprint(embedder).roles == ()
    query = make(query_instruction="query: ")
    assert keys(query)[0] == plain[0], "a query's instruction is not the documents'"
    assert keys(query)[1] != plain[1]
    changes: list[dict[str, Any]] = [
        {"text_instruction": "text: "},
        {"normalize": False},
        {"max_length": 16},
        {"config_kwargs": {"num_hidden_layers": 2}},
        {"truncate_dim": 64},
    ]
    for change in changes:
        assert keys(make(**change))[0] != plain[0], change
    same = make(embed_batch_size=7, cache_folder="x", show_progress_bar=True, revision="main")
    assert keys(same) == plain


def test_an_identity_holds_the_roles_of_a_record() -> None:
    embedder = LLAMA_OPENAI.build(mode="text_search", model="ada")
    seen = fingerprint(embedder)
    assert isinstance(seen.identity, ModelIdentity)
    assert "text-search-ada-doc-001" in seen.identity.head("document").decode()
    assert "text-search-ada-query-001" not in seen.identity.head("document").decode()
    assert "text-search-ada-query-001" in seen.identity.head("query").decode()
    assert keys(LLAMA_OPENAI.build(http_client=http_client())) == keys(LLAMA_OPENAI.build())


def test_the_docs_table_is_what_the_records_say() -> None:
    page = provider_table.PAGE.read_text()
    shown = page.partition(provider_table.BEGIN)[2].partition(provider_table.END)[0]
    assert shown.strip() == provider_table.table(), "run: python -m tests.provider_table"
