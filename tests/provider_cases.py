"""Every embedder that is known: how to build it offline, what moves its keys, and what does not."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "MARKED-secret-0123456789"
LOCAL = "http://127.0.0.1:9"


@dataclass(frozen=True, kw_only=True)
class Case:
    """How to build an embedder offline, and which keys each change of its arguments moves."""

    path: str
    base: dict[str, Any] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)  # keys of both roles, or one's by the other
    queries: list[dict[str, Any]] = field(default_factory=list)  # those of queries only
    documents: list[dict[str, Any]] = field(default_factory=list)  # those of documents only
    same: list[dict[str, Any]] = field(default_factory=list)
    roles: tuple[str, ...] = ("query",)
    unbuilt: bool = False  # its constructor would download a model: fields only
    finish: Callable[[Any], object] = lambda embedder: embedder  # what its constructor would do then

    @property
    def package(self) -> str:
        """The distribution's package, without which the case cannot be built."""
        home = self.path.partition(":")[0].split(".")
        return ".".join(home[:3] if home[:2] == ["llama_index", "embeddings"] else home[:1])

    @property
    def kind(self) -> Any:
        module, _, name = self.path.partition(":")
        pytest.importorskip(self.package, reason=f"{self.package} is not installed")
        return getattr(import_module(module), name)

    def build(self, **changed: Any) -> Any:
        arguments = {**self.base, **changed}
        arguments = {name: value() if callable(value) else value for name, value in arguments.items()}
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated options, newer models
            if not self.unbuilt:
                return self.kind(**arguments)
            embedder = self.kind.model_construct(**arguments)
            self.finish(embedder)
            return embedder


def http_client(**options: Any) -> Callable[[], Any]:
    return lambda: pytest.importorskip("httpx").Client(**options)


def headers(*names: str) -> list[dict[str, Any]]:
    """Headers that say who asks, and change nothing."""
    return [{name: {"Authorization": SECRET, "User-Agent": "me", "X-Request-ID": "7"}} for name in names]


def fast_embed() -> Any:
    """Load what the frameworks would download, from an empty directory."""
    text = pytest.importorskip("fastembed").TextEmbedding
    return text("BAAI/bge-small-en-v1.5", specific_model_path="/nonexistent", lazy_load=True)


def set_model(embedder: Any) -> None:
    embedder._model = fast_embed()


OPENAI_SAME: list[dict[str, Any]] = [
    {"chunk_size": 7},
    {"max_retries": 9},
    {"timeout": 3},
    {"api_key": "another"},
    {"organization": "org"},
    {"show_progress_bar": True},
    {"model_kwargs": {"user": "x"}},
    {"model_kwargs": {"encoding_format": "float"}},
    {"dimensions": None},
    {"skip_empty": False},
    {"default_query": {}},
    {"http_client": http_client(headers={"authorization": SECRET})},
    *headers("default_headers"),
]
OPENAI_CHANGES: list[dict[str, Any]] = [
    {"model": "text-embedding-3-large"},
    {"dimensions": 256},
    {"model_kwargs": {"input_type": "query"}},
    {"model_kwargs": {"extra_body": {"pooling": "cls"}}},
    {"embedding_ctx_length": 100},
    {"check_embedding_ctx_length": False},
    {"tiktoken_enabled": False},
    {"tiktoken_model_name": "cl100k_base"},
    {"skip_empty": True},
    {"default_headers": {"x-model": SECRET}},
    {"default_headers": {"x-model": "another"}},
    {"default_query": {"v": "1"}},
    {"default_query": {"v": "2"}},
    {"default_query": {"secret": SECRET}},
    {"http_client": http_client(params={"w": "1"})},
    {"http_client": http_client(params={"w": "2"})},
    {"http_client": http_client(headers={"x-pool": "cls"})},
]
AZURE = {
    "azure_deployment": "one",
    "azure_endpoint": "https://one.example",
    "api_key": SECRET,
    "api_version": "2024-01-01",
}

