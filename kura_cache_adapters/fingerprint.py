"""What changes a foreign embedder's vectors, read from the live object; never a secret."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretBytes, SecretStr

from kura_cache_adapters.embedding.sentence_transformer import content_digest, described
from kura_cache_adapters.errors import IdentityError
from kura_cache_adapters.protocols import BaseEmbeddingModel
from kura_cache_adapters.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

FINGERPRINT_VERSION = 1
"""Version of the rules below; it is part of every fingerprint."""

_MODEL_NAMES = ("model_name", "model", "model_id")
_DEPTH = 8  # an object graph deeper than this is no description

# A name of one of these words holds a secret, or may.
_SECRET = re.compile(
    r"(^|_)(api_?keys?|keys?|[a-z]*(?<!tik)token|secrets?|password|passwd|pwd|credentials?|"
    r"auth|authorization|bearer|cookies?|headers?|session|prox(y|ies))(_|$)",
)
# How vectors are fetched: none of it changes them. Whatever is not listed counts.
_TRANSPORT = re.compile(
    r"(^|_)(batch_size|chunk_size|retries|timeout|wait_time|workers|threads|concurren\w+|parallel|"
    r"devices?|device_ids|cache|cache_folder|cache_dir|embeddings_cache|show_progress\w*|verbose|"
    r"callbacks?|callback_manager|rate_limiter|client|client_kwargs|client_args|user_agent|"
    r"multi_process|parallel_process|organization|api_version|request_options|default_query)$"
    r"|^retry_",
)
# What only some packages' classes have, by the start of the class's module.
_ALSO_TRANSPORT = {
    "langchain_aws": "region_name credentials_profile_name config",
    "langchain_community.embeddings.fastembed": "model providers",
    "langchain_google_genai": "project location",
    "langchain_google_vertexai": "project location",
    "langchain_mistralai": "tokenizer",
    "langchain_ollama": "keep_alive num_gpu num_thread validate_model_on_init",
    "langchain_openai": "openai_api_type validate_base_url",
    "langchain_openai.embeddings.base": "deployment",  # Azure's class, beside it, does use it
    "llama_index.embeddings.bedrock": "profile_name region_name botocore_session botocore_config",
    "llama_index.embeddings.fastembed": "providers",
    "llama_index.embeddings.ollama": "keep_alive",
    "llama_index.embeddings.openai": "reuse_client",
    "llama_index.embeddings.azure_openai": "reuse_client use_azure_ad",
}
# A private attribute of a plain class with such a name is bookkeeping.
_COUNTER = re.compile(
    r"(^|_)(calls?|count\w*|requests?|hits|misses|time\w*|last|usage|total|cost|stats)(_|$)"
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_URL_FIELDS = frozenset({"base_url", "api_base", "openai_api_base"})
# Where the clients of the SDKs keep the address that they really talk to.
_ADDRESSES = (
    "base_url",
    "_base_url",
    "_client.base_url",
    "_client_wrapper._base_url",
    "_params.base_url",
    "_api_client._http_options.base_url",
    "meta.endpoint_url",
)
# Classes that make their client when it is first used: an address read there would come and go.
_LAZY_CLIENTS = ("llama_index.embeddings.azure_openai", "llama_index.embeddings.openai")
_LAZY_ADDRESSES = {"llama_index.embeddings.cohere": ("CO_API_URL", "https://api.cohere.com")}


def _one_voice(_: object) -> bool:
    return True


def _no_query_kwargs(embedder: Any) -> bool:  # noqa: ANN401 - LangChain's HuggingFaceEmbeddings
    return not embedder.query_encode_kwargs


def _engines(embedder: Any) -> bool:  # noqa: ANN401 - LlamaIndex's OpenAIEmbedding
    return bool(embedder._query_engine == embedder._text_engine)  # noqa: SLF001


def _prompts(embedder: Any) -> bool:  # noqa: ANN401 - LlamaIndex's HuggingFaceEmbedding
    prompts = embedder._model.prompts  # noqa: SLF001
    return bool(prompts.get("query") == prompts.get("text"))


# Which classes embed queries as they embed documents; any other is taken to make a difference.
_SYMMETRIC: dict[str, Callable[[Any], bool]] = {
    "langchain_community.embeddings.jina.JinaEmbeddings": _one_voice,
    "langchain_huggingface.embeddings.huggingface.HuggingFaceEmbeddings": _no_query_kwargs,
    "langchain_huggingface.embeddings.huggingface_endpoint.HuggingFaceEndpointEmbeddings": _one_voice,
    "langchain_mistralai.embeddings.MistralAIEmbeddings": _one_voice,
    "langchain_ollama.embeddings.OllamaEmbeddings": _one_voice,
    "langchain_openai.embeddings.azure.AzureOpenAIEmbeddings": _one_voice,
    "langchain_openai.embeddings.base.OpenAIEmbeddings": _one_voice,
    "llama_index.embeddings.azure_openai.base.AzureOpenAIEmbedding": _engines,
    "llama_index.embeddings.huggingface.base.HuggingFaceEmbedding": _prompts,
    "llama_index.embeddings.mistralai.base.MistralAIEmbedding": _one_voice,
    "llama_index.embeddings.openai.base.OpenAIEmbedding": _engines,
}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """An embedder's name, what else decides its vectors, and whether queries are documents.

    `local` tells that the model runs in this process, where one thread at a time may use it.
    """

    name: str
    fields: dict[str, Any]
    symmetric: bool
    local: bool


def fingerprint(embedder: object, *, strict: bool = True) -> Fingerprint:
    """Read from a live embedder what decides its vectors.

    Every attribute counts unless it is known not to: doubt costs a miss, never a wrong hit. Raises
    IdentityError for an embedder whose vectors depend on the other texts of a batch and, if
    strict, for one that cannot be described.
    """
    _refuse_mixing(embedder)
    reader = _Reader(type(embedder), strict=strict)
    declared = reader.attributes(embedder)
    name = _name(embedder)
    if strict and name is None and not declared:
        raise IdentityError(_class(embedder), "says nothing about its model")
    _normalise_names(declared, local=reader.local)
    return Fingerprint(
        name or type(embedder).__name__,
        {
            "class": _class(embedder),
            "fingerprint": FINGERPRINT_VERSION,
            "attributes": reader.redacted(declared),
        },
        _SYMMETRIC.get(_class(embedder), lambda _: False)(embedder),
        reader.local,
    )


class _Undescribed(Exception):  # noqa: N818 - a signal between the functions here
    """A value is an object of which nothing can be said."""


class _Reader:
    """Reads one embedder; remembers its secrets, so that none slips out in another field."""

    def __init__(self, kind: type, *, strict: bool) -> None:
        self.local = False
        self._kind = kind
        self._strict = strict
        self._secrets: list[str] = []
        extra = (names for start, names in _ALSO_TRANSPORT.items() if self._within(start))
        self._transport = {name for names in extra for name in names.split()}

    def attributes(self, thing: object, depth: int = 0) -> dict[str, Any]:
        """Describe what an object holds, without what does not count."""
        found: dict[str, Any] = {}
        addresses: set[str] = set()
        for name, value in _held(thing):
            addresses |= set(_addresses(value))
            if self._is_secret(name, value) or (self._is_transport(name) and not _is_model(value)):
                continue
            try:
                found[name] = self.value(value, depth + 1)
            except _Undescribed:
                self._refuse(thing, name, value)
        found = {name: value for name, value in found.items() if value not in (None, [], {})}
        given = [found.pop(name) for name in _URL_FIELDS & found.keys()]
        if address := self._lazy_address(given) or sorted(addresses) or given:
            found["address"] = address
        return found

    def _lazy_address(self, given: list[str]) -> list[str]:
        for start, (variable, default) in _LAZY_ADDRESSES.items():
            if self._within(start):
                return given or [_plain_url(os.environ.get(variable) or default)]
        return given if any(self._within(start) for start in _LAZY_CLIENTS) else []

    def _within(self, start: str) -> bool:
        return _within(self._kind.__module__, start)

    def value(self, value: object, depth: int) -> Any:  # noqa: ANN401, PLR0911 - one line per kind of value
        """Turn a value into JSON; raise _Undescribed for what cannot be."""
        if depth > _DEPTH:
            raise _Undescribed
        if value is None or type(value) in (bool, int, float):
            return value
        if isinstance(value, Enum):
            return self.value(value.value, depth + 1)
        if isinstance(value, str):
            return _plain_url(str(value)) if _URL.fullmatch(value) else str(value)
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, dict):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple)):
            return [self.value(item, depth + 1) for item in value]
        if isinstance(value, (set, frozenset)):
            return sorted((self.value(item, depth + 1) for item in value), key=repr)
        if isinstance(value, type):
            return f"{value.__module__}.{value.__qualname__}"
        return self._object(value, depth)

    def redacted(self, value: Any) -> Any:  # noqa: ANN401 - JSON in, JSON out
        """Return JSON without any string that holds a secret met before."""
        if isinstance(value, dict):
            return {name: self.redacted(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.redacted(item) for item in value]
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, "***")
        return value

    def _mapping(self, mapping: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        return {
            str(name): self.value(item, depth + 1)
            for name, item in mapping.items()
            if not self._is_secret(str(name), item) and not self._is_transport(str(name))
        }

    def _object(self, value: Any, depth: int) -> Any:  # noqa: ANN401 - an object in, JSON out
        if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
            return str(value)
        if _is_sentence_transformer(value):
            self.local = True
            return described(value)
        if isinstance(value, BaseEmbeddingModel):
            return json.loads(Source(value).identity({}).to_json())
        own = type(value).__module__ == self._kind.__module__ and not callable(value)
        if own or isinstance(value, BaseModel) or is_dataclass(value) or _is_embedder(value):
            return {"class": _class(value), **self.attributes(value, depth + 1)}
        raise _Undescribed

    def _is_secret(self, name: str, value: object) -> bool:
        if isinstance(value, (SecretStr, SecretBytes)):
            self._remember(value.get_secret_value())
            return True
        if not _SECRET.search(_snake(name)) or isinstance(value, (bool, int, float)):
            return False  # a number is no secret: max_token=512
        self._remember(value)
        return True

    def _remember(self, value: object) -> None:
        if isinstance(value, str) and len(value) >= 4:  # noqa: PLR2004 - shorter ones would eat words
            self._secrets.append(value)

    def _is_transport(self, name: str) -> bool:
        name = _snake(name)
        return name in self._transport or _TRANSPORT.search(name) is not None

    def _refuse(self, thing: object, name: str, value: object) -> None:
        if self._strict and not name.startswith("_"):
            why = f"has the attribute {name!r}, a {type(value).__name__}, of which nothing can be read"
            raise IdentityError(_class(thing), why)


def _held(thing: object) -> Iterator[tuple[str, Any]]:
    """Iterate over what an object holds, public and private, leaving a plain class's counters."""
    if is_dataclass(thing):
        yield from ((field.name, getattr(thing, field.name)) for field in fields(thing))
        return
    held: dict[str, Any] = dict(getattr(thing, "__dict__", {}))
    if isinstance(thing, BaseModel):
        held |= thing.__pydantic_private__ or {}
        held |= thing.__pydantic_extra__ or {}
        yield from held.items()
        return
    for name, value in held.items():
        counter = isinstance(value, float) or (isinstance(value, int) and _COUNTER.search(_snake(name)))
        if not (name.startswith("_") and counter):
            yield name, value


