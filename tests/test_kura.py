"""What only Kura needs: its base classes, its own models, its summaries, its imports."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("kura", reason="needs the extra `kura`")

import kura.base_classes
import kura.embedding
from kura.checkpoints import JSONLCheckpointManager
from kura.checkpoints.hf_dataset import HFDatasetCheckpointManager
from kura.types import ConversationSummary

import kura_cache_adapters as adapters
from kura_cache_adapters import CachedEmbeddingModel, DimensionMismatchError, VectorCountError
from kura_cache_adapters import kura as ours
from kura_cache_adapters._runtime import loop
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kura_cache_adapters.testing import OpenAIServer

TEXTS = [f"text {at}" for at in range(300)]


@pytest.fixture
def openai_model(openai_server: OpenAIServer) -> Iterator[Any]:
    """Make Kura's own OpenAI model, and close its client in the end."""
    assert openai_server.url
    model = kura.embedding.OpenAIEmbeddingModel(model_batch_size=20, n_concurrent_jobs=2)
    yield model
    loop.run(model.client.close())


def test_the_twins_are_kuras_and_ours(tmp_path: Path) -> None:
    model = ours.cached(FakeEmbeddingModel(), tmp_path)
    assert isinstance(model, kura.base_classes.BaseEmbeddingModel)
    assert isinstance(model, CachedEmbeddingModel)
    for name in ("JSONL", "Parquet", "HFDataset"):
        manager = getattr(ours, f"{name}CheckpointManager")(tmp_path / name)
        assert isinstance(manager, kura.base_classes.BaseCheckpointManager)
        assert isinstance(manager, getattr(adapters, f"{name}CheckpointManager"))
    many = ours.MultiCheckpointManager([manager])
    assert isinstance(many, kura.base_classes.BaseCheckpointManager)


def test_kura_takes_none_of_ours_for_nothing(tmp_path: Path) -> None:
    manager = ours.JSONLCheckpointManager(tmp_path)
    several: Any = [
        manager,
        ours.MultiCheckpointManager([manager]),
        ours.cached(FakeEmbeddingModel(), manager),
    ]
    assert all(several)  # Kura asks `if checkpoint_manager:`


@pytest.mark.parametrize("name", ["JSONL", "Parquet", "HFDataset", "Multi"])
def test_our_managers_take_what_kuras_base_class_names(name: str) -> None:
    for method, signature in inspect.getmembers(kura.base_classes.BaseCheckpointManager, inspect.isfunction):
        if not method.startswith("_"):
            mine = inspect.signature(getattr(getattr(ours, f"{name}CheckpointManager"), method))
            assert set(inspect.signature(signature).parameters) <= set(mine.parameters)


def test_the_twin_is_the_model_to_the_key(tmp_path: Path) -> None:
    fake = FakeEmbeddingModel()
    CachedEmbeddingModel(fake, tmp_path, temperature=0.5).embed_sync(["a"])
    assert ours.cached(fake, tmp_path, temperature=0.5).missing(["a"]) == []
    assert ours.cached(fake, tmp_path).missing(["a"]) == [0]


def test_kuras_openai_model_survives_many_loops_and_asks_once(
    openai_model: Any, openai_server: OpenAIServer, tmp_path: Path
) -> None:
    model = ours.cached(openai_model, tmp_path)
    expected = openai_server.lists(TEXTS)
    for _ in range(3):
        assert asyncio.run(model.embed(TEXTS)) == expected
    assert model.embed_sync(TEXTS) == expected
    assert asyncio.run(model.embed([f"more {text}" for text in TEXTS])) != expected
    assert sorted(openai_server.texts) == sorted([*TEXTS, *(f"more {text}" for text in TEXTS)])


async def test_a_model_of_ones_own_runs_on_the_loop_that_awaits_it(tmp_path: Path) -> None:
    loops: list[Any] = []

    class Own(kura.base_classes.BaseEmbeddingModel):  # type: ignore[misc] # Kura has no types
        model_name = "own"

        def slug(self) -> str:
            return self.model_name

        async def embed(self, texts: list[str]) -> list[list[float]]:
            loops.append(asyncio.get_running_loop())
            return [[1.0]] * len(texts)

    assert await ours.cached(Own(), tmp_path).embed(["a"]) == [[1.0]]
    assert loops == [asyncio.get_running_loop()]


def test_what_kuras_names_leave_out_is_in_the_key(openai_model: Any, tmp_path: Path) -> None:
    def cohere(input_type: str, batch_size: int = 96) -> Any:
        model = object.__new__(kura.embedding.CohereEmbeddingModel)
        fields = {"model_name": "embed-v4.0", "input_type": input_type, "_model_batch_size": batch_size}
        vars(model).update(fields, _n_concurrent_jobs=5)
        return model

    keys = {
        key: ours.cached(model, tmp_path).cache_key("a")
        for key, model in {
            "clustering": cohere("clustering"),
            "query": cohere("search_query"),
            "batches": cohere("clustering", 7),
            "openai": openai_model,
        }.items()
    }
    assert keys["clustering"] == keys["batches"]
    assert len({*keys.values()}) == 3
    assert CachedEmbeddingModel(cohere("query")).cache_key("a") == ours.cached(cohere("query")).cache_key("a")
    plain = ours.cached(openai_model).cache_key("a")
    openai_model.client.base_url = "http://127.0.0.1:9/v1"
    assert ours.cached(openai_model).cache_key("a") != plain


