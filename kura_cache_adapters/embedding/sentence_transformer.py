"""SentenceTransformerEmbeddingModel: a model on this machine."""

from __future__ import annotations

import asyncio
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kura_cache_adapters._identity import local_models, remembered
from kura_cache_adapters._identity.fingerprint import of_local_model
from kura_cache_adapters._runtime import loop
from kura_cache_adapters._runtime.fork import ModelLock
from kura_cache_adapters.embedding.streaming import StreamingEmbeddingModel
from kura_cache_adapters.errors import require
from kura_cache_adapters.identity import DOCUMENT, ModelIdentity
from kura_cache_adapters.protocols import BaseEmbeddingModel

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from sentence_transformers import SentenceTransformer

    from kura_cache_adapters.identity import Role

_DOCUMENTS = ("document", "passage", "corpus")  # prompts that `encode_document` takes, in this order
_HOW_FOUND = {"cache_folder", "local_files_only", "token"}  # arguments that change nothing of what is loaded


class SentenceTransformerEmbeddingModel(StreamingEmbeddingModel):
    """Embed with a sentence-transformers model on this machine, outside the event loop.

    A model with a query and a document prompt (or routes) embeds the two differently, and each
    further prompt of its own is a role by its name. In the keys is what the model is, not where it
    was found. It is loaded by the first miss; a run of hits needs no torch, once a run on this
    machine has loaded the same files. Needs the extra `sentence-transformers`.
    """

    runs_on = "anywhere"

    def __init__(  # noqa: PLR0913 - each may matter
        self,
        model_name: str | SentenceTransformer = "all-MiniLM-L6-v2",
        model_batch_size: int = 128,
        device: str = "cpu",
        *,
        path: str | os.PathLike[str] | None = None,
        normalize_embeddings: bool = False,
        identity: Mapping[str, Any] | None = None,
        **model_kwargs: Any,
    ) -> None:
        """Name a model, or hand one in loaded.

        Args:
            model_name: a name on the hub, or a loaded `SentenceTransformer`.
            model_batch_size: texts in a batch.
            device: where it computes; it is in no key.
            path: the directory to load it from.
            normalize_embeddings: whether its vectors are brought to length 1.
            identity: replaces all that is read; the key is then this and `model_name`, and the
                model may change unseen.
            **model_kwargs: for `SentenceTransformer` (prompts, truncate_dim, revision, ...).

        Raises:
            MissingExtraError: sentence-transformers is not installed.

        """
        if find_spec("sentence_transformers") is None:  # not imported: a run of hits does without it
            require("sentence_transformers", extra="sentence-transformers")
        loaded = local_models.is_local_model(model_name)
        self.model_name: str = local_models.NAME if loaded else str(model_name)
        self.normalize_embeddings = normalize_embeddings
        self._given = identity
        self._model_batch_size = model_batch_size
        self._found = str(Path(path).absolute() if path else self.model_name)  # it is loaded later
        self._arguments = {"device": device, **model_kwargs}
        self._loading = ModelLock()
        self._model: Any = model_name if loaded else None
        self._content: local_models.Content | None = None

    @property
    def model(self) -> SentenceTransformer:
        """The loaded model; loads it when first asked for."""
        with self._loading:
            if self._model is None:
                package = require("sentence_transformers", extra="sentence-transformers")
                self._model = package.SentenceTransformer(self._found, **self._arguments)
        model: SentenceTransformer = self._model
        return model

    def slug(self) -> str:
        """Return a name for people."""
        return f"sentence-transformers:{self.model_name}"

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles, "query" among them; none where all are encoded alike.

        A given identity leaves that open, and is of documents and queries.
        """
        if self._given is not None:
            return ("query",)
        content = self._what_it_is()
        document, others = self._encodings(content)
        differ = content.routes or any(encoding != document for encoding in others.values())
        return tuple(others) if differ else ()

    def identity(self) -> ModelIdentity:
        """Return what decides the vectors: the model's content, and how it is asked."""
        if self._given is not None:
            return ModelIdentity.of(self.model_name, {}, self._given)
        content = self._what_it_is()
        fields, roles = of_local_model(content, *self._encodings(content))
        return ModelIdentity.of(local_models.NAME, {}, fields, roles)

    def state(self) -> object:
        """Return at a glance what is equal for as long as the identity is."""
        if self._given is not None or self._model is None:
            return None
        return local_models.state(self._model), self.normalize_embeddings

    def prepare(self) -> None:
        """Load the model."""
        self.model  # noqa: B018 - loads it

    def count_tokens(self, texts: list[str], *, role: Role = "document") -> list[int] | None:
        """Count the tokens of each text that are computed, its prompt's too; None before it is loaded."""
        if self._model is None:
            return None
        document, others = self._encodings(self._what_it_is())
        prompt = (document if role == DOCUMENT else others[role]).get("prompt", "")
        read = getattr(self._model, "preprocess", self._model.tokenize)  # its newer name
        counts: list[int] = []
        for start in range(0, len(texts), self._model_batch_size):
            some = [prompt + text for text in texts[start : start + self._model_batch_size]]
            with lock_of(self.model):
                counts += _read_tokens(read(some))
        return counts if len(counts) == len(texts) else None

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
            yield batch, await loop.in_thread("model", self._encode, some, role)

    def _encode(self, texts: list[str], role: Role) -> Any:  # noqa: ANN401 - a float32 array, in stubs anything
        ways = {DOCUMENT: self.model.encode_document, "query": self.model.encode_query}
        with lock_of(self.model):
            return ways.get(role, partial(self.model.encode, prompt_name=role))(
                texts,
                batch_size=self._model_batch_size,
                normalize_embeddings=self.normalize_embeddings,
                show_progress_bar=False,
            )

    def _encodings(self, content: local_models.Content) -> tuple[dict[str, Any], dict[Role, dict[str, Any]]]:
        """Tell what `encode_document` does with these options, and what is done in each other role."""
        encoding = partial(content.encoding, {"normalize_embeddings": self.normalize_embeddings})
        document = encoding(task=DOCUMENT, prompt_name=content.first_prompt(*_DOCUMENTS))
        query = encoding(task="query", prompt_name=content.first_prompt("query"))
        prompted = (name for name in content.prompts if name not in {"", DOCUMENT})
        return document, {**{name: encoding(prompt_name=name) for name in prompted}, "query": query}

    def _what_it_is(self) -> local_models.Content:
        """Return the loaded model's content, or what is remembered of its files."""
        if self._model is not None:
            return local_models.content(self._model)
        if self._content is None:
            place = self._place()
            self._content = remembered.recall(place)
            if self._content is None:
                self._content = local_models.content(self.model)
                if place == self._place():  # the files may have been exchanged while they were loaded
                    remembered.remember(place, self._content)
        return self._content

    def _place(self) -> Path | None:
        """Return where this machine remembers what the model's files hold."""
        directory = _directory(self._found, self._arguments)
        told = {name: value for name, value in self._arguments.items() if name not in _HOW_FOUND}
        return None if directory is None else remembered.place_of(directory, {**told, "device": None})


