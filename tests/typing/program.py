"""A user's program with everything that is public: it must type-check, from outside, with `mypy --strict`."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from openai import AsyncOpenAI
from pydantic import BaseModel
from typing_extensions import assert_type

import kura_cache_adapters
from kura_cache_adapters import (
    Adopted,
    AnswerError,
    ArrowStore,
    BaseCheckpointManager,
    BaseEmbeddingModel,
    Breaker,
    Cache,
    CachedEmbedding,
    CachedEmbeddingModel,
    CacheMissError,
    CacheOptions,
    CacheStats,
    CallableEmbeddingModel,
    CheckpointError,
    CleaningReceipt,
    DimensionMismatchError,
    Drift,
    Embedded,
    EmbeddingStore,
    Event,
    Explanation,
    Failed,
    Guarded,
    HFDatasetCheckpointManager,
    HFDatasetStore,
    IdentityError,
    JSONLCheckpointManager,
    JSONLStore,
    KeyValueStore,
    KuraCacheError,
    LangChainByteStore,
    LangChainCachedEmbeddings,
    LangChainEmbeddingModel,
    LlamaIndexCachedEmbedding,
    LlamaIndexEmbeddingModel,
    LookedUp,
    MemoryStore,
    MirroredStore,
    MirrorStats,
    MissingExtraError,
    MultiCheckpointManager,
    Observer,
    OpenAIEmbeddingModel,
    ParquetCheckpointManager,
    ParquetStore,
    Plan,
    PostgresStore,
    Receipt,
    RedisStore,
    ReentryError,
    RefusedTextsError,
    RegistrationError,
    Remote,
    Report,
    SentenceTransformerEmbeddingModel,
    SpaceBusyError,
    SpaceInfo,
    Stored,
    SyncReceipt,
    TieredStore,
    TierStats,
    UnreachableError,
    UnsupportedError,
    UseStats,
    VectorCountError,
    VectorSpace,
    kura,
    open_cache,
    open_store,
    summarise_conversations,
    testing,
)
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.protocols import Hits, SpaceStats, Vectors
from kura_cache_adapters.receipts import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from langchain_core.embeddings import Embeddings
    from langchain_core.stores import BaseStore, ByteStore
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.storage.kvstore.types import BaseKVStore

logger = logging.getLogger(__name__)
TEXTS = ["Hello world", "Test sentence"]


class Mine(BaseEmbeddingModel):
    """A model of the user's own."""

    model_name = "mine-v1"

    async def embed(self, texts: list[str]) -> list[list[float]]:
        return [[float(len(text))] for text in texts]

    def slug(self) -> str:
        return self.model_name

    def identity(self) -> dict[str, Any]:
        return {"revision": 3}


class Shaped:
    """A model that has the shape and no base class."""

    model_name = "shaped-v1"

    async def embed(self, texts: list[str]) -> list[list[float]]:
        return [[float(len(text))] for text in texts]

    def slug(self) -> str:
        return self.model_name


def lengths(texts: list[str]) -> Vectors:
    return np.array([[len(text)] for text in texts], np.float32)


def sources(loaded: Embeddings, other: BaseEmbedding) -> list[BaseEmbeddingModel]:
    return [
        Mine(),
        Shaped(),
        CallableEmbeddingModel(lengths, model_name="lengths-v1", identity={"unit": "characters"}),
        OpenAIEmbeddingModel("text-embedding-3-small", dimensions=256, extra_headers={"x": "y"}),
        OpenAIEmbeddingModel(client=AsyncOpenAI(), roles={"query": {"prefix": "query: "}}),
        SentenceTransformerEmbeddingModel("all-MiniLM-L6-v2", device="cpu", normalize_embeddings=True),
        LangChainEmbeddingModel(loaded, model_name="mine-v2", batch_size=32),
        LlamaIndexEmbeddingModel(other, identity={"by": "me"}),
    ]


