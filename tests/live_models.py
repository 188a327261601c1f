"""The real MiniLM, loaded through every door and changed in every way."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra `sentence-transformers`")

import torch
from sentence_transformers import SentenceTransformer

from kura_cache_adapters import CachedEmbeddingModel

if TYPE_CHECKING:
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