LANGCHAIN = [
    Case(
        path="langchain_openai:OpenAIEmbeddings",
        base={"api_key": SECRET, "base_url": "https://api.openai.com/v1"},
        changes=[
            *OPENAI_CHANGES,
            {"base_url": f"{LOCAL}/v1"},
            {"base_url": f"{LOCAL}/v1?deployment=a"},
            {"base_url": f"{LOCAL}/v1?deployment=b"},
        ],
        same=[
            *OPENAI_SAME,
            {"api_version": "v9"},
            {"deployment": "ignored by OpenAI"},
            {"base_url": None},
            {"base_url": f"https://user:{SECRET}@api.openai.com/v1?key={SECRET}"},
        ],
        roles=(),
    ),
    Case(
        path="langchain_openai:AzureOpenAIEmbeddings",
        base=AZURE,
        changes=[
            *OPENAI_CHANGES,
            {"azure_deployment": "two"},
            {"azure_endpoint": "https://two.example"},
        ],
        same=[
            *OPENAI_SAME,
            {"api_version": "2025-01-01"},
            {"default_query": {"api-version": "2024-01-01"}},
            {"azure_ad_token": SECRET},
        ],
        roles=(),
    ),
    Case(
        path="langchain_huggingface:HuggingFaceEndpointEmbeddings",
        base={"model": "org/one", "huggingfacehub_api_token": SECRET},
        changes=[
            {"model": "org/two"},
            {"model_kwargs": {"truncate": True}},
            {"model_kwargs": {"normalize": True}},
            {"provider": "hf-inference"},
        ],
        same=[
            {"huggingfacehub_api_token": "another"},
            {"task": "feature-extraction"},
            {"model": None, "repo_id": "org/one"},
            {"model_kwargs": {}},
        ],
        roles=(),
    ),
    Case(
        path="langchain_cohere:CohereEmbeddings",
        base={"model": "embed-v4.0", "cohere_api_key": SECRET},
        changes=[
            {"model": "embed-english-v3.0"},
            {"truncate": "START"},
            {"embedding_types": ["int8"]},
            {"base_url": LOCAL},
        ],
        same=[
            {"max_retries": 9},
            {"user_agent": "x"},
            {"request_timeout": 3},
            {"cohere_api_key": "another"},
            {"embedding_types": ["float"]},
            {"base_url": "https://api.cohere.com"},
        ],
    ),
    Case(
        path="langchain_voyageai:VoyageAIEmbeddings",
        base={"model": "voyage-3", "voyage_api_key": SECRET},
        changes=[{"model": "voyage-3-lite"}, {"output_dimension": 256}, {"truncation": False}],
        same=[
            {"batch_size": 7},
            {"voyage_api_key": "another"},
            {"show_progress_bar": True},
            {"truncation": True},
        ],
    ),
    Case(
        path="langchain_ollama:OllamaEmbeddings",
        base={"model": "nomic-embed-text", "base_url": f"http://user:{SECRET}@127.0.0.1:9"},
        changes=[
            {"model": "bge-m3"},
            {"num_ctx": 512},
            {"temperature": 0.5},
            {"base_url": "http://127.0.0.2:9"},
            {"client_kwargs": {"headers": {"x-model": SECRET}}},
            {"client_kwargs": {"params": {"v": "1"}}},
        ],
        same=[
            {"keep_alive": 5},
            {"num_thread": 2},
            {"num_gpu": 1},
            {"base_url": LOCAL},
            *({"client_kwargs": {"headers": told}} for told in ({"Authorization": SECRET}, {})),
            {"client_kwargs": {"timeout": 3}},
        ],
        roles=(),
    ),
    Case(
        path="langchain_google_genai:GoogleGenerativeAIEmbeddings",
        base={"model": "models/gemini-embedding-001", "google_api_key": SECRET},
        changes=[
            {"model": "text-embedding-004"},
            {"task_type": "CLUSTERING"},
            {"base_url": LOCAL},
            {"output_dimensionality": 256},
            {"additional_headers": {"x-model": SECRET}},
            {"client_args": {"params": {"v": "1"}}},
        ],
        same=[
            {"model": "gemini-embedding-001"},
            {"google_api_key": "another"},
            {"request_options": {"timeout": 3}},
            *headers("additional_headers"),
            {"client_args": {"proxy": f"http://u:{SECRET}@127.0.0.1:9"}},
            {"base_url": "https://generativelanguage.googleapis.com"},
        ],
    ),
    Case(
        path="langchain_aws:BedrockEmbeddings",
        base={
            "model_id": "amazon.titan-embed-text-v2:0",
            "region_name": "us-east-1",
            "aws_access_key_id": SECRET,
            "aws_secret_access_key": SECRET,
        },
        changes=[
            {"model_id": "cohere.embed-english-v3"},
            {"normalize": True},
            {"provider": "cohere"},
            {"model_kwargs": {"x": 1}},
            {"endpoint_url": LOCAL},
            {"dimensions": 256},
        ],
        same=[
            {"region_name": "eu-west-1"},
            {"aws_secret_access_key": "another"},
            {"aws_session_token": SECRET},
            {"endpoint_url": "https://bedrock-runtime.us-west-2.amazonaws.com"},
        ],
        roles=(),
    ),
    Case(
        path="langchain_mistralai:MistralAIEmbeddings",
        base={"api_key": SECRET},
        changes=[
            {"model": "codestral-embed"},
            {"endpoint": f"{LOCAL}/v1/"},
            {"client": http_client(base_url=LOCAL, headers={"x-model": "1"})},
        ],
        same=[
            {"max_concurrent_requests": 2},
            {"api_key": "another"},
            {"max_retries": 9},
            {"timeout": 3},
            {"model": "mistral-embed"},
            {"endpoint": "https://api.mistral.ai/v1"},
        ],
        roles=(),
    ),
    Case(
        path="langchain_community.embeddings:JinaEmbeddings",
        base={"model_name": "jina-v3", "jina_api_key": SECRET},
        changes=[{"model_name": "jina-v2"}],
        same=[{"jina_api_key": "another"}],
        roles=(),
    ),
    Case(
        path="langchain_community.embeddings:FastEmbedEmbeddings",
        base={"model_name": "BAAI/bge-small-en-v1.5", "model": fast_embed},
        changes=[{"model_name": "BAAI/bge-base-en-v1.5"}, {"max_length": 100}],
        documents=[{"doc_embed_type": "passage"}],
        same=[
            {"cache_dir": "x"},
            {"threads": 2},
            {"batch_size": 7},
            {"parallel": 2},
            {"providers": ["CPUExecutionProvider"]},
            {"max_length": 512},
        ],
        unbuilt=True,
    ),
    Case(
        path="langchain_nomic:NomicEmbeddings",
        base={"model": "nomic-embed-text-v1.5"},
        changes=[{"model": "nomic-embed-text-v1"}, {"dimensionality": 256}, {"inference_mode": "local"}],
        same=[{"device": "gpu"}, {"inference_mode": "remote"}, {"vision_model": "x"}],
    ),
    Case(
        path="langchain_core.embeddings:DeterministicFakeEmbedding",
        base={"size": 3},
        changes=[{"size": 4}],
        roles=(),
    ),
]

