"""What is known of the embedders of LangChain and LlamaIndex: one record a class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _never(_: Any) -> bool:  # noqa: ANN401 - an embedder
    return False


def _always(_: Any) -> bool:  # noqa: ANN401 - an embedder
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One class of embedders: each of its fields, private ones too, is named in one of these.

    Names stand between spaces. One that ends in `?` is missing in some of the supported releases;
    any other that is missing is an error, never a silent None.
    """

    name: str = "model_name"
    """The field with the model's name."""
    decides: str = ""
    """Fields that decide every vector; None is as good as absent."""
    queries: str = ""
    """Fields that decide the vectors of queries only."""
    documents: str = ""
    """Fields that decide the vectors of documents only."""
    transport: str = ""
    """Fields that say how vectors are fetched, not which."""
    secrets: str = ""
    """Fields with what is paid or logged in with."""
    addresses: str = ""
    """Paths (`client._client.base_url`), or fields, of which the first that is set tells the server."""
    headers: str = ""
    """Fields with HTTP headers, of which some may decide."""
    parameters: str = ""
    """Fields with a URL's parameters, of which some may decide."""
    silent: str = ""
    """Names inside mappings that change no vector."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What a field, or a name inside a mapping, says when it says nothing."""
    symmetric: Callable[[Any], bool] = _never
    """Whether queries are embedded as documents are."""
    refuses: Callable[[Any], str | None] = lambda _: None
    """Why this embedder cannot be cached, if it cannot."""
    local: str = ""
    """The field with the SentenceTransformer that embeds."""
    encodes: Callable[[Any, Any], tuple[dict[str, Any], dict[str, Any]]] | None = None
    """What a local model's `encode` is called with, for documents and for queries."""
    edits: Callable[[str], str] | None = None
    """What becomes of a text before it is embedded."""
    around: str = ""
    """The field with the embedder that it only adapts or caches."""
    inner: str = ""
    """The field with another embedder that it changes the vectors of."""

    def placed(self) -> set[str]:
        """Return the names of all fields that this record places, without their question marks."""
        names = (
            *(self.name, self.decides, self.queries, self.documents, self.transport, self.secrets),
            *(self.headers, self.parameters, self.local, self.around, self.inner),
            *(path for path in self.addresses.split() if "." not in path),
        )
        return {name.rstrip("?") for names_ in names for name in names_.split()}


_LLAMA_INDEX = "embed_batch_size callback_manager num_workers embeddings_cache rate_limiter?"
"""Transport of every LlamaIndex `BaseEmbedding`."""


def _one_engine(embedder: Any) -> bool:  # noqa: ANN401 - LlamaIndex's OpenAIEmbedding
    return bool(embedder._query_engine == embedder._text_engine)  # noqa: SLF001


def _encodes_of_langchain(embedder: Any, _: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401
    if embedder.multi_process:  # encode_multi_process is given no options
        return {}, {}
    return embedder.encode_kwargs, embedder.query_encode_kwargs or embedder.encode_kwargs


def _encodes_of_llama_index(embedder: Any, _: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401
    plain = {"normalize_embeddings": embedder.normalize}
    return {**plain, "prompt_name": "text"}, {**plain, "prompt_name": "query"}


def _quantised_by_batch(embedder: Any) -> str | None:  # noqa: ANN401 - LangChain's HuggingFaceEmbeddings
    asked = {options.get("precision") for options in (embedder.encode_kwargs, embedder.query_encode_kwargs)}
    if asked.isdisjoint({"int8", "uint8"}):
        return None
    return "quantises to int8 by the other texts of a batch, so that a text alone has no vector to cache"


def _without_newlines(text: str) -> str:
    return text.replace("\n", " ")


def _holds_a_cache(embedder: Any) -> str | None:  # noqa: ANN401 - LlamaIndex's
    if getattr(embedder, "embeddings_cache", None) is None:
        return None
    return "has an embeddings_cache, which answers a query with a document's vector; set it to None"


RECORDS: dict[str, Provider] = {
    "kura_cache_adapters:LangChainCachedEmbeddings": Provider(name="", around="cached"),
    "kura_cache_adapters:LlamaIndexCachedEmbedding": Provider(name="", around="cached"),
    "langchain:CacheBackedEmbeddings": Provider(name="", around="underlying_embeddings"),
    "langchain_classic:CacheBackedEmbeddings": Provider(name="", around="underlying_embeddings"),
    "llama_index.embeddings.langchain:LangchainEmbedding": Provider(
        name="", around="_langchain_embedding", transport=_LLAMA_INDEX
    ),
    "langchain_huggingface:HuggingFaceEmbeddings": Provider(
        local="_client",
        decides="encode_kwargs multi_process",
        queries="query_encode_kwargs",
        encodes=_encodes_of_langchain,
        edits=_without_newlines,
        refuses=_quantised_by_batch,
        transport="cache_folder model_kwargs show_progress",
    ),
    "llama_index.embeddings.huggingface:HuggingFaceEmbedding": Provider(
        local="_model",
        decides="normalize text_instruction query_instruction max_length",
        encodes=_encodes_of_llama_index,
        transport=f"{_LLAMA_INDEX} cache_folder show_progress_bar _device _parallel_process _target_devices",
    ),
    "langchain_openai:OpenAIEmbeddings": Provider(
        name="model",
        decides=(
            "dimensions model_kwargs embedding_ctx_length check_embedding_ctx_length tiktoken_enabled "
            "tiktoken_model_name skip_empty allowed_special disallowed_special"
        ),
        addresses="client._client.base_url async_client._client.base_url openai_api_base",
        headers="default_headers",
        parameters="default_query",
        silent="user timeout",
        transport=(
            "client async_client chunk_size deployment headers http_async_client http_client max_retries "
            "openai_api_type openai_api_version openai_organization openai_proxy request_timeout "
            "retry_max_seconds retry_min_seconds show_progress_bar validate_base_url?"
        ),
        secrets="openai_api_key",
        symmetric=_always,
    ),
    "llama_index.embeddings.openai:OpenAIEmbedding": Provider(
        decides="_query_engine _text_engine dimensions additional_kwargs",
        addresses="api_base",
        headers="default_headers",
        silent="user timeout",
        transport=(
            f"{_LLAMA_INDEX} api_version max_retries timeout reuse_client "
            "_client _aclient _http_client _async_http_client"
        ),
        secrets="api_key",
        symmetric=_one_engine,
        refuses=_holds_a_cache,
    ),
}


def record_of(embedder: object) -> tuple[str, Provider] | None:
    """Return what is known of an embedder's class: what it is called here, and its record."""
    kind = type(embedder)
    package = kind.__module__.split(".")
    depth = 3 if package[0] == "llama_index" and package[1:2] == ["embeddings"] else 1
    name = f"{'.'.join(package[:depth])}:{kind.__qualname__}"
    record = RECORDS.get(name)
    return None if record is None else (name, record)
