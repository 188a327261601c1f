"""The keys of texts: SHA-256 over an identity's head and the text (docs/format.md)."""

from __future__ import annotations

import hmac
from hashlib import sha256
from sys import getsizeof
from typing import TYPE_CHECKING, Any, cast

from kura_cache_adapters._runtime.fork import ForkLock

if TYPE_CHECKING:
    from collections.abc import Iterable


_KEY_BYTES_HELD = 200  # a key as an object, and the place of both in a dict that may just have grown


def text_keys(head: bytes, texts: list[str], secret: bytes = b"") -> list[bytes]:
    """Compute the 32-byte key of each text: SHA-256 over the head, then the text as UTF-8.

    With a secret it is HMAC-SHA-256 over the same bytes. Lone surrogates are encoded with
    "surrogatepass", so that every str has a key of its own.
    """
    return _keys(_begun(head, secret), texts)


def _begun(head: bytes, secret: bytes) -> Any:  # noqa: ANN401 - hashlib and hmac share no type
    return hmac.new(secret, head, sha256) if secret else sha256(head)


def _keys(begun: Any, texts: list[str]) -> list[bytes]:  # noqa: ANN401
    try:
        return _digests(begun, map(str.encode, texts))
    except UnicodeEncodeError:
        return _digests(begun, (text.encode("utf-8", "surrogatepass") for text in texts))


def _digests(begun: Any, encoded: Iterable[bytes]) -> list[bytes]:  # noqa: ANN401
    copy, keys = begun.copy, []
    for text in encoded:
        key = copy()
        key.update(text)
        keys.append(key.digest())
    return keys


class RememberedKeys:
    """The last texts of all models over a store, with their keys, within one room."""

    def __init__(self, room: int) -> None:
        """Take how many bytes of memory texts and keys may take in all."""
        self._room = self._left = room
        self._known: dict[bytes, dict[str, bytes]] = {}
        self._lock = ForkLock()

    def under(self, head: bytes) -> dict[str, bytes]:
        """Return what is remembered under a head's digest, always the same dict."""
        return self._known.setdefault(head, {})

    def add(self, known: dict[str, bytes], texts: list[str], keys: list[bytes]) -> None:
        """Remember texts in one of the dicts; when the room is used up, forget all others first."""
        size = sum(map(getsizeof, texts)) + _KEY_BYTES_HELD * len(texts)
        if size > self._room:
            return
        with self._lock:
            if size > self._left:  # start anew: what is still in use comes back with the next call
                self.clear()
            self._left -= size
            known.update(zip(texts, keys, strict=True))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for known in list(self._known.values()):
                known.clear()
            self._left = self._room


class TextKeys:
    """Computes the keys of texts, and remembers those of the last ones: hashing is most of a hit."""

    def __init__(self, head: bytes, *, remembered: RememberedKeys | None = None, secret: bytes = b"") -> None:
        """Take the head of the keys, what remembers them, and a secret."""
        self._begun = _begun(head, secret)  # copied for each text: a head may be long
        self._remembered = remembered
        self._known = remembered.under(self._begun.digest()) if remembered else {}

    def __call__(self, texts: list[str]) -> list[bytes]:
        """Return the 32-byte key of each text; see `text_keys`."""
        if self._remembered is None:
            return _keys(self._begun, texts)
        known = [*map(self._known.get, texts)]
        if None not in known:
            return cast("list[bytes]", known)
        fresh = [text for text, key in zip(texts, known, strict=True) if key is None]
        keys = _keys(self._begun, fresh)
        self._remembered.add(self._known, fresh, keys)
        rest = iter(keys)
        return [next(rest) if key is None else key for key in known]
