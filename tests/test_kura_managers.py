"""Kura's own checkpoint managers as caches, and ours where Kura takes a checkpoint manager."""

from __future__ import annotations

import inspect
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("kura", reason="needs the extra `kura`")

from kura.checkpoint import CheckpointManager
from kura.checkpoints import JSONLCheckpointManager, MultiCheckpointManager
from kura.checkpoints.hf_dataset import HFDatasetCheckpointManager
from kura.checkpoints.parquet import ParquetCheckpointManager
from kura.types import Cluster, Conversation, ConversationSummary, Message, ProjectedCluster
from pydantic import BaseModel, Field

import kura_cache_adapters as adapters
from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = [f"text {at}" for at in range(12)]


def several(directory: str) -> MultiCheckpointManager:
    parts = [kind(f"{directory}/{name}") for name, kind in MANAGERS.items() if name != "multi"]
    return MultiCheckpointManager(parts[1:])


MANAGERS: dict[str, Callable[[str], Any]] = {
    "legacy": CheckpointManager,
    "jsonl": JSONLCheckpointManager,
    "parquet": ParquetCheckpointManager,
    "hf": HFDatasetCheckpointManager,
    "multi": several,
}


@pytest.fixture(params=MANAGERS)
def make(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return lambda path: MANAGERS[request.param](str(path))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_of_kuras_managers_keeps_vectors_to_the_bit(
    make: Callable[[Any], Any], dtype: Any, tmp_path: Path, caplog: Any
) -> None:
    model = FakeEmbeddingModel("BAAI/odd name:v1", dtype=dtype, dimension=33, roles=("query",))
    for _ in range(2):
        cached = CachedEmbeddingModel(model, make(tmp_path))
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
        assert cached.embed_sync(TEXTS[:2], role="query") == model.lists(TEXTS[:2], "query")
    assert model.calls == [TEXTS, TEXTS[:2]]
    assert cached.embed_array_sync(TEXTS).dtype == dtype
    assert [record for record in caplog.records if record.name.startswith("kura_cache_adapters")] == []


def test_mixed_hits_and_misses_keep_their_order(make: Callable[[Any], Any], tmp_path: Path) -> None:
    model = FakeEmbeddingModel()
    CachedEmbeddingModel(model, make(tmp_path)).embed_sync(TEXTS[::2])
    cached = CachedEmbeddingModel(model, make(tmp_path))
    assert cached.embed_sync([*TEXTS, TEXTS[1]]) == model.lists([*TEXTS, TEXTS[1]])
    assert model.calls[1] == TEXTS[1::2]
    assert (cached.stats.hits, cached.stats.misses, cached.stats.invalid_entries) == (6, 6, 0)


@pytest.mark.parametrize("size", [0, 1, 60])
def test_what_a_manager_cannot_read_is_a_miss(make: Callable[[Any], Any], size: int, tmp_path: Path) -> None:
    model = FakeEmbeddingModel()
    CachedEmbeddingModel(model, make(tmp_path)).embed_sync(TEXTS)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:size])
    cached = CachedEmbeddingModel(model, make(tmp_path))
    assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
    assert cached.stats.misses == len(TEXTS)


def test_a_manager_without_its_directory_is_slow_and_no_trouble(
    make: Callable[[Any], Any], tmp_path: Path
) -> None:
    model, manager = FakeEmbeddingModel(), make(tmp_path / "cache")
    for directory, _, files in os.walk(tmp_path, topdown=False):
        assert not files
        if directory != str(tmp_path):
            Path(directory).rmdir()
    cached = CachedEmbeddingModel(model, manager)
    for _ in range(2):
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)


def test_a_disabled_manager_is_no_cache(tmp_path: Path) -> None:
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, JSONLCheckpointManager(str(tmp_path / "none"), enabled=False))
    for _ in range(2):
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
    assert len(model.calls) == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("name", "deleted"), [("legacy", 1), ("jsonl", 1), ("parquet", 0), ("hf", 1)])
def test_entries_are_listed_and_deleted_as_far_as_the_manager_can(
    name: str, deleted: int, tmp_path: Path
) -> None:
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, MANAGERS[name](str(tmp_path)))
    cached.embed_sync(TEXTS)
    store: Any = cached._store
    space = store.space(cached.identity())
    keys = [bytes.fromhex(cached.cache_key(text)) for text in TEXTS]
    assert {*space.keys()} == {*keys}
    assert space.delete_many(keys[:1]) == deleted
    assert len([*space.keys()]) == len(TEXTS) - deleted


# Our managers where Kura takes a checkpoint manager


class Rated(ConversationSummary):  # type: ignore[misc]
    """A summary with fields of a user's own."""

    rating: int
    notes: dict[str, list[str]] = Field(default_factory=dict)


class Coloured(ProjectedCluster):  # type: ignore[misc]
    """A cluster with a field of a user's own."""

    colour: str | None = None


WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, timezone.utc)
METADATA: dict[str, Any] = {
    "n": 1,
    "x": 0.1,
    "yes": True,
    "no": "true",
    "list": ["a"],
    "numbers": [1, 2],
    "s": "12",
}
KURAS: dict[str, list[Any]] = {
    "conversations": [
        Conversation(
            chat_id="1",
            created_at=WHEN,
            messages=[
                Message(role="user", content="ünï '{}' \n\"x\"", created_at=WHEN),
                Message(role="assistant", content="", created_at=WHEN),
            ],
            metadata=METADATA,
        ),
        Conversation(chat_id="2", created_at=WHEN.replace(tzinfo=None), messages=[], metadata={}),
    ],
    "summaries": [
        ConversationSummary(summary="s", chat_id="1", metadata=METADATA, embedding=[0.1, 1 / 3]),
        ConversationSummary(summary="", chat_id="2", metadata={}, languages=[], assistant_errors=["e"]),
        ConversationSummary(
            summary="[1]", chat_id="3", metadata={"none": None}, concerning_score=5, topic="{}"
        ),
    ],
    "clusters": [
        Cluster(name="n", description="d", slug="s", chat_ids=["1", "2"], parent_id=None),
        Cluster(name="[]", description="", slug="", chat_ids=[], parent_id="p"),
    ],
    "projected": [
        ProjectedCluster(
            name="n",
            description="d",
            slug="s",
            chat_ids=["1"],
            parent_id=None,
            x_coord=0.1,
            y_coord=-1e-9,
            level=1,
        )
    ],
    "rated": [Rated(summary="s", chat_id="1", metadata={}, rating=3, notes={"a": ["b"]})],
    "coloured": [
        Coloured(
            name="n", description="d", slug="s", chat_ids=[], parent_id=None, x_coord=1, y_coord=2, level=0
        )
    ],
}
OURS: dict[str, Callable[[Path], Any]] = {
    "jsonl": adapters.JSONLCheckpointManager,
    "parquet": adapters.ParquetCheckpointManager,
    "hf": adapters.HFDatasetCheckpointManager,
    "multi": lambda path: adapters.MultiCheckpointManager(
        [adapters.ParquetCheckpointManager(path / "a"), adapters.JSONLCheckpointManager(path / "b")]
    ),
}


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("kind", KURAS)
def test_kuras_records_come_back_equal_from_our_managers(ours: str, kind: str, tmp_path: Path) -> None:
    OURS[ours](tmp_path).save_checkpoint(kind, KURAS[kind])
    loaded = OURS[ours](tmp_path).load_checkpoint(kind, type(KURAS[kind][0]))
    assert loaded == KURAS[kind]
    if kind != "conversations":  # those are never embedded; pydantic's time zones print differently
        assert [str(item) for item in loaded] == [str(item) for item in KURAS[kind]]


class Counted(BaseModel):
    """A user's model with the names of Kura's cluster, which is none."""

    chat_ids: list[str]
    parent_id: str
    count: int
    metadata: dict[str, list[str]]


@pytest.mark.parametrize("ours", OURS)
def test_a_users_model_with_kuras_names_comes_back_equal(ours: str, tmp_path: Path) -> None:
    records = [Counted(chat_ids=[], parent_id="", count=7, metadata={"keys": ["a"], "values": ["1"]})]
    OURS[ours](tmp_path).save_checkpoint("counted", records)
    assert OURS[ours](tmp_path).load_checkpoint("counted", Counted) == records


@pytest.mark.parametrize("kind", ["conversations", "summaries", "clusters", "projected"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (JSONLCheckpointManager, adapters.JSONLCheckpointManager),
        (ParquetCheckpointManager, adapters.ParquetCheckpointManager),
    ],
)
def test_checkpoints_that_kura_wrote_load_in_ours(theirs: Any, ours: Any, kind: str, tmp_path: Path) -> None:
    theirs(str(tmp_path)).save_checkpoint(kind, KURAS[kind])
    loaded = ours(tmp_path).load_checkpoint(kind, type(KURAS[kind][0]))
    if (theirs, kind) == (ParquetCheckpointManager, "summaries"):  # Kura writes [] as nothing
        KURAS[kind][1].languages, kept = None, KURAS[kind][1].languages
        assert loaded == KURAS[kind]
        KURAS[kind][1].languages = kept
    else:
        assert loaded == KURAS[kind]


@pytest.mark.parametrize("kind", ["summaries", "clusters", "projected"])
def test_datasets_that_kura_wrote_load_in_ours_as_in_kuras(kind: str, tmp_path: Path) -> None:
    kura = HFDatasetCheckpointManager(str(tmp_path))
    kura.save_checkpoint(kind, KURAS[kind])
    kind_of = type(KURAS[kind][0])
    assert adapters.HFDatasetCheckpointManager(tmp_path).load_checkpoint(
        kind, kind_of
    ) == kura.load_checkpoint(kind, kind_of)