def _name(embedder: object) -> str | None:
    for attribute in _MODEL_NAMES:
        name = getattr(embedder, attribute, None)
        if isinstance(name, str) and name not in {"", "unknown"}:
            directory = Path(name)
            return directory.name if directory.is_dir() else str(name).removeprefix("models/")
    return None


def _normalise_names(declared: dict[str, Any], *, local: bool) -> None:
    """Write equal models equally: a local one by what is in its files, not by where they are."""
    for attribute in _MODEL_NAMES:
        name = declared.get(attribute)
        if isinstance(name, str) and name:
            here = local and Path(name).is_dir()
            declared[attribute] = content_digest(Path(name)) if here else name.removeprefix("models/")


def _addresses(client: object) -> Iterator[str]:
    """Iterate over the addresses that an SDK's client talks to."""
    if client is None or isinstance(client, (str, bytes, int, float, list, tuple, dict, BaseModel)):
        return
    for path in _ADDRESSES:
        place: Any = client
        for step in path.split("."):
            place = place.get(step) if isinstance(place, dict) else getattr(place, step, None)
        text = str(place) if place is not None else ""
        if _URL.fullmatch(text) and not (urlsplit(text).hostname or "").endswith(".amazonaws.com"):
            yield _plain_url(text)


def _plain_url(text: str) -> str:
    """Return a URL without user, password, query and fragment."""
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def _refuse_mixing(embedder: object) -> None:
    """Refuse embedders that hold vectors which are not the asked text's own."""
    name = str(getattr(embedder, "model_name", None) or getattr(embedder, "model", ""))
    voyage = "voyage" in type(embedder).__module__ and "-context-" in name
    if voyage or getattr(embedder, "_late_chunking", None):
        why = "embeds the texts of a batch together, so that a text alone has no vector to cache"
        raise IdentityError(_class(embedder), why, cure="Use it without a cache.")
    if getattr(embedder, "embeddings_cache", None) is not None:
        why = "has an embeddings_cache, which answers a query with a document's vector"
        raise IdentityError(_class(embedder), why, cure="Set embeddings_cache=None; this cache replaces it.")


def _is_model(value: object) -> bool:
    return _is_sentence_transformer(value) or _is_embedder(value)


def _is_sentence_transformer(value: object) -> bool:
    return any(
        kind.__name__ == "SentenceTransformer" and _within(kind.__module__, "sentence_transformers")
        for kind in type(value).__mro__
    )


def _is_embedder(value: object) -> bool:
    return hasattr(value, "embed_documents") or hasattr(value, "get_text_embedding_batch")


def _within(module: str, start: str) -> bool:
    return f"{module}.".startswith(f"{start}.")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.lstrip("_")).lower()


def _class(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
