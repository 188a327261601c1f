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
    "as it is": "d3255ca08382d5b8610bfffc46729ef1",
    "normalized": "ec290344c2cbf9bab3c710b8986f0bfb",
    "pooled by cls": "b41477da591798695f9609af82d02c4d",
    "three layers": "d95d59c564fafb30905abd33fa4ef14b",
    "half": "95da911409fe92fccbf43020305f815d",
    "left truncation, 16 tokens": "712097be662eeea1dd0ef4fafc755589",
    "a prompt": "d067b074caa849bce7501a03f6a7ab65",
    "lower case": "1950d5cd31558575db5f3bbde0de0be8",
}


def made(minilm: Path, which: str) -> Any:
    from sentence_transformers import SentenceTransformer

    from kura_cache_adapters import SentenceTransformerEmbeddingModel
    from tests.live_models import pool, swap_layers

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
