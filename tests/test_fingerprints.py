"""Fingerprints of real embedders: what changes the vector changes them, and nothing else does."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kura_cache_adapters.fingerprint import fingerprint
from pydantic import BaseModel, PrivateAttr, SecretStr

from kura_cache_adapters import IdentityError
from kura_cache_adapters.identity import ModelIdentity

SECRET = "MARKED-secret-0123456789"
LOCAL = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Case:
    """How to build an embedder offline, what must change its fingerprint and what must not."""

    path: str
    base: dict[str, Any]
    changes: list[dict[str, Any]]
    same: list[dict[str, Any]] = field(default_factory=list)
    symmetric: bool = False
    unbuilt: bool = False  # its constructor would download a model: fields only

    def build(self, **changed: Any) -> Any:
        module, _, name = self.path.partition(":")
        package = module.split(".")
        top = ".".join(package[:3] if package[0] == "llama_index" else package[:1])
        pytest.importorskip(top, reason=f"{top} is not installed")
        kind = getattr(import_module(module), name)
        arguments = {**self.base, **changed}
        with contextlib.redirect_stdout(io.StringIO()):
            return kind.model_construct(**arguments) if self.unbuilt else kind(**arguments)


LANGCHAIN = [
    Case(
        "langchain_openai:OpenAIEmbeddings",
        {"api_key": SECRET},
        [
            {"model": "text-embedding-3-large"},
            {"dimensions": 256},
            {"base_url": f"{LOCAL}/v1"},
            {"model_kwargs": {"user": "x"}},
            {"embedding_ctx_length": 100},
            {"check_embedding_ctx_length": False},
            {"tiktoken_enabled": False},
            {"tiktoken_model_name": "cl100k_base"},
            {"skip_empty": True},
        ],
        [
            {"chunk_size": 7},
            {"max_retries": 9},
            {"timeout": 3},
            {"api_key": "another"},
            {"default_headers": {"x": SECRET}},
            {"default_query": {"x": SECRET}},
            {"organization": "org"},
            {"api_version": "v9"},
            {"show_progress_bar": True},
            {"deployment": "ignored by OpenAI"},
            {"base_url": f"https://user:{SECRET}@api.openai.com/v1?key={SECRET}"},
        ],
        symmetric=True,
    ),
    Case(
        "langchain_openai:AzureOpenAIEmbeddings",
        {
            "azure_deployment": "one",
            "azure_endpoint": "https://one.example",
            "api_key": SECRET,
            "api_version": "2024-01-01",
        },
        [{"azure_deployment": "two"}, {"azure_endpoint": "https://two.example"}, {"dimensions": 256}],
        [
            {"api_version": "2025-01-01"},
            {"chunk_size": 7},
            {"api_key": "another"},
            {"azure_ad_token": SECRET},
        ],
        symmetric=True,
    ),
    Case(
        "langchain_huggingface:HuggingFaceEndpointEmbeddings",
        {"model": "org/one", "huggingfacehub_api_token": SECRET},
        [{"model": "org/two"}, {"model_kwargs": {"truncate": True}}],
        [{"huggingfacehub_api_token": "another"}],
        symmetric=True,
    ),
    Case(
        "langchain_cohere:CohereEmbeddings",
        {"model": "embed-v4.0", "cohere_api_key": SECRET},
        [
            {"model": "embed-english-v3.0"},
            {"truncate": "START"},
            {"embedding_types": ["int8"]},
            {"base_url": LOCAL},
        ],
        [{"max_retries": 9}, {"user_agent": "x"}, {"request_timeout": 3}, {"cohere_api_key": "another"}],
    ),
    Case(
        "langchain_voyageai:VoyageAIEmbeddings",
        {"model": "voyage-3", "voyage_api_key": SECRET},
        [{"model": "voyage-3-lite"}, {"output_dimension": 256}, {"truncation": False}, {"base_url": LOCAL}],
        [{"batch_size": 7}, {"voyage_api_key": "another"}, {"show_progress_bar": True}],
    ),
    Case(
        "langchain_ollama:OllamaEmbeddings",
        {"model": "nomic-embed-text", "base_url": f"http://user:{SECRET}@127.0.0.1:9"},
        [
            {"model": "bge-m3"},
            {"dimensions": 256},
            {"num_ctx": 512},
            {"temperature": 0.5},
            {"base_url": "http://127.0.0.2:9"},
        ],
        [
            {"keep_alive": 5},
            {"num_thread": 2},
            {"num_gpu": 1},
            {"base_url": LOCAL},
            {"client_kwargs": {"headers": {"x": SECRET}}},
        ],
        symmetric=True,
    ),
    Case(
        "langchain_google_genai:GoogleGenerativeAIEmbeddings",
        {"model": "models/gemini-embedding-001", "google_api_key": SECRET},
        [
            {"model": "text-embedding-004"},
            {"task_type": "CLUSTERING"},
            {"output_dimensionality": 256},
            {"base_url": LOCAL},
        ],
        [
            {"model": "gemini-embedding-001"},
            {"google_api_key": "another"},
            {"request_options": {"timeout": 3}},
            {"additional_headers": {"x": SECRET}},
            {"client_args": {"proxy": f"http://u:{SECRET}@127.0.0.1:9"}},
        ],
    ),
    Case(
        "langchain_aws:BedrockEmbeddings",
        {
            "model_id": "amazon.titan-embed-text-v2:0",
            "region_name": "us-east-1",
            "aws_access_key_id": SECRET,
            "aws_secret_access_key": SECRET,
        },
        [
            {"model_id": "cohere.embed-english-v3"},
            {"normalize": True},
            {"dimensions": 256},
            {"provider": "cohere"},
            {"model_kwargs": {"x": 1}},
            {"endpoint_url": LOCAL},
        ],
        [{"region_name": "eu-west-1"}, {"aws_secret_access_key": "another"}],
    ),
    Case(
        "langchain_mistralai:MistralAIEmbeddings",
        {"api_key": SECRET},
        [{"model": "codestral-embed"}, {"endpoint": f"{LOCAL}/v1/"}],
        [{"max_concurrent_requests": 2}, {"api_key": "another"}, {"max_retries": 9}, {"timeout": 3}],
        symmetric=True,
    ),
    Case(
        "langchain_community.embeddings:JinaEmbeddings",
        {"model_name": "jina-v3", "jina_api_key": SECRET},
        [{"model_name": "jina-v2"}],
        [{"jina_api_key": "another"}],
        symmetric=True,
    ),
    Case(
        "langchain_community.embeddings:FastEmbedEmbeddings",
        {"model_name": "BAAI/bge-small-en-v1.5", "model": object()},
        [{"model_name": "BAAI/bge-base-en-v1.5"}, {"max_length": 100}, {"doc_embed_type": "passage"}],
        [{"cache_dir": "x"}, {"threads": 2}, {"batch_size": 7}, {"parallel": 2}, {"model": object()}],
        unbuilt=True,
    ),
    Case(
        "langchain_nomic:NomicEmbeddings",
        {"model": "nomic-embed-text-v1.5"},
        [{"model": "nomic-embed-text-v1"}, {"dimensionality": 256}, {"inference_mode": "local"}],
        [{"device": "gpu"}],
    ),
]

LLAMA_INDEX = [
    Case(
        "llama_index.embeddings.openai:OpenAIEmbedding",
        {"api_key": SECRET, "api_base": "https://api.openai.com/v1"},
        [
            {"model": "text-embedding-3-large"},
            {"mode": "text_search", "model": "ada"},
            {"dimensions": 256},
            {"api_base": f"{LOCAL}/v1"},
            {"additional_kwargs": {"user": "x"}},
        ],
        [
            {"timeout": 3},
            {"max_retries": 2},
            {"embed_batch_size": 7},
            {"api_key": "another"},
            {"default_headers": {"x": SECRET}},
            {"num_workers": 2},
            {"reuse_client": False},
        ],
        symmetric=True,
    ),
    Case(
        "llama_index.embeddings.azure_openai:AzureOpenAIEmbedding",
        {
            "azure_deployment": "one",
            "azure_endpoint": "https://one.example",
            "api_key": SECRET,
            "api_version": "2024-01-01",
        },
        [{"azure_deployment": "two"}, {"azure_endpoint": "https://two.example"}, {"dimensions": 256}],
        [{"api_version": "2025-01-01"}, {"embed_batch_size": 7}, {"api_key": "another"}],
        symmetric=True,
    ),
    Case(
        "llama_index.embeddings.huggingface_api:HuggingFaceInferenceAPIEmbedding",
        {"model_name": "org/one", "token": SECRET},
        [
            {"model_name": "org/two"},
            {"pooling": "mean"},
            {"query_instruction": "q: "},
            {"text_instruction": "t: "},
            {"task": "x"},
        ],
        [
            {"token": "another"},
            {"headers": {"x": SECRET}},
            {"cookies": {"x": SECRET}},
            {"timeout": 3.0},
        ],
    ),
    Case(
        "llama_index.embeddings.cohere:CohereEmbedding",
        {"model_name": "embed-english-v3.0", "api_key": SECRET},
        [
            {"model_name": "embed-multilingual-v3.0"},
            {"input_type": "search_query"},
            {"truncate": "START"},
            {"embedding_type": "int8"},
            {"base_url": LOCAL},
        ],
        [{"api_key": "another"}, {"embed_batch_size": 7}, {"timeout": 3.0}],
    ),
    Case(
        "llama_index.embeddings.voyageai:VoyageEmbedding",
        {"model_name": "voyage-3", "voyage_api_key": SECRET},
        [
            {"model_name": "voyage-3-lite"},
            {"output_dimension": 256},
            {"output_dtype": "int8"},
            {"truncation": False},
        ],
        [{"voyage_api_key": "another"}, {"embed_batch_size": 7}],
    ),
    Case(
        "llama_index.embeddings.ollama:OllamaEmbedding",
        {"model_name": "nomic-embed-text", "base_url": LOCAL},
        [
            {"model_name": "bge-m3"},
            {"query_instruction": "q: "},
            {"text_instruction": "t: "},
            {"ollama_additional_kwargs": {"num_ctx": 512}},
            {"base_url": "http://127.0.0.2:9"},
        ],
        [{"keep_alive": "5m"}, {"client_kwargs": {"headers": {"x": SECRET}}}, {"embed_batch_size": 7}],
    ),
    Case(
        "llama_index.embeddings.google_genai:GoogleGenAIEmbedding",
        {"model_name": "gemini-embedding-001", "api_key": SECRET},
        [
            {"model_name": "text-embedding-004"},
            {"embedding_config": {"output_dimensionality": 256}},
            {"embedding_config": {"task_type": "CLUSTERING"}},
        ],
        [{"api_key": "another"}, {"retries": 2}, {"timeout": 3}, {"embed_batch_size": 7}],
    ),
    Case(
        "llama_index.embeddings.bedrock:BedrockEmbedding",
        {
            "model_name": "amazon.titan-embed-text-v2:0",
            "region_name": "us-east-1",
            "aws_access_key_id": SECRET,
            "aws_secret_access_key": SECRET,
        },
        [
            {"model_name": "cohere.embed-english-v3"},
            {"additional_kwargs": {"normalize": True}},
            {"application_inference_profile_arn": "arn:aws:bedrock:us-east-1:1:profile/x"},
        ],
        [{"region_name": "eu-west-1"}, {"aws_secret_access_key": "another"}, {"max_retries": 2}],
    ),
    Case(
        "llama_index.embeddings.mistralai:MistralAIEmbedding",
        {"api_key": SECRET},
        [{"model_name": "codestral-embed"}],
        [{"api_key": "another"}, {"embed_batch_size": 7}],
        symmetric=True,
    ),
    Case(
        "llama_index.embeddings.jinaai:JinaEmbedding",
        {"api_key": SECRET, "model": "jina-embeddings-v3"},
        [
            {"model": "jina-embeddings-v2-base-en"},
            {"task": "retrieval.passage"},
            {"dimensions": 256},
            {"encoding_queries": "binary"},
            {"encoding_documents": "binary"},
        ],
        [{"api_key": "another"}, {"embed_batch_size": 7}],
    ),
    Case(
        "llama_index.embeddings.fastembed:FastEmbedEmbedding",
        {"model_name": "BAAI/bge-small-en-v1.5"},
        [{"model_name": "BAAI/bge-base-en-v1.5"}, {"doc_embed_type": "passage"}],
        [{"cache_dir": "x"}, {"threads": 2}, {"embed_batch_size": 7}],
        unbuilt=True,
    ),
    Case(
        "llama_index.embeddings.nomic:NomicEmbedding",
        {"model_name": "nomic-embed-text-v1.5"},
        [
            {"model_name": "nomic-embed-text-v1"},
            {"dimensionality": 256},
            {"query_task_type": "classification"},
            {"document_task_type": "clustering"},
            {"inference_mode": "local"},
        ],
        [{"device": "gpu"}, {"embed_batch_size": 7}],
    ),
]


def digest(embedder: Any) -> str:
    seen = fingerprint(embedder)
    return ModelIdentity.of(seen.name, {}, seen.fields).digest


@pytest.mark.filterwarnings("ignore")  # of constructors: deprecated options, newer models
@pytest.mark.parametrize("case", [*LANGCHAIN, *LLAMA_INDEX], ids=lambda case: case.path.partition(":")[2])
def test_what_changes_the_vector_changes_the_fingerprint_and_nothing_else_does(case: Case) -> None:
    embedder = case.build()
    plain = digest(embedder)
    assert digest(case.build()) == plain
    assert fingerprint(embedder).symmetric is case.symmetric
    assert not fingerprint(embedder).local
    seen = {plain: "the plain one"}
    for change in case.changes:
        changed = digest(case.build(**change))
        assert changed not in seen, (change, seen[changed])
        seen[changed] = str(change)
    for change in case.same:
        other = case.build(**change)
        assert digest(other) == plain, change
        assert SECRET not in json.dumps(fingerprint(other).fields), change
    assert SECRET not in json.dumps(fingerprint(embedder).fields)


def test_the_address_that_the_sdk_took_from_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    openai = LANGCHAIN[0]
    plain = digest(openai.build())
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://user:{SECRET}@127.0.0.1:9/v1?token={SECRET}")
    proxied = openai.build()
    assert digest(proxied) != plain
    assert fingerprint(proxied).fields["attributes"]["@address"] == [f"{LOCAL}/v1"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("langchain_voyageai:VoyageAIEmbeddings", {"model": "voyage-context-3", "api_key": SECRET}),
        (
            "llama_index.embeddings.jinaai:JinaEmbedding",
            {"model": "jina-embeddings-v3", "api_key": SECRET, "late_chunking": True},
        ),
    ],
)
def test_models_that_embed_a_batch_as_one_document_are_refused(path: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(IdentityError, match="without a cache"):
        fingerprint(Case(path, arguments, []).build())


def test_a_client_made_on_first_use_changes_nothing(openai_server: Any) -> None:
    package = pytest.importorskip("llama_index.embeddings.openai", reason="needs LlamaIndex's OpenAI")
    embedder = package.OpenAIEmbedding(api_base=openai_server.url, dimensions=8, max_retries=0)
    before = digest(embedder)
    assert embedder.get_text_embedding("a") == openai_server.lists(["a"], "text-embedding-ada-002")[0]
    assert embedder._client is not None
    assert digest(embedder) == before
    embedder._client.close()


# Local models


def test_a_local_models_prompts_truncation_and_files_count(minilm: Path, tmp_path: Path) -> None:
    package = pytest.importorskip("langchain_huggingface", reason="needs langchain-huggingface")
    sentence_transformers = pytest.importorskip("sentence_transformers")

    def make(path: Path = minilm, **options: Any) -> Any:
        return package.HuggingFaceEmbeddings(model_name=str(path), **options)

    plain = digest(make())
    assert fingerprint(make()).local
    assert fingerprint(make()).symmetric
    assert not fingerprint(make(query_encode_kwargs={"prompt_name": "query"})).symmetric
    changes: list[dict[str, Any]] = [
        {"model_kwargs": {"prompts": {"query": "q: "}}},
        {"model_kwargs": {"truncate_dim": 64}},
        {"model_kwargs": {"revision": "main"}},
        {"encode_kwargs": {"normalize_embeddings": True}},
        {"encode_kwargs": {"precision": "int8"}},
        {"query_encode_kwargs": {"prompt_name": "query"}},
    ]
    for change in changes:
        assert digest(make(**change)) != plain, change
    harmless: list[dict[str, Any]] = [
        {"model_kwargs": {"device": "cpu"}},
        {"encode_kwargs": {"batch_size": 7}},
        {"show_progress": True},
        {"cache_folder": str(tmp_path)},
    ]
    for same in harmless:
        assert digest(make(**same)) == plain, same
    copy = tmp_path / minilm.name
    copy.mkdir()
    for file in minilm.rglob("*"):
        target = copy / file.relative_to(minilm)
        target.parent.mkdir(exist_ok=True)
        if file.is_file():
            target.write_bytes(file.read_bytes())
    assert digest(make(copy)) == plain
    held = sentence_transformers.SentenceTransformer(str(copy), device="cpu")
    before = digest(Plain(model=held))
    (copy / "README.md").write_text("fine-tuned")
    assert digest(make(copy)) != plain
    assert digest(Plain(model=held)) != before


def test_llama_indexs_local_models_count_what_their_dict_forgets(minilm: Path) -> None:
    package = pytest.importorskip(
        "llama_index.embeddings.huggingface", reason="needs its HuggingFaceEmbedding"
    )

    def make(**options: Any) -> Any:
        return package.HuggingFaceEmbedding(model_name=str(minilm), device="cpu", **options)

    plain = digest(make())
    assert fingerprint(make()).symmetric
    assert not fingerprint(make(query_instruction="query: ")).symmetric
    changes: list[dict[str, Any]] = [
        {"query_instruction": "query: "},
        {"text_instruction": "text: "},
        {"normalize": False},
        {"max_length": 16},
        {"config_kwargs": {"num_hidden_layers": 2}},
        {"tokenizer_kwargs": {"do_lower_case": False}},
        {"truncate_dim": 64},
    ]
    for change in changes:
        assert digest(make(**change)) != plain, change
    assert digest(make(embed_batch_size=7, cache_folder="x", show_progress_bar=True)) == plain


# The rules, one by one


class Plain:
    """An embedder of a user's own, without pydantic."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[0.0] for _ in texts]


