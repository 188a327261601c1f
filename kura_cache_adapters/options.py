"""CacheOptions: how a cache works."""

from __future__ import annotations

from dataclasses import dataclass, field

_SHORTEST_SECRET = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """How a cache works; none of it enters a key.

    `chunk_size`: texts per call of the model, each chunk stored before the next is asked for (a
    model that streams chooses its own). `durable`: what is stored outlives a power cut; without,
    it outlives the process only, and storing is faster. `progress`: show a progress bar.
    `key_secret`: at least 16 bytes (a str counts as UTF-8) that make the keys HMAC-SHA-256, so that
    who can read the cache, but not the secret, cannot tell whether a text is in it. What was stored
    under another secret, or under none, is not found.
    """

    chunk_size: int = 256
    durable: bool = True
    progress: bool = False
    key_secret: str | bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse a chunk size below 1, and a secret that is none."""
        if self.chunk_size < 1:
            message = f"chunk_size must be at least 1, not {self.chunk_size}"
            raise ValueError(message)
        if not isinstance(self.key_secret, (str, bytes, type(None))):
            message = f"key_secret must be a str, bytes or None, not {type(self.key_secret).__name__}"
            raise TypeError(message)
        if self.key_secret is not None and len(self.secret_bytes) < _SHORTEST_SECRET:
            message = f"key_secret must have at least {_SHORTEST_SECRET} bytes: secrets.token_hex() makes one"
            raise ValueError(message)

    @property
    def secret_bytes(self) -> bytes:
        """The secret as bytes; empty without one."""
        secret = self.key_secret or b""
        return secret if isinstance(secret, bytes) else secret.encode("utf-8", "surrogatepass")
