"""Makes a source of whatever embeds: an embedder of a framework, a loaded model; the rest is refused."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._identity import local_models
from kura_cache_adapters._identity.fingerprint import refuse_own
from kura_cache_adapters._identity.providers import dialect_of, registered
from kura_cache_adapters.embedding.framework import FrameworkEmbeddingModel
from kura_cache_adapters.embedding.sentence_transformer import (
    KurasLocalModel,
    SentenceTransformerEmbeddingModel,
    is_kuras,
)
from kura_cache_adapters.protocols import BaseEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Mapping

_OURS = "kura_cache_adapters.embedding"
_READ = {f"{_OURS}.openai", f"{_OURS}.sentence_transformer", "kura.embedding"}  # where classes are read by us


def as_source(
    model: Any,  # noqa: ANN401 - of any framework
    *,
    model_name: str | None = None,
    identity: Mapping[str, Any] | None = None,
) -> BaseEmbeddingModel:
    """Make an embedder of a known framework, or a loaded model, a source; a source is returned as it is.

    Raises TypeError, with the cure, for anything else; IdentityError for code of the user's own.
    """
    if isinstance(model, type):
        message = f"{model.__name__} is a class; make a model of it: {model.__name__}(...)"
        raise TypeError(message)
    if local_models.is_local_model(model):
        return SentenceTransformerEmbeddingModel(model, identity=identity)
    if model_name is None and identity is None:
        _refuse_own_code(model)
    if is_kuras(model):
        return KurasLocalModel(model)
    if dialect_of(model) is not None:
        return FrameworkEmbeddingModel(model, model_name, identity=identity)
    if isinstance(model, BaseEmbeddingModel):
        return model
    raise TypeError(_refusal(model))


def _refusal(model: object) -> str:
    cure = "pass a BaseEmbeddingModel, a LangChain Embeddings, or a LlamaIndex BaseEmbedding."
    if callable(model):
        cure = 'wrap a function: CallableEmbeddingModel(fn, model_name="my-model-v1").'
    return "\n".join([f"cannot embed with a {type(model).__name__}: {cure}", *registered().broken])


def _refuse_own_code(model: object) -> None:
    """Refuse a subclass, or a replaced method, of which is known only what the class says of itself."""
    kinds = type(model).__mro__
    own = [*takewhile(lambda kind: kind.__module__ not in _READ, kinds)]
    if len(own) == len(kinds) or getattr(model, "_given", None) is not None:
        return
    if not any("identity" in vars(kind) for kind in own):
        refuse_own(model)