class Fields(BaseModel):
    """An embedder of a user's own, with pydantic."""

    model: str = "m"
    api_key: SecretStr = SecretStr(SECRET)
    note: str | None = None
    _mode: str = PrivateAttr(default="plain")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[0.0] for _ in texts]


class Pooling(Enum):
    CLS = "cls"
    MEAN = "mean"


class Part:
    """A part of a user's embedder."""

    def __init__(self, name: str) -> None:
        self.name = name


class Client:
    """A client with an address."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url


class Slotted:
    """An embedder without a `__dict__`, and with a value that is computed when it is asked for."""

    __slots__ = ("_prefix", "model")

    def __init__(self, prefix: str) -> None:
        self.model, self._prefix = "m", prefix

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[0.0] for _ in texts]


class Lazy(Plain):
    @cached_property
    def tokenizer(self) -> object:
        return object()


def test_slots_count_and_cached_properties_do_not() -> None:
    assert digest(Slotted("a")) != digest(Slotted("b"))
    used = Lazy(model="m")
    assert used.tokenizer
    assert digest(used) == digest(Lazy(model="m"))


def test_a_spawned_processs_main_module_is_the_main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plain, "__module__", "__main__")
    here = digest(Plain(model="m"))
    monkeypatch.setattr(Plain, "__module__", "__mp_main__")
    assert digest(Plain(model="m")) == here


def test_an_unknown_attribute_counts_public_or_private() -> None:
    different: list[dict[str, Any]] = [
        {},
        {"novelty": 1},
        {"novelty": "1"},
        {"novelty": [1, {"a": None}]},
        {"_mode": "x"},
        {"_dimensions": 256},
        {"pooling": Pooling.CLS},
        {"pooling": Pooling.MEAN},
        {"directory": Path("/x")},
        {"kind": int},
        {"words": frozenset({"a", "b"})},
        {"inner": Plain(model="a")},
        {"inner": Plain(model="b")},
        {"_inner": Plain(model="b")},
        {"max_token": 512},
        {"query_token": "[Q]"},
        {"query_token": "[D]"},
        {"default_query": "q: "},
        {"_scale": 1.0},
        {"_last_layer": -1},
        {"_scale": np.float32(2)},
        {"_projection": np.eye(2)},
        {"_projection": np.eye(3)},
        {"client": Part("a")},
        {"client": Part("b")},
        {"base_url": "http://127.0.0.1:1"},
        {"base_url": "http://127.0.0.1:1", "_http_client": Client("http://127.0.0.1:2")},
        {"address": "x"},
        {"tokenizer_name": "x"},
        {"url": "https://127.0.0.1/a"},
        {"prompts": {"query": "see https://u:p@127.0.0.1/ for more"}},
    ]
    assert len({digest(Plain(model="m", **attributes)) for attributes in different}) == len(different)


def test_what_only_moves_or_counts_does_not() -> None:
    harmless: list[dict[str, Any]] = [
        {"batch_size": 7},
        {"request_timeout": 3},
        {"max_retries": 3},
        {"device": "cuda"},
        {"callbacks": [print]},
        {"cache_dir": "x"},
        {"http_client": object()},
        {"_calls": 3},
        {"_started_at": 17.25},
        {"_lock": threading.Lock()},
        {"note": None},
        {"options": {"batch_size": 7}},
        {"my_api_key": SECRET},
        {"accessToken": SECRET},
        {"proxies": {"x": SECRET}},
        {"passphrase": SECRET},
        {"connection_string": SECRET},
        {"options": {"X-Api-Key": SECRET, "api-key": SECRET}},
    ]
    for same in harmless:
        assert digest(Plain(model="m", **same)) == digest(Plain(model="m")), same


def test_private_attributes_of_pydantic_models_count() -> None:
    other = Fields()
    other._mode = "text_search"
    assert digest(other) != digest(Fields())
    assert digest(Fields(api_key=SecretStr("another"))) == digest(Fields())


def test_a_secret_is_removed_wherever_it_turns_up() -> None:
    told = json.dumps(fingerprint(Fields(note=f"use {SECRET} here")).fields)
    assert SECRET not in told
    assert "use *** here" in told
    told = json.dumps(fingerprint(Plain(model="m", headers={"x": [SECRET]}, note=f"{SECRET}!")).fields)
    assert SECRET not in told
    url = f"https://user:{SECRET}@127.0.0.1/embed?token={SECRET}"
    seen = fingerprint(Plain(model=url, note=f"see {url}"[: -len(SECRET)]))
    assert SECRET not in json.dumps([seen.name, seen.fields])
    assert fingerprint(Plain(model="m", api_key="ollama", base_url="http://ollama")).fields["attributes"] == {
        "model": "m",
        "@address": ["http://ollama"],
    }


@pytest.mark.parametrize("held", [object(), lambda text: text, open])
def test_what_says_nothing_is_refused_by_its_name(held: Any) -> None:
    with pytest.raises(IdentityError, match=r"attribute 'weights'.*model_name=.*identity="):
        fingerprint(Plain(model="m", weights=held))
    with pytest.raises(IdentityError, match=r"attribute '_weights'.*model_name=.*identity="):
        fingerprint(Plain(model="m", _weights=held))
    assert fingerprint(Plain(model="m", weights=held), strict=False).name == "m"


def test_an_embedder_that_holds_nothing_is_refused() -> None:
    with pytest.raises(IdentityError, match=r"says nothing.*model_name="):
        fingerprint(Plain(batch_size=3, api_key=SECRET, _lock=threading.Lock()))


def test_what_holds_itself_is_refused() -> None:
    knot: list[Any] = []
    knot.append(knot)
    with pytest.raises(IdentityError, match="knot"):
        fingerprint(Plain(model="m", knot=knot))