def test_a_dataset_of_conversations_by_an_older_datasets_loads(tmp_path: Path) -> None:
    import datasets

    when = WHEN.replace(tzinfo=None)
    row = {
        "chat_id": "1",
        "created_at": when,
        "messages": {"created_at": [when], "role": [1], "content": ["hello"]},
        "metadata": {"keys": ["n", "s"], "values": ["1", "x"]},
    }
    datasets.Dataset.from_list([row]).save_to_disk(str(tmp_path / "conversations"))
    loaded = adapters.HFDatasetCheckpointManager(tmp_path).load_checkpoint("conversations", Conversation)
    message = Message(role="assistant", content="hello", created_at=when)
    expected = Conversation(chat_id="1", created_at=when, messages=[message], metadata={"n": 1, "s": "x"})
    assert loaded == [expected]


# What Kura's managers offer, and who reads whose checkpoints


OPTIONS_AND_METHODS = [
    (kind, name)
    for kind in (
        JSONLCheckpointManager,
        ParquetCheckpointManager,
        HFDatasetCheckpointManager,
        MultiCheckpointManager,
    )
    for name in ("__init__", *(name for name in dir(kind) if not name.startswith("_")))
    if callable(getattr(kind, name))
]


@pytest.mark.parametrize(
    ("theirs", "method"),
    OPTIONS_AND_METHODS,
    ids=[f"{kind.__name__}.{method}" for kind, method in OPTIONS_AND_METHODS],
)
def test_all_that_kuras_managers_offer_is_there(theirs: Any, method: str) -> None:
    """Every public method is there, and takes by position and by name what Kura's takes."""
    ours = getattr(adapters, theirs.__name__)
    taken = [*inspect.signature(getattr(ours, method)).parameters.values()]
    asked = [*inspect.signature(getattr(theirs, method)).parameters.values()]
    names = [parameter.name for parameter in taken]
    for at, parameter in enumerate(asked):
        assert parameter.name in names
        mine = taken[names.index(parameter.name)]
        assert mine.kind == parameter.kind
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            assert names[at] == parameter.name
        assert mine.default == parameter.default
    added = [parameter for parameter in taken if parameter.name not in {each.name for each in asked}]
    assert all(
        parameter.kind is parameter.VAR_KEYWORD or parameter.default is not parameter.empty
        for parameter in added
    )


@pytest.mark.parametrize(
    "theirs", dict.fromkeys(kind for kind, _ in OPTIONS_AND_METHODS), ids=lambda kind: kind.__name__
)
def test_all_that_kuras_managers_hold_is_there_or_listed_as_missing(theirs: Any, tmp_path: Path) -> None:
    listed = (Path(__file__).parent.parent / "docs" / "kura.md").read_text(encoding="utf-8")

    def opened(kind: Any) -> Any:
        given = [adapters.JSONLCheckpointManager(tmp_path)] if "Multi" in kind.__name__ else str(tmp_path)
        return kind(given)

    mine, missing = opened(getattr(adapters, theirs.__name__)), set()
    for name in vars(opened(theirs)):
        if not name.startswith("_") and not hasattr(mine, name):
            missing.add(name)
    assert all(f"`{theirs.__name__}(...).{name}` | missing" in listed for name in missing)
    for option in inspect.signature(theirs).parameters:
        if option.startswith("hub_"):
            assert f"`{theirs.__name__}({option}=...)` | missing" in listed


@pytest.mark.parametrize("kind", KURAS)
@pytest.mark.parametrize("name", ["JSONL", "Parquet", "HFDataset"])
def test_kura_reads_what_ours_write_in_jsonl_alone(name: str, kind: str, tmp_path: Path) -> None:
    """docs/kura.md says so; where Kura's manager reads it all the same, it reads what is right."""
    theirs = {
        "JSONL": JSONLCheckpointManager,
        "Parquet": ParquetCheckpointManager,
        "HFDataset": HFDatasetCheckpointManager,
    }[name]
    getattr(adapters, f"{name}CheckpointManager")(tmp_path).save_checkpoint(kind, KURAS[kind])
    loaded = theirs(str(tmp_path)).load_checkpoint(kind, type(KURAS[kind][0]))
    assert loaded == KURAS[kind] or (name != "JSONL" and loaded is None)


def test_a_filter_works_on_a_dataset_that_kura_wrote(tmp_path: Path) -> None:
    HFDatasetCheckpointManager(str(tmp_path)).save_checkpoint("clusters", KURAS["clusters"])
    manager = adapters.HFDatasetCheckpointManager(tmp_path)
    found = manager.filter_checkpoint("clusters", lambda row: row["parent_id"] is None, Cluster)
    assert found == KURAS["clusters"][:1]
    info: Any = manager.get_checkpoint_info("clusters")
    theirs = HFDatasetCheckpointManager(str(tmp_path)).get_checkpoint_info("clusters")
    assert {name: info[name] for name in theirs} == theirs
