"""The caches that people come from: how each kind is asked for the vectors of texts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeAlias

from kura_cache_adapters._adopt.fit import Fit, fit
from kura_cache_adapters._adopt.summaries import summaries_in
from kura_cache_adapters.identity import DOCUMENT
from kura_cache_adapters.protocols import SupportsCheckpoints

if TYPE_CHECKING:
    from collections.abc import Collection

    from kura_cache_adapters.identity import Role

Ask: TypeAlias = Callable[[Sequence[str]], Sequence[Any]]
"""Returns one vector for each text, None where there is none."""

_COLLECTION = "embeddings"  # of LlamaIndex's key-value stores
_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, EOFError)  # what reading an entry raises then
_UNFIT = ()  # what stands for the vector of a damaged entry
_AT_HAND = {"InMemoryBaseStore", "InMemoryByteStore", "InMemoryStore", "LocalFileStore"}
_TAKEN = (
    "LangChain's CacheBackedEmbeddings, LlamaIndex's embeddings_cache (a BaseKVStore, an embedding that has "
    "one, or the JSON file of a SimpleKVStore), redisvl's EmbeddingsCache, a checkpoint manager with Kura's "
    "summaries, or a function that returns a vector or None for each of a list of texts"
)


@dataclass(frozen=True, slots=True)
class OldCache:
    """A cache of another make: what it is called, and how it is asked for what was embedded in a role.

    What does not tell roles apart has documents only.
    """

    name: str
    ask: dict[Role, Ask]

    def found(self, texts: Sequence[str], roles: Collection[Role]) -> Fit:
        """Return what it has of the texts in the first of the roles in which it has something.

        Damaged entries are counted. Raises what it raises when it cannot be asked at all.
        """
        vectors: list[Any] = [None] * len(texts)
        for ask in [self.ask[role] for role in roles if role in self.ask]:
            left = [at for at, vector in enumerate(vectors) if vector is None]
            answer = [*ask([texts[at] for at in left])] if left else []
            if len(answer) != len(left):
                message = f"{self.name} answered {len(left)} texts with {len(answer)} vectors"
                raise ValueError(message)
            for at, vector in zip(left, answer, strict=True):
                vectors[at] = vector
        return fit(vectors)


def old_cache(old: Any, model_name: str) -> OldCache:  # noqa: ANN401 - of any make
    """Say how an old cache is asked; `model_name` is what those ask by that keep several models' vectors.

    Raises TypeError, naming what is taken, for anything else; ValueError for one that cannot be asked.
    """
    name = type(old).__name__
    for path in _paths(old):
        if path in _KINDS:
            asks = _KINDS[path](old, model_name)
            return OldCache(name, {role: partial(_sound, ask) for role, ask in asks.items()})
    if isinstance(old, (str, os.PathLike)):
        return OldCache(str(old), {DOCUMENT: partial(_sound, _persisted(Path(old)))})
    if isinstance(old, SupportsCheckpoints):
        return OldCache(name, {DOCUMENT: _summaries(old)})
    if isinstance(old, (FunctionType, MethodType, partial)):
        return OldCache(name, {DOCUMENT: old})
    message = f"nothing can be adopted from a {name}; what is taken: {_TAKEN}."
    raise TypeError(message)


def seen_through(embedder: Any) -> str:  # noqa: ANN401 - of any framework
    """Name an old cache with entries around an embedder; empty where there is none.

    Looked at is only what is at hand; of a store behind a server it is not known, and counts.
    """
    if _LANGCHAIN.isdisjoint(_paths(embedder)):
        return ""
    store = _beneath(embedder.document_embedding_store)
    with suppress(OSError):
        if type(store).__name__ in _AT_HAND and next(iter(store.yield_keys()), None) is None:
            return ""
    return type(embedder).__name__


def _paths(thing: object) -> list[str]:
    """Return what a thing's class, and each of its bases, is called: package and name."""
    return [f"{kind.__module__.partition('.')[0]}:{kind.__name__}" for kind in type(thing).__mro__]


def _sound(ask: Ask, texts: Sequence[str]) -> Sequence[Any]:
    """Ask for texts at once, and in halves where one of them has a damaged entry."""
    try:
        return ask(texts)
    except _DAMAGED:
        if len(texts) == 1:
            return [_UNFIT]
    half = len(texts) // 2
    return [*_sound(ask, texts[:half]), *_sound(ask, texts[half:])]


def _langchain(old: Any, _: str) -> dict[Role, Ask]:  # noqa: ANN401
    """Ask its stores, which encode the keys; one for both roles does not tell them apart."""
    documents, queries = old.document_embedding_store, old.query_embedding_store
    if queries is None or _where(queries) == _where(documents):
        return {DOCUMENT: documents.mget}
    return {DOCUMENT: documents.mget, "query": queries.mget}


def _where(entries: Any) -> tuple[int, int]:  # noqa: ANN401 - of LangChain
    return id(_beneath(entries)), id(getattr(entries, "key_encoder", None))


def _beneath(entries: Any) -> Any:  # noqa: ANN401 - of LangChain
    return entries.store if hasattr(entries, "key_encoder") else entries


def _key_values(old: Any, _: str) -> dict[Role, Ask]:  # noqa: ANN401
    """Ask one by one: a text is its own key, and its vector the only value, under a random name."""
    return {DOCUMENT: lambda texts: [_only(old.get(key=text, collection=_COLLECTION)) for text in texts]}


def _only(entry: Any) -> Any:  # noqa: ANN401 - a mapping, if it is not damaged
    return None if entry is None else next(iter(entry.values()), _UNFIT)


def _llama_index(old: Any, model_name: str) -> dict[Role, Ask]:  # noqa: ANN401
    """Ask an embedding's cache."""
    if old.embeddings_cache is None:
        message = f"this {type(old).__name__} has no embeddings_cache, so there is nothing to adopt from it"
        raise ValueError(message)
    return _key_values(old.embeddings_cache, model_name)


def _redisvl(old: Any, model_name: str) -> dict[Role, Ask]:  # noqa: ANN401
    """Ask by text and model name, in one pipeline."""
    if getattr(old, "_redis_client", None) is None and not getattr(old, "_owns_redis_client", True):
        message = "this EmbeddingsCache has an async client only; make one with redis_url= or redis_client="
        raise ValueError(message)

    def ask(texts: Sequence[str]) -> list[Any]:
        entries = old.mget(texts, model_name)
        return [None if entry is None else entry["embedding"] for entry in entries]

    return {DOCUMENT: ask}


def _persisted(path: Path) -> Ask:
    """Read what `SimpleKVStore.persist` wrote; raise ValueError for another file."""
    try:
        entries = dict(json.loads(path.read_bytes())[_COLLECTION])
    except (ValueError, LookupError, TypeError) as error:
        message = f"{path} is no file of a SimpleKVStore with embeddings; what is taken: {_TAKEN}."
        raise ValueError(message) from error
    return lambda texts: [_only(entries.get(text)) for text in texts]


def _summaries(old: SupportsCheckpoints) -> Ask:
    texts, vectors = summaries_in(old)
    known = dict(zip(texts, vectors, strict=True))
    return lambda asked: [*map(known.get, asked)]


_LANGCHAIN = {"langchain_classic:CacheBackedEmbeddings", "langchain:CacheBackedEmbeddings"}
_KINDS: dict[str, Callable[[Any, str], dict[Role, Ask]]] = {
    **dict.fromkeys(_LANGCHAIN, _langchain),
    "llama_index:BaseKVStore": _key_values,
    "llama_index:BaseEmbedding": _llama_index,
    "redisvl:EmbeddingsCache": _redisvl,
}
