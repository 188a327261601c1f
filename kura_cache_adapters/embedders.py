"""What is known of the embedders of LangChain and LlamaIndex, by the names of their classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from kura_cache_adapters.identity import Role

METHODS: tuple[dict[Role, str], ...] = (
    {"document": "embed_documents", "query": "embed_query"},  # LangChain
    {"document": "get_text_embedding_batch", "query": "get_query_embedding"},  # LlamaIndex
)

# Classes that only cache or adapt, with the attribute that holds what they wrap. A subclass may do more.
_WRAPPERS = {
    "langchain.embeddings.cache.CacheBackedEmbeddings": "underlying_embeddings",
    "langchain_classic.embeddings.cache.CacheBackedEmbeddings": "underlying_embeddings",
    "llama_index.embeddings.langchain.base.LangchainEmbedding": "_langchain_embedding",
    "kura_cache_adapters.langchain.LangChainCachedEmbeddings": "model",
    "kura_cache_adapters.llama_index.LlamaIndexCachedEmbedding": "model",
}

# Attributes that change no vector, in modules that start so; those of all starts that fit.
_TRANSPORT = {
    "langchain_aws": "region_name credentials_profile_name config",
    "langchain_community.embeddings.fastembed": "model providers",
    "langchain_google_genai": "project location",
    "langchain_google_vertexai": "project location",
    "langchain_mistralai": "tokenizer",
    "langchain_ollama": "keep_alive num_gpu num_thread validate_model_on_init",
    "langchain_openai": "openai_api_type validate_base_url default_query",
    "langchain_openai.embeddings.base": "deployment",  # Azure's class, beside it, does use it
    "llama_index.embeddings.azure_openai": "reuse_client use_azure_ad",
    "llama_index.embeddings.bedrock": "profile_name region_name botocore_session botocore_config",
    "llama_index.embeddings.fastembed": "providers",
    "llama_index.embeddings.huggingface": "parallel_process",
    "llama_index.embeddings.ollama": "keep_alive",
    "llama_index.embeddings.openai": "reuse_client",
}

# Classes that make their client when it is first used: an address read there would come and go.
_LAZY_CLIENTS = (
    "llama_index.embeddings.azure_openai",
    "llama_index.embeddings.cohere",
    "llama_index.embeddings.openai",
)

# Where the clients of the SDKs keep the address that they really talk to.
ADDRESSES = (
    "base_url",
    "_base_url",
    "_client.base_url",
    "_client_wrapper._base_url",
    "_params.base_url",
    "_api_client._http_options.base_url",
    "meta.endpoint_url",
)


def _always(_: object) -> bool:
    return True


def _no_query_kwargs(embedder: Any) -> bool:  # noqa: ANN401 - LangChain's HuggingFaceEmbeddings
    return not embedder.query_encode_kwargs


def _one_engine(embedder: Any) -> bool:  # noqa: ANN401 - LlamaIndex's OpenAIEmbedding
    return bool(embedder._query_engine == embedder._text_engine)  # noqa: SLF001


def _one_prompt(embedder: Any) -> bool:  # noqa: ANN401 - LlamaIndex's HuggingFaceEmbedding
    prompts = embedder._model.prompts  # noqa: SLF001
    return bool(prompts.get("query") == prompts.get("text"))


# Which classes embed queries as they embed documents; any other is taken to make a difference.
_SYMMETRIC: dict[str, Callable[[Any], bool]] = {
    "langchain_community.embeddings.jina.JinaEmbeddings": _always,
    "langchain_huggingface.embeddings.huggingface.HuggingFaceEmbeddings": _no_query_kwargs,
    "langchain_huggingface.embeddings.huggingface_endpoint.HuggingFaceEndpointEmbeddings": _always,
    "langchain_mistralai.embeddings.MistralAIEmbeddings": _always,
    "langchain_ollama.embeddings.OllamaEmbeddings": _always,
    "langchain_openai.embeddings.azure.AzureOpenAIEmbeddings": _always,
    "langchain_openai.embeddings.base.OpenAIEmbeddings": _always,
    "llama_index.embeddings.azure_openai.base.AzureOpenAIEmbedding": _one_engine,
    "llama_index.embeddings.huggingface.base.HuggingFaceEmbedding": _one_prompt,
    "llama_index.embeddings.mistralai.base.MistralAIEmbedding": _always,
    "llama_index.embeddings.openai.base.OpenAIEmbedding": _one_engine,
}


def bare(embedder: Any) -> Any:  # noqa: ANN401 - of any framework
    """Return the embedder beneath wrappers that only adapt or cache."""
    attribute = _WRAPPERS.get(class_path(embedder))
    return embedder if attribute is None else bare(getattr(embedder, attribute))


def is_embedder(thing: object) -> bool:
    """Tell whether a thing embeds as LangChain's or LlamaIndex's embedders do."""
    return any(hasattr(thing, methods["document"]) for methods in METHODS)


def is_symmetric(embedder: object) -> bool:
    """Tell whether an embedder is known to embed queries as documents."""
    return _SYMMETRIC.get(class_path(embedder), lambda _: False)(embedder)


def is_of_a_framework(embedder: object) -> bool:
    """Tell whether a package of the frameworks made the class: what it hides is its transport."""
    return _home(embedder).startswith(("langchain_", "llama_index."))


def transport_of(embedder: object) -> frozenset[str]:
    """Name the attributes that change no vector of this class, beside those of every class."""
    known = (names for start, names in _TRANSPORT.items() if _within(_home(embedder), start))
    return frozenset(name for names in known for name in names.split())


def has_lazy_client(embedder: object) -> bool:
    """Tell whether the class makes its client when it is first used."""
    return any(_within(_home(embedder), start) for start in _LAZY_CLIENTS)


def class_path(thing: object) -> str:
    """Return module and name of a thing's class, the same in a spawned process."""
    module = type(thing).__module__
    return f"{'__main__' if module == '__mp_main__' else module}.{type(thing).__qualname__}"


def _home(embedder: object) -> str:
    """Return the module of the first class that a framework's package made: users extend those."""
    modules = [kind.__module__ for kind in type(embedder).__mro__]
    packaged = (module for module in modules if module.startswith(("langchain_", "llama_index.")))
    made = (module for module in packaged if not module.startswith(("langchain_core.", "llama_index.core.")))
    return next(made, modules[0])


def _within(module: str, start: str) -> bool:
    return f"{module}.".startswith(f"{start}.")
