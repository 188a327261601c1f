"""One content of a local model has one key, through every door and wherever it was found."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra `sentence-transformers`")

import torch
from sentence_transformers import SentenceTransformer

from kura_cache_adapters import CachedEmbeddingModel, SentenceTransformerEmbeddingModel
from tests.frameworks import LangChain, LlamaIndex
from tests.live_models import (
    PROMPTS,
    TEXTS,
    key,
    kuras,
    langchain_embedder,
    llama_index_embedder,
    load,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def model(minilm: Path) -> Any:
    return load(minilm)


# One content, one key


def test_every_door_to_one_content_has_one_key(minilm: Path, model: Any) -> None:
    doors = [
        SentenceTransformerEmbeddingModel(path=minilm),
        SentenceTransformerEmbeddingModel(model),
        SentenceTransformerEmbeddingModel(str(minilm)),
        model,
        langchain_embedder(minilm),
        llama_index_embedder(minilm, normalize=False),
        kuras(minilm),
    ]
    assert len({key(door) for door in doors}) == 1
    assert len({key(door, "query") for door in doors}) == 1


def test_what_one_door_has_paid_for_is_a_hit_through_every_other(minilm: Path, tmp_path: Path) -> None:
    first = CachedEmbeddingModel(SentenceTransformerEmbeddingModel(path=minilm), tmp_path)
    vectors = first.embed_sync(TEXTS)
    for door in (langchain_embedder(minilm), llama_index_embedder(minilm, normalize=False), kuras(minilm)):
        other = CachedEmbeddingModel(door, tmp_path)
        asked = [*TEXTS[:2], TEXTS[3]]
        assert other.embed_sync(asked) == [*vectors[:2], vectors[3]]
        assert other.stats.misses == 0


@pytest.mark.parametrize("found", ["copy", "saved again", "with a readme", "with time stamps", "a link"])
def test_where_a_content_was_found_moves_no_key(minilm: Path, model: Any, tmp_path: Path, found: str) -> None:
    path = tmp_path / "elsewhere"
    if found == "saved again":
        model.save(str(path))
    elif found == "a link":
        path.symlink_to(minilm, target_is_directory=True)
    else:
        shutil.copytree(minilm, path)
        if found == "with a readme":
            (path / "README.md").write_text("changed")
            (path / ".DS_Store").write_bytes(b"\0")
        if found == "with time stamps":
            (path / ".cache" / "huggingface").mkdir(parents=True)
            (path / ".cache" / "huggingface" / "model.metadata").write_text(f"{time.time()}")
    assert key(load(path)) == key(model)
    assert key(SentenceTransformerEmbeddingModel(path=path)) == key(model)
    assert key(langchain_embedder(path)) == key(model)


def test_a_hubs_name_a_snapshot_and_a_revision_are_one_content(minilm: Path, tmp_path: Path) -> None:
    hub = Hub(tmp_path, minilm)
    first = hub.commit("a" * 40)
    keys = {
        hub.key(),
        hub.key(revision="main"),
        hub.key(revision="a" * 40),
        key(load(first)),
        key(langchain_embedder(minilm)),
    }
    assert len(keys) == 1


def test_a_hubs_name_that_moves_to_another_content_has_another_key(minilm: Path, tmp_path: Path) -> None:
    hub = Hub(tmp_path, minilm)
    hub.commit("a" * 40)
    before = hub.key()
    hub.commit("b" * 40, tuned=True)
    assert hub.key() != before
    assert hub.key(revision="a" * 40) == before


@pytest.mark.parametrize("door", ["langchain", "llama_index"])
def test_a_revision_counts_by_what_it_holds_through_the_frameworks_too(
    minilm: Path, tmp_path: Path, door: str
) -> None:
    hub = Hub(tmp_path, minilm)
    hub.commit("a" * 40)
    hub.commit("b" * 40, tuned=True)
    hub.commit("c" * 40)
    package: Any
    if door == "langchain":
        package = pytest.importorskip("langchain_huggingface", reason="needs langchain-huggingface")

        def found(revision: str) -> Any:
            kwargs = {"revision": revision, "local_files_only": True}
            return package.HuggingFaceEmbeddings(
                model_name="some/model", cache_folder=str(hub.path), model_kwargs=kwargs
            )
    else:
        package = pytest.importorskip("llama_index.embeddings.huggingface", reason="needs it")

        def found(revision: str) -> Any:
            return package.HuggingFaceEmbedding(
                model_name="some/model", cache_folder=str(hub.path), revision=revision, device="cpu"
            )

    first, tuned, again, main = (key(found(revision)) for revision in ("a" * 40, "b" * 40, "c" * 40, "main"))
    assert first == again == main != tuned


class Hub:
    """A cache of the hub's with one repository, as huggingface_hub lays it out."""

    def __init__(self, path: Path, minilm: Path) -> None:
        self.path = path / "hub"
        self.repository = self.path / "models--some--model"
        self.minilm = minilm

    def commit(self, revision: str, *, tuned: bool = False) -> Path:
        snapshot = self.repository / "snapshots" / revision
        shutil.copytree(self.minilm, snapshot)
        if tuned:
            model = load(self.minilm)
            with torch.no_grad():
                next(model.parameters()).mul_(1.01)
            shutil.rmtree(snapshot)
            model.save(str(snapshot))
        (self.repository / "refs").mkdir(exist_ok=True)
        (self.repository / "refs" / "main").write_text(revision)
        return snapshot

    def key(self, **options: Any) -> str:
        options = {"cache_folder": str(self.path), "local_files_only": True, **options}
        return key(SentenceTransformerEmbeddingModel("some/model", **options))