def caches(directory: Path) -> Iterator[CachedEmbeddingModel]:
    options = CacheOptions(chunk_size=512, durable=False, progress=True, key_secret=b"sixteen bytes and more")
    yield CachedEmbeddingModel(Mine())
    yield CachedEmbeddingModel(Mine(), "parquet://./cache", temperature=0.5, device="cpu")
    yield CachedEmbeddingModel(Mine(), directory, options=options)
    yield CachedEmbeddingModel(Mine(), ["./cache", MemoryStore(), "redis://localhost:6379/0"])
    yield CachedEmbeddingModel(Mine(), cache=MemoryStore())
    yield CachedEmbeddingModel(Mine(), cache_manager=JSONLCheckpointManager(directory))
    yield CachedEmbeddingModel(CachedEmbeddingModel(Mine(), directory), MemoryStore())


def ask(model: CachedEmbeddingModel) -> None:
    assert_type(model.embed_sync(TEXTS), list[list[float]])
    vectors = model.embed_array_sync(TEXTS)
    similarity: float = vectors[0].astype(np.float64) @ vectors[1].astype(np.float64)
    assert_type(model.stats, CacheStats)
    assert_type((model.stats.tokens, model.stats.model_seconds), tuple[int | None, float])
    share: float = model.stats.hit_rate
    logger.info("%s, %s: %f %f", model.slug(), model.model_name, similarity, share)
    assert_type(model.cache_key("a", role="query"), str)
    assert_type(model.missing(TEXTS, role="document"), list[int])
    assert_type(model.contains(TEXTS), list[bool])
    assert_type(model.count_tokens(TEXTS), list[int] | None)
    explained: Explanation = model.explain("a", role="query")
    if explained.nearest is not None:
        logger.info("%s", [each.field for each in explained.nearest.differences])
    plan: Plan = model.plan(TEXTS, role="query", price_per_million=0.02)
    assert_type((plan.missing, plan.tokens, plan.cost), tuple[int, int | None, float | None])
    added: int = model.add(TEXTS, vectors)
    added += model.add(TEXTS, [[1.0], [2.0]], role="query")
    assert_type(model.identity(), ModelIdentity)
    assert_type(model.identity().digest, str)
    with model as same:
        assert_type(same, CachedEmbeddingModel)
    model.close()


async def ask_async(model: CachedEmbeddingModel) -> None:
    assert_type(await model.embed(TEXTS), list[list[float]])
    vectors: Vectors = await model.embed_array(TEXTS)
    logger.info("%s", vectors.shape)
    async for positions, batch in model.embed_batches(TEXTS, role="document"):
        logger.info("%s %s", list(positions), batch)


def stores(directory: Path) -> TieredStore:
    disk: list[EmbeddingStore] = [
        open_store(directory),
        open_store("memory://"),
        ArrowStore(directory, shared=True),
        ParquetStore(str(directory), compression="zstd"),
        JSONLStore(directory),
        HFDatasetStore(directory),
        PostgresStore("postgresql://user@host/vectors", schema="team", timeout=5),
        RedisStore("rediss://user:password@localhost:6379/0", ttl=timedelta(days=30), sign=b"k" * 32),
        Remote(MyStore(), read_timeout=0.5, write="through", breaker=Breaker(errors=3, longest=30.0)),
    ]
    return TieredStore(MemoryStore(max_bytes=1 << 20), *disk)


def use_store(store: EmbeddingStore) -> None:
    space: VectorSpace = store.space(ModelIdentity.of("mine-v1", {"temperature": 0.5}))
    space.put_many([b"k" * 32], np.ones((1, 3), np.float32), durable=False)
    hits: Hits = space.get_many(iter([b"k" * 32]))
    vectors: Vectors = hits.vectors
    counted: SpaceStats = space.stats()
    deleted: int = space.delete_many(list(space.keys()))
    logger.info("%s %s %s %s", hits.positions, vectors, counted.dimension, deleted)
    assert_type(store.spaces(), list[ModelIdentity])
    store.close()


