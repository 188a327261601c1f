"""How an entry travels through a checkpoint manager that keeps pydantic models."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic import BaseModel

from kura_cache_adapters._segments.rows import checksum_of
from kura_cache_adapters.errors import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kura_cache_adapters.protocols import Vectors

_LITTLE = {"float32": "<f4", "float64": "<f8"}


class CachedEmbedding(BaseModel):
    """The record of one entry: its key (64 hex characters), its model's directory name, its vector.

    `checksum` is that of docs/format.md over key and vector, as float64: 16 hex characters.
    """

    key: str
    identity: str
    embedding: list[float]
    checksum: str


class Records(Protocol):
    """A pydantic model that holds an entry, and the ways into it and out again."""

    model_class: type[BaseModel]

    def encode(self, key: str, identity: str, vector: Vectors) -> BaseModel:
        """Make a record of a key, an identity and a vector of shape (D,)."""

    def decode(self, record: Any) -> tuple[str, str, NDArray[np.float64]]:  # noqa: ANN401 - of the model's class
        """Return key, identity and vector; raise ValueError for what holds none."""


class PlainRecords:
    """An entry as the record that it is."""

    model_class: type[BaseModel] = CachedEmbedding

    def encode(self, key: str, identity: str, vector: Vectors) -> BaseModel:
        """Make a CachedEmbedding."""
        checksum = _checksum(key, vector.astype("<f8"))
        return CachedEmbedding(key=key, identity=identity, embedding=vector.tolist(), checksum=checksum)

    def decode(self, record: Any) -> tuple[str, str, NDArray[np.float64]]:  # noqa: ANN401
        """Read a CachedEmbedding."""
        vector = np.array(record.embedding, "<f8")
        return record.key, record.identity, _intact(record.key, vector, record.checksum)


class KuraRecords:
    """An entry in Kura's `Cluster`, the one model that all of Kura's managers keep to the bit.

    `id` is the key, `name` the identity, `slug` the vector's dtype and the checksum of
    docs/format.md, as in "float32-0123456789abcdef", and `description` the vector's bytes,
    little-endian, as base64.
    """

    def __init__(self) -> None:
        """Find Kura's class."""
        self.model_class: type[BaseModel] = require("kura.types", extra="kura").Cluster

    def encode(self, key: str, identity: str, vector: Vectors) -> BaseModel:
        """Make a Cluster."""
        little = vector.astype(_LITTLE[vector.dtype.name])
        slug = f"{vector.dtype.name}-{_checksum(key, little)}"
        text = base64.b64encode(little.tobytes()).decode()
        fields = {"id": key, "name": identity, "slug": slug, "description": text}
        return self.model_class(**fields, chat_ids=[], parent_id="-")

    def decode(self, record: Any) -> tuple[str, str, NDArray[np.float64]]:  # noqa: ANN401
        """Read a Cluster."""
        dtype, _, checksum = record.slug.partition("-")
        if dtype not in _LITTLE:
            message = f"a cluster named {record.name!r:.80} holds no vector"
            raise ValueError(message)
        content = base64.b64decode(record.description, validate=True)
        vector = np.frombuffer(content, _LITTLE[dtype])
        return record.id, record.name, _intact(record.id, vector, checksum)


def records_for(manager: object) -> Records:
    """Choose the records of a manager: Kura's managers refuse or narrow models that are not Kura's."""
    packages = {kind.__module__.partition(".")[0] for kind in type(manager).__mro__}
    ours = "kura_cache_adapters" in packages
    return KuraRecords() if "kura" in packages and not ours else PlainRecords()


def _checksum(key: str, vector: NDArray[Any]) -> str:
    return f"{checksum_of(bytes.fromhex(key), vector.tobytes(), vector.itemsize):016x}"


def _intact(key: str, vector: NDArray[Any], checksum: str) -> NDArray[np.float64]:
    if _checksum(key, vector) != checksum:
        message = f"the entry {key!r:.80} is damaged"
        raise ValueError(message)
    return vector.astype(np.float64)