def test_kuras_local_model_does_not_block_the_loop(minilm: Path, tmp_path: Path) -> None:
    local = kura.embedding.SentenceTransformerEmbeddingModel(str(minilm))
    model = ours.cached(local, tmp_path)

    async def watched() -> tuple[Any, int]:
        work = asyncio.ensure_future(model.embed(TEXTS[:40]))
        turns = 0
        while not work.done():
            await asyncio.sleep(0.005)
            turns += 1
        return await work, turns

    vectors, turns = asyncio.run(watched())
    assert turns > 3
    assert vectors == asyncio.run(local.embed(TEXTS[:40]))
    assert model.embed_sync(TEXTS[:40]) == vectors
    assert model.stats.misses == 40


# Adopting what summaries hold


SUMMARIES = [
    ConversationSummary(
        summary=f"summary {at}", chat_id=f"{at}", metadata={"n": at}, embedding=[at / 3, 0.25, 1e-9]
    )
    for at in range(5)
] + [ConversationSummary(summary="not embedded yet", chat_id="5", metadata={})]


@pytest.mark.parametrize(
    "kind", [JSONLCheckpointManager, ours.ParquetCheckpointManager, HFDatasetCheckpointManager]
)
def test_embeddings_in_summaries_go_into_a_cache_with_one_call(kind: Any, tmp_path: Path) -> None:
    manager = kind(str(tmp_path / "checkpoints"))
    manager.save_checkpoint("summaries", SUMMARIES)
    fake = FakeEmbeddingModel(dimension=3)
    model = ours.cached(fake, tmp_path / "cache")
    assert ours.import_summaries(model, manager) == 5
    assert ours.import_summaries(model, manager, "no such checkpoint") == 0
    loaded = manager.load_checkpoint("summaries", ConversationSummary)
    embedded = asyncio.run(kura.embedding.embed_summaries(loaded, model))
    assert fake.texts == [str(loaded[5])]
    assert [item["embedding"] for item in embedded[:5]] == [summary.embedding for summary in loaded[:5]]
    fresh = [summary.model_copy(update={"embedding": None}) for summary in loaded]
    asyncio.run(kura.embedding.embed_summaries(fresh, model))
    assert len(fake.texts) == 1


def test_adding_vectors_is_checked(tmp_path: Path) -> None:
    fake = FakeEmbeddingModel(dimension=2)
    model = CachedEmbeddingModel(fake, tmp_path)
    assert model.add(["a", "b"], [[0.1, 0.2], [0.3, 0.4]]) == 2
    assert model.add([], []) == 0
    assert model.embed_sync(["b", "a"]) == [[0.3, 0.4], [0.1, 0.2]]
    assert fake.calls == []
    with pytest.raises(VectorCountError):
        model.add(["c"], [[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(DimensionMismatchError):
        model.add(["c", "d"], [[1.0, 2.0], [3.0]])
    with pytest.raises(ValueError, match=r"texts\[1\]"):
        model.add(["c", "d"], [[1.0, 2.0], [3.0, float("nan")]])
    with pytest.raises(TypeError):
        model.add("c", [[1.0, 2.0]])
    assert CachedEmbeddingModel(fake).add(["a"], [[1.0, 2.0]]) == 0
    assert model.missing(["a", "c", "d"]) == [1, 2]


# Imports


def test_the_projection_is_imported_without_a_key() -> None:
    program = (
        "import asyncio, kura.embedding\n"
        "original = kura.embedding.OpenAIEmbeddingModel\n"
        "from kura_cache_adapters.kura import import_dimensionality\n"
        "dimensionality = import_dimensionality()\n"
        "assert dimensionality is import_dimensionality()\n"
        "assert kura.embedding.OpenAIEmbeddingModel is dimensionality.OpenAIEmbeddingModel is original\n"
        "from kura.dimensionality import HDBUMAP\n"
        "try: asyncio.run(HDBUMAP().embedding_model.embed(['a']))\n"
        "except ValueError as error: print(error)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "no model for 1 texts: HDBUMAP(embedding_model=...), or set OPENAI_API_KEY\n"


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("default_query", [{"api-version": "1"}, {"api-version": "2"}, {"token": "MARKED"}]),
        ("default_headers", [{"x-model-version": "MARKED1"}, {"x-model-version": "MARKED2"}]),
    ],
)
@pytest.mark.usefixtures("openai_server")
def test_what_the_client_of_kuras_model_adds_is_in_the_key(option: str, values: list[Any]) -> None:
    import openai
    from kura.embedding import OpenAIEmbeddingModel

    def of(**options: Any) -> Any:
        model = OpenAIEmbeddingModel()
        model.client = openai.AsyncOpenAI(**options)
        return CachedEmbeddingModel(model)

    plain = CachedEmbeddingModel(OpenAIEmbeddingModel()).cache_key("x")
    models = [of(**{option: value}) for value in values]
    assert len({plain, *(model.cache_key("x") for model in models)}) == len(values) + 1
    assert "MARKED" not in str([model.identity() for model in models])
    told = {"Authorization": "Bearer MARKED", "User-Agent": "me"}
    assert of(organization="o", project="p", default_headers=told, timeout=3).cache_key("x") == plain