class MyStore:
    """A store of the user's own."""

    def space(self, identity: ModelIdentity) -> MySpace:
        return MySpace(identity)

    def spaces(self) -> list[ModelIdentity]:
        return []

    def close(self) -> None:
        return None


class MySpace:
    """A space of the user's own."""

    def __init__(self, identity: ModelIdentity) -> None:
        self.identity = identity

    def get_many(self, keys: Iterable[bytes]) -> Hits:
        return Hits.none(invalid=len(list(keys)))

    def put_many(self, keys: Iterable[bytes], vectors: Vectors, *, durable: bool = True) -> None:
        logger.info("%s %s %s", list(keys), vectors.shape, durable)

    def delete_many(self, keys: Iterable[bytes]) -> int:
        return len(list(keys))

    def keys(self) -> Iterator[bytes]:
        return iter(())

    def stats(self) -> SpaceStats:
        return SpaceStats(rows=0, nbytes=0, parts=0, dimension=None)


def delete(store: Remote) -> int:
    try:
        return store.space(ModelIdentity.of("mine-v1")).delete_many([b"k" * 32])
    except UnreachableError as error:
        logger.info("%s", error)
        return 0


def use_my_store() -> CachedEmbeddingModel:
    use_store(MyStore())
    return CachedEmbeddingModel(Mine(), TieredStore(MemoryStore(), MyStore()))


class Summary(BaseModel):
    """What a pipeline checkpoints."""

    text: str
    embedding: list[float] | None = None


def managers(directory: Path) -> MultiCheckpointManager:
    each: Sequence[BaseCheckpointManager] = [
        JSONLCheckpointManager(directory, enabled=True, shared=True),
        ParquetCheckpointManager(directory, compression="snappy"),
        HFDatasetCheckpointManager(str(directory), streaming=False, compression=None),
    ]
    return MultiCheckpointManager(each, save_strategy="primary_only", load_strategy="priority")


def use_managers(manager: BaseCheckpointManager) -> None:
    manager.setup_checkpoint_dir()
    manager.save_checkpoint("summaries", [Summary(text="a")])
    assert_type(manager.load_checkpoint("summaries", Summary), list[Summary] | None)
    assert_type(manager.list_checkpoints(), list[str])
    assert_type(manager.get_checkpoint_path("summaries"), Path)
    assert_type(manager.is_enabled() and manager.delete_checkpoint("summaries"), bool)
    logger.info("%s %s", manager.checkpoint_dir / "x", manager.enabled)


def use_kinds_of_managers(directory: Path) -> None:
    datasets = HFDatasetCheckpointManager(directory)
    found = datasets.filter_checkpoint("summaries", lambda fields: bool(fields["text"]), Summary)
    assert_type(found, list[Summary] | None)
    assert_type(datasets.get_checkpoint_info("summaries"), dict[str, Any] | None)
    assert_type(datasets.open_store(), HFDatasetStore)
    assert_type(JSONLCheckpointManager(directory).open_store(), JSONLStore)
    parquet = ParquetCheckpointManager(directory)
    assert_type(parquet.open_store(), ParquetStore)
    assert_type(parquet.get_file_size("summaries"), int)
    several = managers(directory)
    several.save_strategy = "all_enabled"
    several.load_strategy = "first_found"
    assert_type(several.managers, list[BaseCheckpointManager])
    assert_type(several.get_stats(), dict[str, Any])
    assert_type(several.open_store(), TieredStore)
    entries = JSONLCheckpointManager(directory).load_checkpoint("entry", CachedEmbedding) or []
    logger.info("%s", [(entry.key, entry.identity, entry.embedding) for entry in entries])


