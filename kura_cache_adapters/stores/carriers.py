"""How an entry travels through a checkpoint manager that keeps pydantic models."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic import BaseModel

from kura_cache_adapters.errors import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kura_cache_adapters.protocols import Vectors

_LITTLE = {"float32": "<f4", "float64": "<f8"}


class CachedEmbedding(BaseModel):
    """The record of one entry: its key (64 hex characters), its model's directory name, its vector."""

    key: str
    identity: str
    embedding: list[float]


class Carrier(Protocol):
    """A pydantic model that holds an entry, and the ways into it and out again."""

    model_class: type[BaseModel]

    def pack(self, key: str, identity: str, vector: Vectors) -> BaseModel:
        """Make a record of a key, an identity and a vector of shape (D,)."""

    def unpack(self, record: Any) -> tuple[str, str, NDArray[np.float64]]:  # noqa: ANN401 - of the model's class
        """Return key, identity and vector; raise ValueError for what holds none."""


class PlainCarrier:
    """An entry as the record that it is."""

    model_class: type[BaseModel] = CachedEmbedding

    def pack(self, key: str, identity: str, vector: Vectors) -> BaseModel:
        """Make a CachedEmbedding."""
        return CachedEmbedding(key=key, identity=identity, embedding=vector.tolist())

    def unpack(self, record: Any) -> tuple[str, str, NDArray[np.float64]]:  # noqa: ANN401
        """Read a CachedEmbedding."""
        return record.key, record.identity, np.array(record.embedding, np.float64)


class KuraCarrier:
    """An entry in Kura's `Cluster`, the one model that all of Kura's managers keep to the bit.

    `id` is the key, `name` the identity, `slug` the vector's dtype and `description` its bytes,
    little-endian, as base64.
    """

    def __init__(self) -> None:
        """Find Kura's class."""
        self.model_class: type[BaseModel] = require("kura.types", extra="kura").Cluster

    def pack(self, key: str, identity: str, vector: Vectors) -> BaseModel:
        """Make a Cluster."""
        slug = vector.dtype.name
        text = base64.b64encode(vector.astype(_LITTLE[slug]).tobytes()).decode()
        fields = {"id": key, "name": identity, "slug": slug, "description": text}
        return self.model_class(**fields, chat_ids=[], parent_id="-")

    def unpack(self, record: Any) -> tuple[str, str, NDArray[np.float64]]:  # noqa: ANN401
        """Read a Cluster."""
        if record.slug not in _LITTLE:
            message = f"a cluster named {record.name!r:.80} holds no vector"
            raise ValueError(message)
        content = base64.b64decode(record.description, validate=True)
        return record.id, record.name, np.frombuffer(content, _LITTLE[record.slug]).astype(np.float64)


def carrier_for(manager: object) -> Carrier:
    """Choose a carrier: Kura's managers refuse or narrow models that are not Kura's."""
    packages = {kind.__module__.partition(".")[0] for kind in type(manager).__mro__}
    ours = "kura_cache_adapters" in packages
    return KuraCarrier() if "kura" in packages and not ours else PlainCarrier()
