"""Checkpoint managers that know nothing of vectors: one checkpoint per entry, exact all the same."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbedding, CachedEmbeddingModel
from kura_cache_adapters._runtime import loop
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [f"text {at}" for at in range(40)]


class DictManager:
    """The least that a checkpoint manager is."""

    def __init__(self) -> None:
        self.checkpoints: dict[str, Any] = {}
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def is_enabled(self) -> bool:
        return True

    def load_checkpoint(self, filename: str, model_class: type[Any]) -> list[Any] | None:
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.002)
        with self.lock:
            self.at_once -= 1
        found = self.checkpoints.get(filename)
        if found == "raise":
            raise OSError(filename)
        return None if found is None else [model_class.model_validate(item) for item in found]

    def save_checkpoint(self, filename: str, data: list[Any]) -> None:
        self.checkpoints[filename] = [item.model_dump() for item in data]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_text_is_embedded_once_and_looked_up_concurrently(dtype: Any) -> None:
    manager, model = DictManager(), FakeEmbeddingModel(dtype=dtype)
    for _ in range(2):
        cached = CachedEmbeddingModel(model, manager)
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
    assert len(model.calls) == 1
    assert len(manager.checkpoints) == len(TEXTS)
    assert manager.most_at_once > 2
    key = CachedEmbeddingModel(model, manager).cache_key(TEXTS[0])
    (name,) = [name for name in manager.checkpoints if key in name]
    record = CachedEmbedding.model_validate(manager.checkpoints[name][0])
    assert record.key == key
    assert record.embedding == model.lists(TEXTS)[0]


@pytest.mark.parametrize("spoil", ["other key", "other model", "dimension", "nan", "empty", "two", "raise"])
def test_a_checkpoint_that_is_not_the_texts_own_is_a_miss(spoil: str) -> None:
    manager, model = DictManager(), FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, manager)
    cached.embed_sync(TEXTS)
    name = next(name for name in manager.checkpoints if cached.cache_key(TEXTS[3]) in name)
    record = manager.checkpoints[name][0]
    match spoil:
        case "other key":
            record["key"] = "0" * 64
        case "other model":
            record["identity"] = "other"
        case "dimension":
            record["embedding"] = [1.0, 2.0]
        case "nan":
            record["embedding"][0] = float("nan")
        case "empty":
            record["embedding"] = []
        case "two":
            manager.checkpoints[name].append(record)
        case "raise":
            manager.checkpoints[name] = "raise"
    cached = CachedEmbeddingModel(model, manager)
    assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
    assert model.calls[1:] == [[TEXTS[3]]]
    assert (cached.stats.invalid_entries, cached.stats.load_failures) == (1, 0)
    assert CachedEmbeddingModel(model, manager).embed_sync(TEXTS) == model.lists(TEXTS)
    assert len(model.calls) == 2


def test_a_manager_that_cannot_save_is_a_warning(caplog: Any) -> None:
    class Refusing(DictManager):
        def save_checkpoint(self, filename: str, data: list[Any]) -> None:  # noqa: ARG002
            raise PermissionError(filename)

    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, Refusing())
    for _ in range(2):
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert cached.stats.save_failures == 2


def test_kuras_own_jsonl_manager_and_model_work(tmp_path: Path, openai_server: Any) -> None:
    checkpoints = pytest.importorskip("kura.checkpoints", reason="needs the extra `kura`")
    embedding = pytest.importorskip("kura.embedding")
    model = embedding.OpenAIEmbeddingModel(n_concurrent_jobs=2)
    for _ in range(2):
        cached = CachedEmbeddingModel(model, checkpoints.JSONLCheckpointManager(str(tmp_path)))
        assert cached.embed_sync(TEXTS) == openai_server.lists(TEXTS)
    assert openai_server.texts == TEXTS
    assert cached.slug().startswith("cached:openai:")
    loop.run(model.client.close())
