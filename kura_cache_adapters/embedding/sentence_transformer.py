"""SentenceTransformerEmbeddingModel: a model on this machine."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kura_cache_adapters import background
from kura_cache_adapters.errors import require
from kura_cache_adapters.forks import ModelLock
from kura_cache_adapters.source import StreamingEmbeddingModel

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from sentence_transformers import SentenceTransformer

    from kura_cache_adapters.identity import Role


class SentenceTransformerEmbeddingModel(StreamingEmbeddingModel):
    """Embed with a sentence-transformers model on this machine, outside the event loop.

    A model with a query and a document prompt (or routes) embeds the two differently; one without
    is `symmetric`. Needs the extra `sentence-transformers`.
    """

    runs_on = "anywhere"

    def __init__(  # noqa: PLR0913 - each may matter
        self,
        model_name: str = "all-MiniLM-L6-v2",
        model_batch_size: int = 128,
        device: str = "cpu",
        *,
        path: str | os.PathLike[str] | None = None,
        normalize_embeddings: bool = False,
        identity: Mapping[str, Any] | None = None,
        **model_kwargs: Any,
    ) -> None:
        """Load a model by name, or from a directory `path`.

        Of a directory the content of its files, not its place, is part of the identity: a copy
        finds the same entries, a fine-tuned model its own. `identity` replaces all that is read.
        `model_kwargs` go to `SentenceTransformer` (prompts, truncate_dim, revision, ...).
        """
        package = require("sentence_transformers", extra="sentence-transformers")
        directory = Path(path or model_name)
        self._given = identity
        self._content = content_digest(directory) if directory.is_dir() else None
        self.model_name = model_name
        self.normalize_embeddings = normalize_embeddings
        self._model_batch_size = model_batch_size
        self._revision = model_kwargs.get("revision")
        self.model: SentenceTransformer = package.SentenceTransformer(
            str(path or model_name),
            device=device,
            **model_kwargs,
        )

    def slug(self) -> str:
        """Return a name for people."""
        return f"sentence-transformers:{self.model_name}"

    @property
    def symmetric(self) -> bool:
        """Tell whether queries and documents are embedded alike."""
        routed = any(type(module).__name__ == "Router" for module in self.model)
        return not routed and self._prompt("query") == self._prompt("document", "passage", "corpus")

    def identity(self) -> Mapping[str, Any]:
        """Return what, beside the name, decides the vectors: prompts, truncation, modules, dtype."""
        if self._given is not None:
            return self._given
        return {
            "library": "sentence-transformers",
            "revision": self._revision,
            "content": self._content,
            "normalize_embeddings": self.normalize_embeddings,
            **described(self.model),
        }

    async def embed_batches(
        self,
        texts: list[str],
        *,
        role: Role,
    ) -> AsyncGenerator[tuple[Sequence[int], Any], None]:
        """Yield (positions, float32 array) per batch, longest texts first: little is padded."""
        order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
        for start in range(0, len(order), self._model_batch_size):
            batch = order[start : start + self._model_batch_size]
            some = [texts[at] for at in batch]
            yield batch, await background.in_thread("model", self._encode, some, role)

    def _encode(self, texts: list[str], role: Role) -> Any:  # noqa: ANN401 - a float32 array, in stubs anything
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        with lock_of(self.model):
            return encode(
                texts,
                batch_size=self._model_batch_size,
                normalize_embeddings=self.normalize_embeddings,
                show_progress_bar=False,
            )

    def _prompt(self, *names: str) -> str:
        prompts = (self.model.prompts.get(name) for name in names)
        return next((prompt for prompt in prompts if prompt is not None), "")


_locks: WeakKeyDictionary[object, ModelLock] = WeakKeyDictionary()


def lock_of(model: object) -> ModelLock:
    """Return a loaded model's lock: tokenizers refuse to be used by two threads at once."""
    return _locks.setdefault(model, ModelLock())


def described(model: SentenceTransformer) -> dict[str, Any]:
    """Read from a loaded model what, beside its weights, decides its vectors."""
    first = next(iter(model), None)
    config = getattr(getattr(first, "auto_model", None), "config", None)
    path = Path(str(getattr(config, "_name_or_path", "")))
    return {
        "weights": content_digest(path) if path.name and path.is_dir() else str(path),
        "commit": getattr(config, "_commit_hash", None),
        "config": _changed(config),
        "tokenizer": _digest_of_tokenizer(getattr(first, "tokenizer", None)),
        "prompts": dict(model.prompts),
        "default_prompt_name": model.default_prompt_name,
        "truncate_dim": model.truncate_dim,
        "max_seq_length": model.max_seq_length,
        "modules": [_module(module) for module in model],
        "dtype": str(model.dtype),
        "backend": model.backend,
    }


def _changed(config: Any) -> dict[str, Any]:  # noqa: ANN401 - a transformers configuration
    """Return what differs from a configuration's defaults, in JSON's types."""
    changed = config.to_diff_dict() if hasattr(config, "to_diff_dict") else {}
    told = {"_name_or_path", "transformers_version"}  # elsewhere, and not the model's
    return {
        name: json.loads(json.dumps(value, default=str))
        for name, value in changed.items()
        if name not in told
    }


def _digest_of_tokenizer(tokenizer: Any) -> str | None:  # noqa: ANN401 - a transformers tokenizer
    """Compute the SHA-256 of a tokenizer's rules and words, without what changes as it is used."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    rules = json.loads(backend.to_str())
    rules |= {"truncation": None, "padding": None}
    return sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def _module(module: Any) -> str:  # noqa: ANN401 - a torch module
    pooling = getattr(module, "get_pooling_mode_str", str)()
    return f"{type(module).__name__} {pooling}".strip()


def content_digest(directory: Path) -> str:
    """Compute the SHA-256 over names and contents of a model's files."""
    total = sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(directory).as_posix()}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                total.update(chunk)
    return total.hexdigest()