async def use_langchain(loaded: Embeddings) -> None:
    embeddings = LangChainCachedEmbeddings.from_embeddings(loaded, "./cache", preprocessing="lowercase")
    as_langchains: Embeddings = embeddings
    assert_type(as_langchains.embed_documents(TEXTS), list[list[float]])
    assert_type(embeddings.embed_query("a"), list[float])
    assert_type(await embeddings.aembed_documents(TEXTS), list[list[float]])
    assert_type(await embeddings.aembed_query("a"), list[float])
    assert_type(embeddings.stats, CacheStats)
    assert_type(embeddings.model, str)
    assert_type(LangChainCachedEmbeddings(CachedEmbeddingModel(Mine())).cached, CachedEmbeddingModel)


def keep_bytes(directory: Path) -> ByteStore:
    store = LangChainByteStore(directory, namespace="documents")
    store.mset([("a", b"bytes")])
    assert_type(store.mget(["a"]), list[bytes | None])
    return store


def use_key_value_stores(values: BaseStore[str, bytes], dicts: BaseKVStore) -> list[Cache]:
    cached = CachedEmbeddingModel(Mine(), values)
    assert_type(cached.embed_sync(TEXTS), list[list[float]])
    store: EmbeddingStore = KeyValueStore(dicts, namespace="embeddings", batch=100)
    return [open_cache(store), open_cache(values), open_cache(dicts)]


def use_llama_index(loaded: BaseEmbedding) -> BaseEmbedding:
    embedding = LlamaIndexCachedEmbedding.from_embedding(loaded, cache=MemoryStore(), options=CacheOptions())
    assert_type(embedding.get_text_embedding("a"), list[float])
    assert_type(embedding.cached, CachedEmbeddingModel)
    assert_type(embedding.fingerprint, str)
    assert_type(embedding.stats, CacheStats)
    return LlamaIndexCachedEmbedding(CachedEmbeddingModel(Mine(), "./cache"), num_workers=2)


async def use_kura(directory: Path, conversations: list[Any]) -> None:
    model = kura.cached(Mine(), "./cache", purpose="clusters")
    assert_type(model, kura.CachedEmbeddingModel)
    imported: int = kura.import_summaries(model, kura.JSONLCheckpointManager(directory))
    twins = [kura.ParquetCheckpointManager(directory), kura.HFDatasetCheckpointManager(directory)]
    logger.info("%d %s", imported, kura.MultiCheckpointManager(twins))
    summaries = await summarise_conversations(conversations, embedding_model=model)
    logger.info("%d %s", len(summaries), kura.import_dimensionality().__name__)


def watch(event: Event) -> None:
    match event:
        case LookedUp():
            assert_type(event.tiers, tuple[int, ...])
        case Embedded():
            assert_type(event.tokens, int | None)
        case Stored():
            assert_type(event.seconds, float)
        case Failed():
            assert_type(event.reason, str)
        case Guarded():
            assert_type(event.stats, TierStats)
            assert_type(event.stats.mirror, MirrorStats | None)


def observe(model: CachedEmbeddingModel) -> None:
    observer: Observer = watch
    options = CacheOptions(observers=[observer], progress=True, wait_for_others=1.5, on_miss="raise")
    options = CacheOptions(refresh=True) if options.read_only else CacheOptions(enabled=not options.refresh)
    assert_type(CachedEmbeddingModel(model, "memory://", options=options).cache, Cache | None)


def look_without_a_model() -> None:
    with open_cache("./cache") as cache:
        rates: dict[ModelIdentity, UseStats] = cache.hit_rates()
        logger.info(
            "%s", {each.model_name: (uses.hit_rate, uses.tokens_saved) for each, uses in rates.items()}
        )
        for info in cache.spaces():
            assert_type(info, SpaceInfo)
            assert_type(info.last_use, datetime | None)
            assert_type(cache.stats(info.identity), SpaceStats)
            logger.info("%d", len(cache.missing(info, cache.keys(info.name))))
        logger.info("%d of %d", len(cache), cache.stats().rows)


