"""Keys of local models are the same in the oldest and the newest supported releases, and on every machine.

`.ci/run` runs this with both. A change of these numbers makes every cache of every user a miss: it needs
a reason, and a line in the changelog.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import CachedEmbeddingModel

if TYPE_CHECKING:
    from pathlib import Path

DIGESTS = {
    "as it is": "7250aff096f58d203971ad182cb244f0",
    "normalized": "734c95360e43aab791e977aa5f0adb60",
    "pooled by cls": "52d1663678eb4ac43b81fb3e8a3e9b0b",
    "three layers": "7c5ebc1dd4233344c74239f2cb6bb06a",
    "half": "805ff8a20bcee400857aa9f9d788fb62",
    "left truncation, 16 tokens": "11a9c7e83ed295da322bfb1f04ff86fb",
    "a prompt": "1e0ea92cc69bf3027d0ce11ba9f70704",
    "lower case": "3466e810e2db6cd5ca9b10b9d1179338",
}


def made(minilm: Path, which: str) -> Any:
    from sentence_transformers import SentenceTransformer

    from kura_cache_adapters import SentenceTransformerEmbeddingModel
    from tests.test_local_models import pool, swap_layers

    options: dict[str, Any] = {}
    if which == "a prompt":
        options = {"prompts": {"document": "passage: "}}
    model: Any = SentenceTransformer(str(minilm), device="cpu", **options)
    if which == "pooled by cls":
        pool(model, "cls")
    if which == "three layers":
        swap_layers(model)
    if which == "half":
        model.half()
    if which == "left truncation, 16 tokens":
        model.max_seq_length, model.tokenizer.truncation_side = 16, "left"
    if which == "lower case":
        model[0].do_lower_case = True
    return SentenceTransformerEmbeddingModel(model, normalize_embeddings=which == "normalized")


@pytest.mark.parametrize("which", DIGESTS)
def test_a_local_models_key_is_the_same_in_every_release(minilm: Path, which: str) -> None:
    digest = CachedEmbeddingModel(made(minilm, which)).identity().digest
    assert digest[:32] == DIGESTS[which]


def test_all_these_are_different() -> None:
    assert len({*DIGESTS.values()}) == len(DIGESTS)
