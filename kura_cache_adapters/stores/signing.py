"""Signed entries: who may write to a store, and has not the secret, cannot make a vector for who reads."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import numpy as np

from kura_cache_adapters._identity.secrets import secret_bytes
from kura_cache_adapters.checks import check_shapes, key_matrix
from kura_cache_adapters.stores import entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kura_cache_adapters.protocols import Hits, Vectors
    from kura_cache_adapters.stores.key_value import Codec

_VERSION = 2
_START, _SIGNATURE = 8, 16  # bytes of what entries begin with, and of the signature behind it
_HEAD = _START + _SIGNATURE


def codec_for(sign: str | bytes | None) -> Codec[bytes]:
    """Return the codec of entries with signatures, or of those without where there is no secret.

    Raises TypeError for a secret that is neither str nor bytes, ValueError for one below 16 bytes.
    """
    return entry if sign is None else Signed(sign)


class Signed:
    """Entries with an HMAC-SHA-256/128 over key and vector; what has none, or another's, is invalid."""

    def __init__(self, secret: str | bytes) -> None:
        """Take the secret, at least 16 bytes; a str counts as UTF-8."""
        self._keyed = hmac.new(secret_bytes(secret, "sign"), digestmod="sha256")

    def encode_many(self, keys: Sequence[bytes], vectors: Vectors, /) -> list[bytes]:
        """Return vectors, shape (N, D), as signed entries."""
        key_matrix(keys)
        check_shapes(keys, vectors)
        unsigned = entry.joined(_VERSION, np.empty((len(keys), 0), np.uint8), vectors)
        parts = ((key, each[:_START], each[_START:]) for key, each in zip(keys, unsigned, strict=True))
        return [start + self._signature(key, start, vector) + vector for key, start, vector in parts]

    def decode_many(
        self, keys: Sequence[bytes], values: Sequence[bytes], /, *, dimension: int | None = None
    ) -> Hits:
        """Find the vectors whose signatures are right."""
        pairs = enumerate(zip(keys, values, strict=True))
        signed = [at for at, (key, value) in pairs if self._is_right(key, value)]
        groups = entry.alike(_VERSION, _HEAD, [values[at] for at in signed])
        at = np.array(signed, np.intp)
        parts = [(at[rows], entry.vectors_in(content, _HEAD, size)) for rows, size, content in groups]
        return entry.gathered(parts, len(values), dimension)

    def _is_right(self, key: bytes, value: bytes) -> bool:
        right = self._signature(key, value[:_START], value[_HEAD:])
        return hmac.compare_digest(right, value[_START:_HEAD])

    def _signature(self, key: bytes, start: bytes, vector: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(b"".join([start, key, vector]))
        return keyed.digest()[:_SIGNATURE]
