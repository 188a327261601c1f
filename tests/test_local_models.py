"""Local models are their live content: what is changed after wrapping is noticed, or refused."""

from __future__ import annotations

import functools
import shutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra `sentence-transformers`")

import torch
from sentence_transformers import SentenceTransformer

from kura_cache_adapters import CachedEmbeddingModel, IdentityError, SentenceTransformerEmbeddingModel
from tests.live_models import (
    LONG,
    TEXTS,
    add_words,
    exchange_normalizer,
    exchange_post_processor,
    key,
    kuras,
    langchain_embedder,
    llama_index_embedder,
    load,
    loosen_norms,
    pool,
    replace_parameter,
    scale_data,
    swap_activation,
    swap_layers,
    train,
    transformer,
    with_lora,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def model(minilm: Path) -> Any:
    return load(minilm)


# Another content, another key, noticed at the next call


CHANGES: dict[str, Callable[[Any], object]] = {
    "a tokenizer's normalizer": exchange_normalizer,
    "a tokenizer's post-processor": exchange_post_processor,
    "trained": train,
    "LoRA": with_lora,
    "half": lambda model: model.half(),
    "half, and back": lambda model: model.half().float(),
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


# What the release calls.
READS_TEXTS = "preprocess" if hasattr(SentenceTransformer, "preprocess") else "tokenize"


@pytest.mark.parametrize("name", ["forward", "hook", "encode_document", "encode_query", READS_TEXTS])
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
