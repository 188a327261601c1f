"""What is known of LlamaIndex: its dialect, and its embedders."""

from __future__ import annotations

from typing import Any

from kura_cache_adapters._identity.dialect import Dialect, Method
from kura_cache_adapters._identity.record import Provider

_BASE = "embed_batch_size callback_manager num_workers embeddings_cache rate_limiter?"
"""Transport of every `BaseEmbedding`; an embeddings_cache is refused."""


def _encodes(embedder: Any, _: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401
    plain = {"normalize_embeddings": embedder.normalize}
    return {**plain, "prompt_name": "text"}, {**plain, "prompt_name": "query"}


def _without_newlines(text: str) -> str:
    return text.replace("\n", " ")


def _one_engine(embedder: Any) -> bool:  # noqa: ANN401 - OpenAI's
    """Tell whether the model has one engine for both."""
    return bool(embedder._query_engine == embedder._text_engine)  # noqa: SLF001


def _one_type(embedder: Any) -> bool:  # noqa: ANN401 - Cohere's
    """Tell whether an input_type is set."""
    return embedder.input_type is not None


def _one_encoding(embedder: Any) -> bool:  # noqa: ANN401 - Jina's
    """Tell whether both are asked for in one encoding."""
    return bool(embedder._encoding_queries == embedder._encoding_documents)  # noqa: SLF001


def _one_task(embedder: Any) -> bool:  # noqa: ANN401 - Nomic's
    """Tell whether both have one task type."""
    return bool(embedder.query_task_type == embedder.document_task_type)


def _one_instruction(embedder: Any) -> bool:  # noqa: ANN401 - Ollama's
    """Tell whether both have one instruction, or none."""
    return (embedder.query_instruction or "") == (embedder.text_instruction or "")


def _titan(embedder: Any) -> bool:  # noqa: ANN401 - Bedrock's
    """Tell whether the model is one of Amazon's Titans."""
    return "amazon.titan" in embedder.model_name


def _leaves_queries(embedder: Any) -> bool:  # noqa: ANN401 - an adapter's
    """Tell whether queries are left as they are."""
    return not embedder._transform_query  # noqa: SLF001


_TOGETHER = "embeds the texts of a batch together, so that a text alone has no vector to cache"


def _contextual(embedder: Any) -> str | None:  # noqa: ANN401 - Voyage's
    """Refuse contextual models."""
    return _TOGETHER if "context" in embedder.model_name else None


def _late_chunking(embedder: Any) -> str | None:  # noqa: ANN401 - Jina's
    """Refuse late chunking."""
    return _TOGETHER if getattr(embedder, "_late_chunking", None) else None


_OPENAI = "additional_kwargs dimensions"
_OPENAI_TRANSPORT = (
    f"{_BASE} api_version max_retries timeout reuse_client _client _aclient _http_client _async_http_client"
)
_OPENAI_SILENT = "user timeout encoding_format"

# Clients that are made on first use are not looked at: an address read there would come and go.
RECORDS: dict[str, Provider] = {
    "kura_cache_adapters:LlamaIndexCachedEmbedding": Provider(
        name="", around="cached", transport=f"{_BASE} model_name fingerprint _limiter"
    ),
    "llama_index:MockEmbedding": Provider(decides="embed_dim", transport=_BASE, roles=()),
    "llama_index.embeddings.adapter:AdapterEmbeddingModel": Provider(
        inner="_base_embed_model",
        queries="_adapter _transform_query",
        alike=_leaves_queries,
        transport=f"{_BASE} _device? _target_device",
    ),
    "llama_index.embeddings.azure_openai:AzureOpenAIEmbedding": Provider(
        decides=f"{_OPENAI} azure_deployment",
        queries="_query_engine",
        documents="_text_engine",
        addresses="api_base azure_endpoint",
        headers="default_headers _http_client.headers",
        parameters="_http_client.params",
        silent=f"{_OPENAI_SILENT} api-version",
        transport=f"{_OPENAI_TRANSPORT} use_azure_ad",
        secrets="api_key azure_ad_token_provider? _azure_ad_token",
        alike=_one_engine,
    ),
    "llama_index.embeddings.bedrock:BedrockEmbedding": Provider(
        decides="additional_kwargs application_inference_profile_arn?",
        addresses="_client.meta.endpoint_url",
        regional=".amazonaws.com .amazonaws.com.cn",
        transport=(
            f"{_BASE} profile_name region_name botocore_session botocore_config max_retries timeout "
            "_config _client _asession"
        ),
        secrets="aws_access_key_id aws_secret_access_key aws_session_token",
        alike=_titan,
    ),
    "llama_index.embeddings.cohere:CohereEmbedding": Provider(
        decides="truncate input_type embedding_type",
        addresses="base_url",
        headers="_httpx_client.headers",
        parameters="_httpx_client.params",
        transport=f"{_BASE} max_retries? _client _async_client _timeout _httpx_client _httpx_async_client",
        secrets="api_key",
        alike=_one_type,
    ),
    "llama_index.embeddings.fastembed:FastEmbedEmbedding": Provider(
        decides="_model.model._model_dir",
        documents="doc_embed_type",
        transport=f"{_BASE} _model cache_dir threads providers max_length?",
    ),
    "llama_index.embeddings.google_genai:GoogleGenAIEmbedding": Provider(
        decides="embedding_config _client._api_client.vertexai",
        defaults={"_client._api_client.vertexai": False},
        addresses="_client._api_client._http_options.base_url",
        regional="aiplatform.googleapis.com",
        headers="_client._api_client._http_options.headers",
        transport=(
            f"{_BASE} _client _embedding_config? retries timeout retry_min_seconds retry_max_seconds "
            "retry_exponential_base"
        ),
    ),
    "llama_index.embeddings.huggingface:HuggingFaceEmbedding": Provider(
        local="_model",
        decides="normalize max_length",
        queries="query_instruction",
        documents="text_instruction",
        encodes=_encodes,
        transport=f"{_BASE} cache_folder show_progress_bar _device _parallel_process _target_devices",
    ),
    "llama_index.embeddings.huggingface_api:HuggingFaceInferenceAPIEmbedding": Provider(
        decides="pooling",
        queries="query_instruction",
        documents="text_instruction",
        headers="headers",
        transport=f"{_BASE} timeout task _sync_client _async_client _get_model_info",
        secrets="token cookies",
    ),
    "llama_index.embeddings.jinaai:JinaEmbedding": Provider(
        name="model",
        decides="_task _dimensions",
        queries="_encoding_queries",
        documents="_encoding_documents",
        addresses="_api.api_url",
        transport=f"{_BASE} model_name _api _late_chunking",
        secrets="api_key",
        alike=_one_encoding,
        refuses=_late_chunking,
    ),
    "llama_index.embeddings.langchain:LangchainEmbedding": Provider(
        name="",
        around="_langchain_embedding",
        transport=f"{_BASE} model_name _async_not_implemented_warned",
    ),
    "llama_index.embeddings.mistralai:MistralAIEmbedding": Provider(
        addresses="_client.sdk_configuration.server_url",
        transport=f"{_BASE} _client",
        roles=(),
    ),
    "llama_index.embeddings.nomic:NomicEmbedding": Provider(
        decides="dimensionality inference_mode",
        queries="query_task_type",
        documents="document_task_type",
        transport=f"{_BASE} vision_model_name device",
        alike=_one_task,
    ),
    "llama_index.embeddings.ollama:OllamaEmbedding": Provider(
        decides="ollama_additional_kwargs",
        queries="query_instruction",
        documents="text_instruction",
        addresses="_client._client.base_url base_url",
        headers="_client._client.headers",
        parameters="_client._client.params",
        silent="num_thread num_gpu",
        transport=f"{_BASE} keep_alive? _client _async_client",
        alike=_one_instruction,
    ),
    "llama_index.embeddings.openai:OpenAIEmbedding": Provider(
        decides=_OPENAI,
        queries="_query_engine",
        documents="_text_engine",
        addresses="api_base",
        headers="default_headers _http_client.headers",
        parameters="_http_client.params",
        silent=_OPENAI_SILENT,
        transport=_OPENAI_TRANSPORT,
        secrets="api_key",
        alike=_one_engine,
        sends_to_openai=_without_newlines,
    ),
    "llama_index.embeddings.voyageai:VoyageEmbedding": Provider(
        decides="truncation output_dtype output_dimension",
        addresses="_client._params.base_url",
        transport=f"{_BASE} _client _aclient",
        refuses=_contextual,
    ),
}

DIALECT = Dialect(
    name="llama_index",
    methods={
        "document": Method("get_text_embedding_batch", "aget_text_embedding_batch"),
        "query": Method("get_query_embedding", "aget_query_embedding", one_text=True),
    },
    records=RECORDS,
    spread="llama_index.embeddings",
    own_cache="embeddings_cache",
    forgets=True,
)
