"""What is known of LangChain: its dialect, and its embedders."""

from __future__ import annotations

from typing import Any

from kura_cache_adapters._identity.dialect import Dialect, Method
from kura_cache_adapters._identity.record import Provider


def _encodes(embedder: Any, _: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401
    if embedder.multi_process:  # encode_multi_process is given no options
        return {}, {}
    return embedder.encode_kwargs, embedder.query_encode_kwargs or embedder.encode_kwargs


def _without_newlines(text: str) -> str:
    return text.replace("\n", " ")


def _by_one_task(embedder: Any) -> bool:  # noqa: ANN401 - Google's
    """Tell whether a task_type is set."""
    return embedder.task_type is not None


def _titan(embedder: Any) -> bool:  # noqa: ANN401 - Bedrock's
    """Tell whether the model is one of Amazon's Titans."""
    return "amazon.titan" in embedder.model_id


def _quantised_by_batch(embedder: Any) -> str | None:  # noqa: ANN401 - HuggingFaceEmbeddings
    """Refuse precision="int8" and "uint8"."""
    asked = {options.get("precision") for options in (embedder.encode_kwargs, embedder.query_encode_kwargs)}
    if asked.isdisjoint({"int8", "uint8"}):
        return None
    return "quantises to int8 by the other texts of a batch, so that a text alone has no vector to cache"


def _contextual(embedder: Any) -> str | None:  # noqa: ANN401 - Voyage's
    """Refuse contextual models."""
    if "context" not in embedder.model:
        return None
    return "embeds the texts of a batch together, so that a text alone has no vector to cache"


def _random(_: Any) -> str:  # noqa: ANN401
    """Refuse all: its vectors are random."""
    return "makes its vectors at random, so that a text has no vector to cache"


_OPENAI = (
    "dimensions model_kwargs embedding_ctx_length check_embedding_ctx_length tiktoken_enabled "
    "tiktoken_model_name skip_empty allowed_special disallowed_special"
)
_OPENAI_TRANSPORT = (
    "client async_client chunk_size headers http_async_client http_client max_retries openai_api_type "
    "openai_api_version openai_organization request_timeout retry_max_seconds retry_min_seconds "
    "show_progress_bar"
)
# The fields, and those of a client that was handed in; one whose key is awaited has the async client only.
_OPENAI_ADDRESSES = "client._client.base_url async_client._client.base_url openai_api_base"
_OPENAI_HEADERS = (
    "default_headers client._client._custom_headers async_client._client._custom_headers http_client.headers"
)
_OPENAI_PARAMETERS = (
    "default_query client._client._custom_query async_client._client._custom_query http_client.params"
)
_OPENAI_SILENT = "user timeout encoding_format"

RECORDS: dict[str, Provider] = {
    "kura_cache_adapters:LangChainCachedEmbeddings": Provider(name="", around="cached"),
    "langchain_classic:CacheBackedEmbeddings": Provider(
        name="",
        around="underlying_embeddings",
        transport="document_embedding_store query_embedding_store batch_size",
    ),
    "langchain_aws:BedrockEmbeddings": Provider(
        name="model_id",
        decides="provider normalize dimensions? model_kwargs",
        addresses="client.meta.endpoint_url endpoint_url",
        regional=".amazonaws.com .amazonaws.com.cn",
        transport="client region_name credentials_profile_name config",
        secrets="aws_access_key_id aws_secret_access_key aws_session_token",
        alike=_titan,
    ),
    "langchain_cohere:CohereEmbeddings": Provider(
        name="model",
        decides="truncate embedding_types",
        addresses="client._client_wrapper._base_url base_url",
        transport="client async_client max_retries request_timeout user_agent",
        secrets="cohere_api_key",
    ),
    "langchain_community:FastEmbedEmbeddings": Provider(
        decides="model.model._model_dir max_length",
        documents="doc_embed_type",
        transport="model cache_dir threads batch_size parallel providers",
    ),
    "langchain_community:JinaEmbeddings": Provider(transport="session", secrets="jina_api_key", roles=()),
    "langchain_core:DeterministicFakeEmbedding": Provider(name="", decides="size", roles=()),
    "langchain_core:FakeEmbeddings": Provider(name="", decides="size", refuses=_random),
    "langchain_google_genai:GoogleGenerativeAIEmbeddings": Provider(
        name="model",
        decides="task_type output_dimensionality? _use_vertexai?",
        defaults={"_use_vertexai?": False},
        addresses="client._api_client._http_options.base_url base_url",
        regional="aiplatform.googleapis.com",
        headers="additional_headers client_args.headers?",
        parameters="client_args.params?",
        transport="client vertexai? project? location? client_args api_version? request_options transport?",
        secrets="google_api_key credentials",
        alike=_by_one_task,
    ),
    "langchain_huggingface:HuggingFaceEmbeddings": Provider(
        local="_client",
        decides="encode_kwargs multi_process",
        queries="query_encode_kwargs",
        encodes=_encodes,
        edits=_without_newlines,
        refuses=_quantised_by_batch,
        transport="cache_folder model_kwargs show_progress",
    ),
    "langchain_huggingface:HuggingFaceEndpointEmbeddings": Provider(
        name="model",
        decides="provider model_kwargs",
        transport="client async_client repo_id task",  # the model again, and the one task that there is
        secrets="huggingfacehub_api_token",
        roles=(),
    ),
    "langchain_mistralai:MistralAIEmbeddings": Provider(
        name="model",
        addresses="client.base_url endpoint",
        headers="client.headers",
        parameters="client.params",
        transport="client async_client max_retries timeout wait_time max_concurrent_requests tokenizer",
        secrets="mistral_api_key",
        roles=(),
    ),
    "langchain_nomic:NomicEmbeddings": Provider(
        name="model",
        decides="dimensionality inference_mode",
        transport="device vision_model",
    ),
    "langchain_ollama:OllamaEmbeddings": Provider(
        name="model",
        decides=(
            "dimensions? mirostat mirostat_eta mirostat_tau num_ctx repeat_last_n repeat_penalty temperature "
            "stop tfs_z top_k top_p"
        ),
        addresses="_client._client.base_url base_url",
        headers="_client._client.headers",
        parameters="_client._client.params",
        transport=(
            "_client _async_client client_kwargs async_client_kwargs sync_client_kwargs keep_alive num_gpu "
            "num_thread validate_model_on_init"
        ),
        roles=(),
    ),
    "langchain_openai:OpenAIEmbeddings": Provider(
        name="model",
        decides=_OPENAI,
        addresses=_OPENAI_ADDRESSES,
        headers=_OPENAI_HEADERS,
        parameters=_OPENAI_PARAMETERS,
        silent=_OPENAI_SILENT,
        transport=f"{_OPENAI_TRANSPORT} deployment",
        secrets="openai_api_key openai_proxy",
        roles=(),
        sends_to_openai=str,
    ),
    "langchain_openai:AzureOpenAIEmbeddings": Provider(
        name="model",
        decides=f"{_OPENAI} deployment",
        addresses=f"{_OPENAI_ADDRESSES} azure_endpoint",
        headers=_OPENAI_HEADERS,
        parameters=_OPENAI_PARAMETERS,
        silent=f"{_OPENAI_SILENT} api-version",
        transport=f"{_OPENAI_TRANSPORT} validate_base_url",
        secrets=(
            "openai_api_key openai_proxy azure_ad_token azure_ad_token_provider azure_ad_async_token_provider"
        ),
        roles=(),
    ),
    "langchain_voyageai:VoyageAIEmbeddings": Provider(
        name="model",
        decides="output_dimension truncation",
        addresses="_client._params.base_url base_url?",
        transport="_client _aclient batch_size show_progress_bar",
        secrets="voyage_api_key",
        refuses=_contextual,
    ),
}

DIALECT = Dialect(
    name="langchain",
    methods={
        "document": Method("embed_documents", "aembed_documents"),
        "query": Method("embed_query", "aembed_query", one_text=True),
    },
    records=RECORDS,
)
