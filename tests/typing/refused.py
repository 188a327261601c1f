"""Mistakes that a type checker must find: each line that ends with `# error: CODE`, and no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel

from kura_cache_adapters import (
    CachedEmbeddingModel,
    CacheOptions,
    CallableEmbeddingModel,
    JSONLCheckpointManager,
    LangChainCachedEmbeddings,
    MemoryStore,
    MultiCheckpointManager,
    OpenAIEmbeddingModel,
    ParquetCheckpointManager,
    ParquetStore,
    TieredStore,
    VectorSpace,
    open_store,
    testing,
)
from kura_cache_adapters.identity import ModelIdentity


class Summary(BaseModel):
    """What a pipeline checkpoints."""


class NoSpaces:
    """A store without its methods."""


class HalfASpace:
    """A space whose methods are others."""

    def get_many(self, keys: list[str]) -> list[list[float]]:
        return [[float(len(key))] for key in keys]


def embed(texts: list[str]) -> list[list[float]]:
    return [[float(len(text))] for text in texts]


def wrong_name() -> None:
    from kura_cache_adapters import LangChainEmbedding  # error: attr-defined


model = CachedEmbeddingModel(CallableEmbeddingModel(embed, model_name="lengths-v1"), "./cache")
model.embed_sync("one text")  # a str is an Iterable[str], too: refused when it runs
model.embed_sync([b"bytes"])  # error: list-item
model.embed_sync(["a"], "query")  # error: call-arg
model.embed_array_sync(["a"]).tolists()  # error: union-attr
model.embedd_sync(["a"])  # error: attr-defined
model.stats.hitrate  # error: attr-defined
model.stats.hits = 0  # error: misc
model.cache_key(["a"])  # error: arg-type
model.cache_key("a", "query")  # error: call-arg
names: list[str] = model.missing(["a"])  # error: assignment

CachedEmbeddingModel(model, 3)  # error: arg-type
CachedEmbeddingModel(model, NoSpaces())  # error: arg-type
CachedEmbeddingModel(model, "./cache", None, CacheOptions())  # error: call-arg
CachedEmbeddingModel(model, options={"chunk_size": 3})  # error: arg-type
CacheOptions(512)  # error: call-arg
CacheOptions(chunk_size="512")  # error: arg-type
CacheOptions(chunks=512)  # error: call-arg
CacheOptions().chunk_size = 3  # error: misc
CallableEmbeddingModel(embed)  # error: call-arg
CallableEmbeddingModel(str.upper, model_name="upper")  # error: arg-type
OpenAIEmbeddingModel(encoding_format="base32")  # error: arg-type
OpenAIEmbeddingModel(dimensions="256")  # error: arg-type
LangChainCachedEmbeddings("./cache")  # error: arg-type

open_store(3)  # error: arg-type
ParquetStore("./cache", compression="gzip")  # error: arg-type
ParquetStore("./cache", "zstd")  # error: call-arg
MemoryStore(1 << 20)  # error: call-arg
TieredStore("./cache")  # error: arg-type
space: VectorSpace = HalfASpace()  # error: assignment
space.get_many(["key"])  # error: list-item
space.put_many([b"k" * 32], [[1.0]])  # error: arg-type
space.put_many([b"k" * 32], np.ones((1, 1)), False)  # error: call-arg
ModelIdentity.of(3)  # error: arg-type

manager = JSONLCheckpointManager(Path("./cache"), True)  # error: call-arg
manager.save_checkpoint("summaries", ["a"])  # error: list-item
manager.load_checkpoint("summaries", "Summary")  # error: arg-type
manager.load_checkpoint("summaries", Summary)[0]  # error: index
ParquetCheckpointManager("./cache", compression="rar")  # error: arg-type
MultiCheckpointManager([manager], save_strategy="some")  # error: arg-type
MultiCheckpointManager([manager]).load_strategy = "any"  # error: assignment
MultiCheckpointManager([MemoryStore()])  # error: list-item
testing.FakeEmbeddingModels  # error: attr-defined