LLAMA_INDEX = [
    Case(
        path="llama_index.embeddings.openai:OpenAIEmbedding",
        base={"api_key": SECRET, "api_base": "https://api.openai.com/v1"},
        changes=[
            {"model": "text-embedding-3-large"},
            {"mode": "text_search", "model": "ada"},
            {"dimensions": 256},
            {"api_base": f"{LOCAL}/v1"},
            {"api_base": f"{LOCAL}/v1?v=1"},
            {"api_base": f"{LOCAL}/v1?v=2"},
            {"additional_kwargs": {"extra_query": {"v": "1"}}},
            {"additional_kwargs": {"extra_query": {"v": "2"}}},
            {"additional_kwargs": {"extra_headers": {"x-model": SECRET}}},
            {"default_headers": {"x-model": SECRET}},
            {"default_headers": {"x-model": "another"}},
            {"http_client": http_client(params={"w": "1"})},
        ],
        same=[
            {"timeout": 3},
            {"max_retries": 2},
            {"embed_batch_size": 7},
            {"api_key": "another"},
            {"num_workers": 2},
            {"reuse_client": False},
            {"model": "text-embedding-ada-002"},
            {"model_name": "text-embedding-ada-002"},
            {"additional_kwargs": {"user": "x"}},
            {"api_base": f"https://user:{SECRET}@api.openai.com/v1?key={SECRET}"},
            *headers("default_headers"),
        ],
        roles=(),
    ),
    Case(
        path="llama_index.embeddings.azure_openai:AzureOpenAIEmbedding",
        base=AZURE,
        changes=[
            {"azure_deployment": "two"},
            {"azure_endpoint": "https://two.example"},
            {"dimensions": 256},
            {"additional_kwargs": {"extra_query": {"v": "1"}}},
            {"additional_kwargs": {"extra_query": {"v": "2"}}},
            {"default_headers": {"x-model": SECRET}},
            {"http_client": http_client(params={"w": "1"})},
        ],
        same=[
            {"api_version": "2025-01-01"},
            {"embed_batch_size": 7},
            {"api_key": "another"},
            {"additional_kwargs": {"user": "x"}},
            *headers("default_headers"),
        ],
        roles=(),
    ),
    Case(
        path="llama_index.embeddings.huggingface_api:HuggingFaceInferenceAPIEmbedding",
        base={"model_name": "org/one", "token": SECRET},
        changes=[{"model_name": "org/two"}, {"pooling": "mean"}, {"headers": {"x-model": SECRET}}],
        queries=[{"query_instruction": "q: "}],
        documents=[{"text_instruction": "t: "}],
        same=[
            {"token": "another"},
            {"cookies": {"x": SECRET}},
            {"timeout": 3.0},
            {"pooling": "cls"},
            {"task": "x"},  # it only picks a model where none is named
            *headers("headers"),
        ],
    ),
    Case(
        path="llama_index.embeddings.cohere:CohereEmbedding",
        base={"model_name": "embed-english-v3.0", "api_key": SECRET},
        changes=[
            {"model_name": "embed-multilingual-v3.0"},
            {"input_type": "search_query"},
            {"truncate": "START"},
            {"embedding_type": "int8"},
            {"base_url": LOCAL},
            {"httpx_client": http_client(headers={"x-model": SECRET})},
        ],
        same=[
            {"api_key": "another"},
            {"embed_batch_size": 7},
            {"timeout": 3.0},
            {"truncate": "END"},
            {"embedding_type": "float"},
        ],
    ),
    Case(
        path="llama_index.embeddings.voyageai:VoyageEmbedding",
        base={"model_name": "voyage-3", "voyage_api_key": SECRET},
        changes=[
            {"model_name": "voyage-3-lite"},
            {"output_dimension": 256},
            {"output_dtype": "int8"},
            {"truncation": False},
        ],
        same=[{"voyage_api_key": "another"}, {"embed_batch_size": 7}],
    ),
    Case(
        path="llama_index.embeddings.ollama:OllamaEmbedding",
        base={"model_name": "nomic-embed-text", "base_url": LOCAL},
        changes=[
            {"model_name": "bge-m3"},
            {"ollama_additional_kwargs": {"num_ctx": 512}},
            {"base_url": "http://127.0.0.2:9"},
            {"client_kwargs": {"headers": {"x-model": SECRET}}},
        ],
        queries=[{"query_instruction": "q: "}],
        documents=[{"text_instruction": "t: "}],
        same=[
            {"client_kwargs": {"headers": {"Authorization": SECRET}}},
            {"embed_batch_size": 7},
            {"ollama_additional_kwargs": {"num_thread": 2}},
            {"base_url": f"http://user:{SECRET}@127.0.0.1:9"},
        ],
        roles=(),
    ),
    Case(
        path="llama_index.embeddings.google_genai:GoogleGenAIEmbedding",
        base={"model_name": "gemini-embedding-001", "api_key": SECRET},
        changes=[
            {"model_name": "text-embedding-004"},
            {"embedding_config": {"output_dimensionality": 256}},
            {"embedding_config": {"task_type": "CLUSTERING"}},
            {"http_options": {"headers": {"x-model": SECRET}}},
            {"http_options": {"base_url": LOCAL}},
        ],
        same=[
            {"api_key": "another"},
            {"retries": 2},
            {"timeout": 3},
            {"embed_batch_size": 7},
            {"http_options": {"timeout": 3}},
            {"embedding_config": {}},
        ],
    ),
    Case(
        path="llama_index.embeddings.bedrock:BedrockEmbedding",
        base={
            "model_name": "amazon.titan-embed-text-v2:0",
            "region_name": "us-east-1",
            "aws_access_key_id": SECRET,
            "aws_secret_access_key": SECRET,
        },
        changes=[
            {"model_name": "cohere.embed-english-v3"},
            {"additional_kwargs": {"normalize": True}},
            {"application_inference_profile_arn": "arn:aws:bedrock:us-east-1:1:profile/x"},
        ],
        same=[{"region_name": "eu-west-1"}, {"aws_secret_access_key": "another"}, {"max_retries": 2}],
        roles=(),
    ),
    Case(
        path="llama_index.embeddings.mistralai:MistralAIEmbedding",
        base={"api_key": SECRET},
        changes=[{"model_name": "codestral-embed"}],
        same=[{"api_key": "another"}, {"embed_batch_size": 7}, {"model_name": "mistral-embed"}],
        roles=(),
    ),
    Case(
        path="llama_index.embeddings.jinaai:JinaEmbedding",
        base={"api_key": SECRET, "model": "jina-embeddings-v3"},
        changes=[
            {"model": "jina-embeddings-v2-base-en"},
            {"task": "retrieval.passage"},
            {"dimensions": 256},
        ],
        queries=[{"encoding_queries": "binary"}],
        documents=[{"encoding_documents": "binary"}],
        same=[
            {"api_key": "another"},
            {"embed_batch_size": 7},
            {"encoding_queries": "float"},
            {"late_chunking": False},
        ],
        roles=(),
    ),
    Case(
        path="llama_index.embeddings.fastembed:FastEmbedEmbedding",
        base={"model_name": "BAAI/bge-small-en-v1.5"},
        changes=[{"model_name": "BAAI/bge-base-en-v1.5"}],
        documents=[{"doc_embed_type": "passage"}],
        same=[
            {"cache_dir": "x"},
            {"threads": 2},
            {"embed_batch_size": 7},
            {"providers": ["CPUExecutionProvider"]},
        ],
        unbuilt=True,
        finish=set_model,
    ),
    Case(
        path="llama_index.embeddings.nomic:NomicEmbedding",
        base={"model_name": "nomic-embed-text-v1.5"},
        changes=[
            {"model_name": "nomic-embed-text-v1"},
            {"dimensionality": 256},
            {"inference_mode": "local"},
        ],
        queries=[{"query_task_type": "classification"}],
        documents=[{"document_task_type": "clustering"}],
        same=[
            {"device": "gpu"},
            {"embed_batch_size": 7},
            {"dimensionality": 768},
            {"vision_model_name": "x"},
        ],
    ),
    Case(
        path="llama_index.core:MockEmbedding",
        base={"embed_dim": 3},
        changes=[{"embed_dim": 4}],
        same=[{"embed_batch_size": 7}],
        roles=(),
    ),
]

CASES = [*LANGCHAIN, *LLAMA_INDEX]