def edited(name: str, **changes: Any) -> Callable[[Path], None]:
    """Change what a file in JSON says."""

    def edit(path: Path) -> None:
        told = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps({**told, **changes}))

    return edit


def edit_words(path: Path) -> None:
    told = json.loads((path / "tokenizer.json").read_text())
    words = told["model"]["vocab"]
    words["cat"], words["dog"] = words["dog"], words["cat"]
    (path / "tokenizer.json").write_text(json.dumps(told))


def edit_weights(path: Path) -> None:
    weights = bytearray((path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (path / "model.safetensors").write_bytes(weights)


def drop_a_module(path: Path) -> None:
    told = json.loads((path / "modules.json").read_text())
    (path / "modules.json").write_text(json.dumps(told[:2]))


LOADED: dict[str, Callable[[Path], None]] = {
    "model.safetensors": edit_weights,
    "config.json": edited("config.json", hidden_act="relu"),
    "tokenizer.json": edit_words,
    "tokenizer_config.json": edited("tokenizer_config.json", truncation_side="left"),
    "sentence_bert_config.json": edited("sentence_bert_config.json", max_seq_length=8),
    "1_Pooling/config.json": edited(
        "1_Pooling/config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False
    ),
    "config_sentence_transformers.json": edited(
        "config_sentence_transformers.json", prompts={"document": "passage: "}
    ),
    "modules.json": drop_a_module,
}
NOT_LOADED: dict[str, Callable[[Path], object]] = {
    "README.md": lambda path: (path / "README.md").write_text("changed"),
    ".gitattributes": lambda path: (path / ".gitattributes").write_text("changed"),
    "data_config.json": lambda path: (path / "data_config.json").write_text("[]"),
}


def test_every_file_that_is_loaded_counts(minilm: Path, tmp_path: Path) -> None:
    keys = {"as it is": key(load(minilm))}
    for at, (name, edit) in enumerate(LOADED.items()):
        path = shutil.copytree(minilm, tmp_path / f"{at}")
        edit(path)
        keys[name] = key(load(path))
        assert key(SentenceTransformerEmbeddingModel(path=path)) == keys[name]
    assert len({*keys.values()}) == len(keys), keys


@pytest.mark.parametrize("name", NOT_LOADED)
def test_a_file_that_is_not_loaded_costs_nothing(minilm: Path, tmp_path: Path, name: str) -> None:
    path = shutil.copytree(minilm, tmp_path / "model")
    before = key(SentenceTransformerEmbeddingModel(path=path))
    NOT_LOADED[name](path)
    assert key(SentenceTransformerEmbeddingModel(path=path)) == before == key(load(path))


@pytest.mark.parametrize("door", ["ours", "loaded", "langchain", "llama_index"])
def test_where_and_how_fast_a_model_computes_is_in_no_key(minilm: Path, door: str) -> None:
    def of(device: str, batch_size: int) -> Any:
        if door == "ours":
            return SentenceTransformerEmbeddingModel(path=minilm, device=device, model_batch_size=batch_size)
        if door == "loaded":
            return SentenceTransformer(str(minilm), device=device)
        if door == "langchain":
            options = {"model_kwargs": {"device": device}, "encode_kwargs": {"batch_size": batch_size}}
            return langchain_embedder(minilm, **options)
        package = pytest.importorskip("llama_index.embeddings.huggingface", reason="needs it")
        return package.HuggingFaceEmbedding(
            model_name=str(minilm), device=device, embed_batch_size=batch_size
        )

    threads = torch.get_num_threads()
    plain = key(of("cpu", 32))
    try:
        torch.set_num_threads(threads + 1)
        assert key(of("cpu:0", 7)) == plain
    finally:
        torch.set_num_threads(threads)


# Both frameworks in a row


def prompted_langchain(minilm: Path) -> Any:
    return langchain_embedder(
        minilm,
        model_kwargs={"prompts": PROMPTS},
        encode_kwargs={"prompt_name": "document"},
        query_encode_kwargs={"prompt_name": "query"},
    )


def prompted_llama_index(minilm: Path) -> Any:
    return llama_index_embedder(
        minilm, query_instruction=PROMPTS["query"], text_instruction=PROMPTS["document"]
    )


@pytest.mark.parametrize("order", ["langchain to llama_index", "llama_index to langchain"])
def test_roles_and_bits_survive_the_way_through_both(order: str, minilm: Path, tmp_path: Path) -> None:
    inner: LangChain | LlamaIndex
    outer: LangChain | LlamaIndex
    if order.startswith("langchain"):
        inner, outer, embedder = LangChain(), LlamaIndex(), prompted_langchain(minilm)
    else:
        inner, outer, embedder = LlamaIndex(), LangChain(), prompted_llama_index(minilm)
    documents = inner.documents(embedder, TEXTS)
    queries = [inner.query(embedder, text) for text in TEXTS]
    source = inner.source(embedder)
    assert source.roles == ("query",)
    adapter = outer.adapter(model=CachedEmbeddingModel(source, tmp_path))
    found = []
    for _ in range(2):
        texts = outer.documents(adapter, TEXTS)
        asked = [outer.query(adapter, text) for text in TEXTS]
        found.append((texts, asked))
    assert found[0] == found[1]
    assert found[0] == (documents, queries)
    bare = load(minilm)
    shown = [text.replace("\n", " ") for text in TEXTS] if order.startswith("langchain") else TEXTS
    for vectors, role in ((found[0][0], "document"), (found[0][1], "query")):
        expected = bare.encode([PROMPTS[role] + text for text in shown], normalize_embeddings=True)
        assert np.abs(np.array(vectors) - expected).max() < 1e-6


def test_options_of_queries_leave_the_documents_keys_alone(minilm: Path) -> None:
    plain, asked = (
        langchain_embedder(minilm),
        langchain_embedder(minilm, query_encode_kwargs={"prompt": "q: "}),
    )
    assert key(plain) == key(asked)
    assert key(plain, "query") != key(asked, "query")
    plain = llama_index_embedder(minilm)
    asked = llama_index_embedder(minilm, query_instruction="query: ")
    assert key(plain) == key(asked)
    assert key(plain, "query") != key(asked, "query")
    said = langchain_embedder(minilm, encode_kwargs={"normalize_embeddings": False})
    assert key(said) == key(langchain_embedder(minilm))


def test_a_local_model_is_used_by_one_thread_at_a_time(minilm: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = CachedEmbeddingModel(LangChain().source(langchain_embedder(minilm)))
    with ThreadPoolExecutor(8) as pool:
        vectors = [*pool.map(lambda number: model.embed_sync([f"text {number}"] * 3), range(16))]
    assert all(len(each) == 3 for each in vectors)