def _read_tokens(features: Mapping[str, Any]) -> list[int]:
    """Return how many tokens of each text are computed; nothing for a model that attends to none."""
    mask = features.get("attention_mask")
    counts: list[int] = [] if mask is None else mask.sum(1).tolist()
    return counts


class KurasLocalModel(BaseEmbeddingModel):
    """Kura's SentenceTransformerEmbeddingModel, whose `embed` would block the event loop."""

    runs_on = "anywhere"

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - Kura's
        """Take Kura's model."""
        self.model_name: str = model.model_name
        self._model = model

    def slug(self) -> str:
        """Return Kura's own name for it."""
        return str(self._model.slug())

    def identity(self) -> ModelIdentity:
        """Return what the loaded model is."""
        content = local_models.content(self._model.model)
        fields, _ = of_local_model(content, content.encoding({}), {})
        return ModelIdentity.of(local_models.NAME, {}, fields)

    def state(self) -> object:
        """Return at a glance what is equal for as long as the identity is."""
        return local_models.state(self._model.model)

    def prepare(self) -> None:
        """Do nothing: Kura loads its models when it makes them."""

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Embed in a thread."""
        return await loop.in_thread("model", self.embed_sync, texts)

    def embed_sync(self, texts: list[str]) -> list[list[float]]:
        """Embed, as the only one who uses the model."""
        with lock_of(self._model.model):
            vectors: list[list[float]] = asyncio.run(self._model.embed(texts))
        return vectors


def is_kuras(model: object) -> bool:
    """Tell whether a model is Kura's around a loaded SentenceTransformer."""
    return type(model).__module__ == "kura.embedding" and local_models.is_local_model(
        getattr(model, "model", None)
    )


_locks: WeakKeyDictionary[object, ModelLock] = WeakKeyDictionary()


def lock_of(model: object) -> ModelLock:
    """Return a loaded model's lock: tokenizers refuse to be used by two threads at once."""
    return _locks.setdefault(model, ModelLock())


def _directory(name: str, arguments: Mapping[str, Any]) -> Path | None:
    """Return the directory that a model would be loaded from without a network; None if there is none."""
    if Path(name).is_dir():
        return Path(name)
    hub = require("huggingface_hub", extra="sentence-transformers")
    own = () if "/" in name else (f"sentence-transformers/{name}",)  # so the library looks for short names
    for repository in (*own, name):
        try:
            found = hub.snapshot_download(
                repository,
                revision=arguments.get("revision"),
                cache_dir=arguments.get("cache_folder"),
                local_files_only=True,
            )
        except (OSError, ValueError):  # not there, or no name of the hub's
            continue
        return Path(found)
    return None
