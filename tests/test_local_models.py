"""Local models are their live content: the real MiniLM, changed in every way, through every door."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import subprocess
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra `sentence-transformers`")

import torch
from sentence_transformers import SentenceTransformer

from kura_cache_adapters import CachedEmbeddingModel, IdentityError, SentenceTransformerEmbeddingModel
from kura_cache_adapters._identity import local_models, remembered
from tests.faces import LangChain, LlamaIndex

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = ["A cat sat on the mat.", "Stock prices fell on Monday.", "line\nbreak", "Ein Satz auf Deutsch."]
LONG = "The first half speaks of cats. " * 60 + "The second half speaks of interest rates. " * 60
PROMPTS = {"query": "query: ", "document": "passage: "}


def load(path: Path, **options: Any) -> Any:
    return SentenceTransformer(str(path), device="cpu", **options)


def langchain_embedder(minilm: Path, **options: Any) -> Any:
    package = pytest.importorskip("langchain_huggingface", reason="needs langchain-huggingface")
    return package.HuggingFaceEmbeddings(model_name=str(minilm), **options)


def llama_index_embedder(minilm: Path, **options: Any) -> Any:
    package = pytest.importorskip(
        "llama_index.embeddings.huggingface", reason="needs its HuggingFaceEmbedding"
    )
    return package.HuggingFaceEmbedding(model_name=str(minilm), device="cpu", **options)


def kuras(minilm: Path) -> Any:
    package = pytest.importorskip("kura.embedding", reason="needs the extra `kura`")
    return package.SentenceTransformerEmbeddingModel(model_name=str(minilm))


def key(model: Any, role: Any = "document", text: str = "x") -> str:
    return CachedEmbeddingModel(model).cache_key(text, role=role)


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


# Another content, another key, noticed at the next call


def train(model: Any, steps: int = 20) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    prepare = getattr(model, "preprocess", None) or model.tokenize
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model({**prepare(TEXTS)})["sentence_embedding"].std(0).mean().backward()
        optimizer.step()
    model.eval()


def with_lora(model: Any) -> None:
    peft = pytest.importorskip("peft", reason="needs peft")
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False), transformer(model)
    )


def transformer(model: Any) -> Any:
    return model[0].auto_model


def swap_layers(model: Any) -> None:
    transformer(model).encoder.layer = transformer(model).encoder.layer[:3]


def scale_data(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.5)


def replace_parameter(model: Any) -> None:
    layer = transformer(model).encoder.layer[0].output.dense
    layer.weight = torch.nn.Parameter(layer.weight.detach() * 2)


def pool(model: Any, mode: str) -> None:
    if hasattr(model[1], "pooling_mode"):
        model[1].pooling_mode = mode
    else:
        model[1].pooling_mode_mean_tokens = mode == "mean"
        model[1].pooling_mode_cls_token = mode == "cls"


def swap_activation(model: Any) -> None:
    transformer(model).encoder.layer[0].intermediate.intermediate_act_fn = torch.nn.ReLU()


def loosen_norms(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 0.1


def add_words(model: Any) -> None:
    model.tokenizer.add_tokens(["mat."])
    transformer(model).resize_token_embeddings(len(model.tokenizer), mean_resizing=False)


def exchange_normalizer(model: Any) -> None:
    normalizers: Any = import_module("tokenizers.normalizers")
    model.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)


def exchange_post_processor(model: Any) -> None:
    processors: Any = import_module("tokenizers.processors")
    only = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 102)])
    model.tokenizer.backend_tokenizer.post_processor = only


CHANGES: dict[str, Callable[[Any], object]] = {
    "a tokenizer's normalizer": exchange_normalizer,
    "a tokenizer's post-processor": exchange_post_processor,
    "trained": train,
    "LoRA": with_lora,
    "half": lambda model: model.half().float(),
    "bfloat16": lambda model: model.bfloat16(),
    "three of six layers": swap_layers,
    "scaled in place": scale_data,
    "a parameter replaced": replace_parameter,
    "pooling": lambda model: pool(model, "cls"),
    "an activation": swap_activation,
    "an eps": loosen_norms,
    "what the model is handed": lambda model: setattr(model.tokenizer, "model_input_names", ["input_ids"]),
    "left truncation": lambda model: setattr(model.tokenizer, "truncation_side", "left"),
    "max_seq_length": lambda model: setattr(model, "max_seq_length", 8),
    "truncate_dim": lambda model: setattr(model, "truncate_dim", 64),
    "a document's prompt": lambda model: model.prompts.update(document="passage: "),
    "words added": add_words,
    "a setting of a normalizer": lambda model: setattr(
        model.tokenizer.backend_tokenizer.normalizer, "lowercase", False
    ),
}


@pytest.mark.filterwarnings("ignore")  # peft and torch of their own ways
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_wrapped_model_is_a_miss_at_the_next_call_and_right(
    model: Any, tmp_path: Path, change: str
) -> None:
    cached, texts = CachedEmbeddingModel(model, tmp_path), [*TEXTS[:2], LONG]
    before = cached.embed_array_sync(texts)
    CHANGES[change](model)
    after = cached.embed_array_sync(texts)
    expected = np.asarray(model.encode_document(texts, convert_to_tensor=True).float())
    assert after.shape == expected.shape
    assert np.abs(after - expected).max() < 1e-5
    assert after.shape != before.shape or np.abs(after - before).max() > 1e-6
    assert cached.stats.misses == 2 * len(texts)
    assert cached.embed_array_sync(texts).tobytes() == after.tobytes()
    assert cached.stats.misses == 2 * len(texts)


BACK: dict[str, tuple[Callable[[Any], object], Callable[[Any], object]]] = {
    "pooling": (lambda model: pool(model, "cls"), lambda model: pool(model, "mean")),
    "left truncation": (
        lambda model: setattr(model.tokenizer, "truncation_side", "left"),
        lambda model: setattr(model.tokenizer, "truncation_side", "right"),
    ),
    "a prompt": (
        lambda model: model.prompts.update(document="passage: "),
        lambda model: model.prompts.update(document=""),
    ),
    "max_seq_length": (
        lambda model: setattr(model, "max_seq_length", 8),
        lambda model: setattr(model, "max_seq_length", 256),
    ),
}


@pytest.mark.parametrize("change", [*BACK, "weights", "layers"])
def test_back_again_is_a_hit(model: Any, tmp_path: Path, change: str) -> None:
    cached = CachedEmbeddingModel(model, tmp_path)
    before = cached.embed_sync(TEXTS)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers = transformer(model).encoder.layer
    there, back = BACK.get(change, (None, None))
    if change == "weights":
        there, back = train, lambda model: model.load_state_dict(kept)
    if change == "layers":
        there, back = swap_layers, lambda model: setattr(transformer(model).encoder, "layer", layers)
    assert there is not None
    assert back is not None
    there(model)
    assert cached.missing(TEXTS) == [*range(len(TEXTS))]
    back(model)
    assert cached.embed_sync(TEXTS) == before
    assert cached.stats.misses == len(TEXTS)


@pytest.mark.parametrize("door", ["ours", "langchain", "llama_index", "kura"])
@pytest.mark.parametrize("change", ["pooling", "scaled in place", "left truncation"])
def test_a_change_is_noticed_behind_every_door(minilm: Path, tmp_path: Path, door: str, change: str) -> None:
    embedder = {
        "ours": lambda: load(minilm),
        "langchain": lambda: langchain_embedder(minilm),
        "llama_index": lambda: llama_index_embedder(minilm),
        "kura": lambda: kuras(minilm),
    }[door]()
    held = {"ours": "", "langchain": "_client", "llama_index": "_model", "kura": "model"}[door]
    cached = CachedEmbeddingModel(embedder, tmp_path)
    before = cached.embed_array_sync([LONG])
    CHANGES[change](getattr(embedder, held) if held else embedder)
    after = cached.embed_array_sync([LONG])
    assert np.abs(after - before).max() > 1e-6
    assert cached.stats.misses == 2


def test_a_cache_around_a_cache_notices_a_change_too(model: Any, tmp_path: Path) -> None:
    inner = CachedEmbeddingModel(model, tmp_path / "inner")
    outer = CachedEmbeddingModel(inner, tmp_path / "outer")
    before = outer.embed_array_sync(TEXTS)
    scale_data(model)
    after = outer.embed_array_sync(TEXTS)
    assert np.abs(after - before).max() > 1e-6
    assert outer.cache_key("x") == inner.cache_key("x")


@pytest.mark.filterwarnings("ignore")  # torch says that this way of quantising grows old
def test_dynamic_quantisation_is_another_model(model: Any, tmp_path: Path) -> None:
    plain = CachedEmbeddingModel(model, tmp_path)
    quantise: Any = torch.ao.quantization.quantize_dynamic
    quantised = quantise(model, {torch.nn.Linear}, dtype=torch.qint8)
    again = quantise(model, {torch.nn.Linear}, dtype=torch.qint8)
    plain.embed_sync(TEXTS)
    small = CachedEmbeddingModel(quantised, tmp_path)
    assert small.missing(TEXTS) == [*range(len(TEXTS))]
    assert np.abs(small.embed_array_sync(TEXTS) - quantised.encode(TEXTS)).max() < 1e-5
    assert CachedEmbeddingModel(again, tmp_path).missing(TEXTS) == []


@pytest.mark.filterwarnings("ignore")
def test_adapters_switched_off_are_another_model_than_on(model: Any) -> None:
    peft = pytest.importorskip("peft", reason="needs peft")
    with_lora(model)
    layers = [
        layer for layer in model.modules() if isinstance(layer, peft.tuners.tuners_utils.BaseTunerLayer)
    ]
    cached = CachedEmbeddingModel(model)
    on = cached.cache_key("x")
    for layer in layers:
        layer.enable_adapters(enabled=False)
    off = cached.cache_key("x")
    for layer in layers:
        layer.enable_adapters(enabled=True)
    assert cached.cache_key("x") == on != off


def test_a_directory_that_is_overwritten_after_loading_changes_nothing(minilm: Path, tmp_path: Path) -> None:
    path = shutil.copytree(minilm, tmp_path / "model")
    loaded = load(path)
    tuned = load(minilm)
    scale_data(tuned)
    tuned.save(str(path))
    assert key(loaded) == key(load(minilm)) != key(load(path))


def test_a_directory_that_is_overwritten_before_the_first_miss_is_what_was_loaded(
    minilm: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(minilm, tmp_path / "model")
    before = key(SentenceTransformerEmbeddingModel(path=path))  # from now on it is known without loading
    cached = CachedEmbeddingModel(SentenceTransformerEmbeddingModel(path=path), tmp_path / "cache")
    assert cached.cache_key("x") == before
    tuned = load(minilm)
    with torch.no_grad():
        transformer(tuned).encoder.layer[0].output.dense.weight.mul_(1.5)
    tuned.save(str(path))
    assert np.abs(cached.embed_array_sync(TEXTS) - tuned.encode(TEXTS)).max() < 1e-5
    assert cached.cache_key("x") == key(tuned) != before
    again = CachedEmbeddingModel(SentenceTransformerEmbeddingModel(path=minilm), tmp_path / "cache")
    assert again.missing(TEXTS) == [*range(len(TEXTS))]


def test_a_model_that_is_changed_while_it_embeds_leaves_no_vectors(
    model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = SentenceTransformerEmbeddingModel(model)
    cached = CachedEmbeddingModel(source, tmp_path)
    encode = source._encode

    def changing(texts: list[str], role: Any) -> Any:
        vectors = encode(texts, role)
        scale_data(model)
        return vectors

    source._encode = changing  # type: ignore[method-assign]
    cached.embed_sync(TEXTS)
    assert cached.stats.stored == 0
    assert "was changed while it embedded" in caplog.text


# What cannot be read is said


class OwnPooling(torch.nn.Module):
    def forward(self, features: Any) -> Any:
        return features


@pytest.mark.parametrize("place", ["module", "hook", "subclass", "encode"])
def test_code_of_ones_own_inside_a_model_is_refused_unless_it_is_named(model: Any, place: str) -> None:
    if place == "module":
        model.append(OwnPooling())
    elif place == "hook":
        transformer(model).register_forward_hook(lambda *_: None)
    elif place == "encode":
        model.encode = lambda texts, **_: [[0.0] for _ in texts]
    else:
        model.__class__ = type("Mine", (SentenceTransformer,), {"__module__": __name__})
    with pytest.raises(IdentityError, match=r"your own.*model_name="):
        CachedEmbeddingModel(model)
    assert CachedEmbeddingModel(model, model_name="mine-v1", identity={}).cache_key("x")


def double(*arguments: Any) -> Any:
    return arguments[-1] * 2


@pytest.mark.parametrize("name", ["forward", "hook", "encode_document", "encode_query", "preprocess"])
def test_code_that_is_put_into_a_wrapped_model_is_refused_at_the_next_call(
    minilm: Path, tmp_path: Path, name: str
) -> None:
    model = load(minilm)
    cached = CachedEmbeddingModel(model, tmp_path)
    cached.embed_sync(TEXTS)
    if name == "hook":
        transformer(model).encoder.register_forward_pre_hook(double)
    else:
        setattr(transformer(model).encoder if name == "forward" else model, name, double)
    with pytest.raises(IdentityError, match=r"your own.*model_name="):
        cached.embed_sync(TEXTS)


@pytest.mark.parametrize("place", ["a hook", "a module's forward", "encode_document", "a wrapped forward"])
def test_code_of_ones_own_that_is_hung_on_a_wrapped_model_is_refused_at_the_next_call(
    model: Any, tmp_path: Path, place: str
) -> None:
    cached = CachedEmbeddingModel(model, tmp_path)
    cached.embed_sync(TEXTS)
    layer = transformer(model).encoder.layer[0]
    written = model.encode if place == "encode_document" else layer.forward

    def own(*args: Any, **options: Any) -> Any:
        return written(*args, **options)

    if place == "a hook":
        layer.register_forward_hook(own)
    elif place == "encode_document":
        model.encode_document = own
    else:
        layer.forward = functools.wraps(written)(own) if "wrapped" in place else own
    with pytest.raises(IdentityError, match=r"code of your own.*test_local_models"):
        cached.embed_sync(TEXTS)


def test_a_release_that_no_longer_says_its_pooling_is_an_error(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model[1]), "get_config_dict", lambda _: {"embedding_dimension": 384})
    with pytest.raises(IdentityError, match="pooling"):
        CachedEmbeddingModel(model)


def test_weights_that_are_not_in_memory_are_refused(model: Any) -> None:
    model.to("meta")
    with pytest.raises(IdentityError, match="not in memory"):
        CachedEmbeddingModel(model)


def test_a_precision_that_depends_on_the_batch_is_refused(minilm: Path) -> None:
    for options in (
        {"encode_kwargs": {"precision": "int8"}},
        {"query_encode_kwargs": {"precision": "uint8"}},
    ):
        with pytest.raises(IdentityError, match="batch"):
            CachedEmbeddingModel(langchain_embedder(minilm, **options))
        with pytest.raises(IdentityError, match="batch"):
            CachedEmbeddingModel(langchain_embedder(minilm, **options), model_name="named")
    binary = CachedEmbeddingModel(langchain_embedder(minilm, encode_kwargs={"precision": "binary"}))
    assert binary.cache_key("x") != key(langchain_embedder(minilm))


def test_a_static_model_without_a_longest_text_is_read(model: Any) -> None:
    package: Any = import_module("sentence_transformers.models")  # where every release has it
    static = SentenceTransformer(modules=[package.StaticEmbedding(model.tokenizer, embedding_dim=8)])
    cached = CachedEmbeddingModel(static)
    before = cached.cache_key("x")
    scale_data(static)
    assert cached.cache_key("x") != before


# What it costs


def test_a_run_of_hits_needs_no_torch(minilm: Path, tmp_path: Path) -> None:
    program = (
        "import sys, json\n"
        "from kura_cache_adapters import CachedEmbeddingModel, SentenceTransformerEmbeddingModel\n"
        f"source = SentenceTransformerEmbeddingModel(path={str(minilm)!r})\n"
        f"model = CachedEmbeddingModel(source, {str(tmp_path / 'cache')!r})\n"
        f"vectors = model.embed_sync({TEXTS!r})\n"
        "print(json.dumps(['torch' in sys.modules, model.stats.misses, vectors]))\n"
    )
    runs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"XDG_CACHE_HOME": str(tmp_path / "home"), "PATH": "", "TOKENIZERS_PARALLELISM": "false"},
        )
        runs.append(json.loads(done.stdout))
    assert runs[0][:2] == [True, len(TEXTS)]
    assert runs[1][:2] == [False, 0]
    assert runs[0][2] == runs[1][2]


@pytest.mark.parametrize("elsewhere", ["code", "an adapter's base", "another file"])
def test_nothing_is_remembered_of_files_that_lie_elsewhere(
    minilm: Path, tmp_path: Path, elsewhere: str
) -> None:
    path = shutil.copytree(minilm, tmp_path / "model")
    arguments: dict[str, Any] = {"device": "cpu"}
    assert remembered.place_of(path, arguments) is not None
    if elsewhere == "code":
        arguments = {"trust_remote_code": True}
    elif elsewhere == "another file":
        arguments = {"processor_kwargs": {"tokenizer_file": str(path / "tokenizer.json")}}
    else:
        (path / "adapter_config.json").write_text("{}")
    assert remembered.place_of(path, arguments) is None


@pytest.mark.parametrize("change", ["a normalizer", "a longest text"])
@pytest.mark.parametrize("role", ["query", "document"])
def test_every_route_of_a_router_is_read_and_watched(minilm: Path, role: str, change: str) -> None:
    package: Any = import_module("sentence_transformers.models")  # where every release has it
    routes = {name: [load(minilm)[0], load(minilm)[1]] for name in ("query", "document")}
    model = SentenceTransformer(modules=[package.Router(routes, "document")], device="cpu")
    cached = CachedEmbeddingModel(model)
    before = cached.cache_key("x")
    tokenizer = routes[role][0].tokenizer
    if change == "a normalizer":
        tokenizer.backend_tokenizer.normalizer = None
    else:
        tokenizer.model_max_length = 5
    assert cached.cache_key("x") != before
    assert cached.cache_key("x") == key(copy.deepcopy(model))


def test_a_user_without_a_home_has_no_notes_and_no_trouble(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwd = pytest.importorskip("pwd", reason="of POSIX")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, as the XDG specification says
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    assert key(SentenceTransformerEmbeddingModel(path=minilm)) == key(load(minilm))
    assert not [*tmp_path.iterdir()]


def test_a_relative_path_is_where_it_was_when_it_was_given(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(minilm.parent)
    key(SentenceTransformerEmbeddingModel(path=minilm.name))
    cached = CachedEmbeddingModel(SentenceTransformerEmbeddingModel(path=minilm.name), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cached.embed_sync(TEXTS[:1])


@pytest.mark.parametrize("damage", ["other fields", "no mapping", "a flipped digit", "deep", "cut", "empty"])
def test_a_damaged_note_costs_one_more_loading(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    right = key(SentenceTransformerEmbeddingModel(path=minilm))
    (note,) = tmp_path.glob("kura-cache-adapters/models/*.json")
    written = note.read_bytes()
    start = written.index(b"{")
    told = json.loads(written[start:])
    damaged = {
        "other fields": json.dumps({**told, "fields": None, "prompts": [1]}).encode(),
        "no mapping": b"[]",
        "a flipped digit": written[start:].replace(b'"weights": "', b'"weights": "0', 1),
        "deep": b'{"fields":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "cut": written[start:-20],
        "empty": b"",
    }
    for head in (b"", written[:start]):
        note.write_bytes(head + damaged[damage])
        assert key(SentenceTransformerEmbeddingModel(path=minilm)) == right
        assert note.read_bytes() == written


def test_weights_are_read_once_for_each_content(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kura_cache_adapters._identity import modules

    reads: list[object] = []
    plain = modules.digest_of_weights

    def counting(read: Any) -> str:
        reads.append(read)
        return plain(read)

    monkeypatch.setattr(modules, "digest_of_weights", counting)
    for _ in range(3):
        CachedEmbeddingModel(model).cache_key("x")
    model.max_seq_length = 8
    CachedEmbeddingModel(model).cache_key("x")
    assert len(reads) == 1
    scale_data(model)
    CachedEmbeddingModel(model).cache_key("x")
    assert len(reads) == 2


def test_a_named_model_with_an_identity_is_not_read(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(local_models, "content", refuse)
    monkeypatch.setattr(local_models, "state", refuse)
    named = CachedEmbeddingModel(model, model_name="minilm-v1", identity={"revision": 3})
    assert named.cache_key("x")


def test_nothing_keeps_a_model_alive(minilm: Path) -> None:
    import gc
    import weakref

    model = load(minilm)
    CachedEmbeddingModel(model).cache_key("x")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


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
    assert not source.symmetric
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