def clean(cache: Cache) -> CleaningReceipt | None:
    try:
        cache.prune(
            older_than=timedelta(days=30), unused_for=3600, max_bytes=10**9, model="fake", dry_run=True
        )
        cache.compact(model="fake")
        cache.rm(cache.spaces()[0])
        assert_type(cache.prune(remote="s3://bucket/prefix", older_than=3600), CleaningReceipt)
        return cache.clear()
    except UnsupportedError as error:
        as_not_implemented: NotImplementedError = error
        logger.warning(str(as_not_implemented))
    except SpaceBusyError as error:
        assert_type(error.names, tuple[str, ...])
        return error.receipt
    return None


def share(cache: Cache) -> SyncReceipt:
    mirrored = MirroredStore(ArrowStore("./cache"), "s3://bucket/prefix", anonymous=True, push=False)
    counts: MirrorStats = mirrored.counts
    assert_type(counts.pushed, int)
    assert_type(cache.push("s3://bucket/prefix", dry_run=True), SyncReceipt)
    assert_type(cache.pull("s3://bucket/prefix", model="fake").pulled, int)
    receipt = cache.sync("s3://bucket/prefix")
    logger.info("%s, %d: %s", receipt.requests, receipt.spaces[0].pushed_bytes, receipt.refused)
    return receipt


async def hold_without_a_model() -> None:
    async with open_cache("./cache") as cache:
        assert_type(cache, Cache)


async def forget_and_verify(model: CachedEmbeddingModel) -> None:
    receipt = model.forget(TEXTS, days=30)
    assert_type(receipt, Receipt)
    logger.info("%d, %s: %s", receipt.there, receipt.complete, receipt.to_json())
    with open_cache("./cache") as cache:
        assert_type(cache.forget([model.cache_key("a"), bytes(32)]).unreachable, tuple[Trouble, ...])
        report: Report = cache.verify(repair=True)
        rows = sum(space.intact for space in report.spaces)
        logger.info("%d, %s, %s", rows, report.sound, report.as_dict())
    drift: Drift = await model.verify(TEXTS, sample=10)
    assert_type(model.verify_sync(TEXTS, tolerance=1e-6), Drift)
    assert_type([role.cosine_median for role in drift.roles], list[float | None])


def adopt(model: CachedEmbeddingModel, cache: Cache, old: Embeddings) -> Adopted:
    assert_type(model.adopt(old, TEXTS, role="query", check=3, tolerance=0.01).stored, int)
    assert_type(CachedEmbeddingModel(Mine(), "./cache", fallback=old).stats.adopted, int)
    assert_type(model.import_file("vectors.parquet", vector="vector", check=3, tolerance=0.01), Adopted)
    assert_type(model.export_file(Path("texts.jsonl"), TEXTS), int)
    assert_type(cache.export_file("keys.npz", model.identity()), int)
    return cache.import_file("keys.npz")


def hear_of_errors(model: CachedEmbeddingModel) -> None:
    try:
        model.embed_sync(TEXTS)
    except ReentryError:
        return
    except RefusedTextsError as error:
        assert_type(error.positions, tuple[int, ...])
        assert_type(error.model_name, str)
        logger.warning(error.message)
    except (VectorCountError, DimensionMismatchError, AnswerError, IdentityError, CheckpointError) as error:
        as_values: ValueError = error
        logger.warning("%s", as_values)
    except MissingExtraError as error:
        as_import: ImportError = error
        logger.warning("%s", as_import)
    except RegistrationError as error:
        assert_type(str(error), str)
    except CacheMissError as error:
        as_lookup: LookupError = error
        assert_type(error.keys, tuple[str, ...])
        logger.warning("%s %s", error.model_name, as_lookup)
    except KuraCacheError:
        logger.exception("version %s", kura_cache_adapters.__version__)


def test_mine() -> None:
    fake = testing.FakeEmbeddingModel(dimension=8)
    with testing.OpenAIServer() as server:
        logger.info("%s %s", server.url, fake.slug())


class TestMyStore(testing.StoreContract):
    """The laws of stores, for one of the user's own."""


class TestMyManager(testing.CheckpointManagerContract):
    """The laws of managers, for one of the user's own."""
