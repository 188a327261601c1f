"""What must not be read in a cache's files, and yet tells two embedders apart."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import pbkdf2_hmac
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROUNDS = 100_000  # some 30 ms: a short password is not found by trying
_SALT = b"kura-cache-adapters"

# A name of one of these words holds a secret, or may ...
_SECRET = re.compile(
    r"(^|_)([a-z]*keys?|[a-z]*(?<!tik)tokens?|secrets?|pass(word|wd|phrase)|pwd|cred(ential)?s?|auth|oauth2?|"
    r"authorization|bearer|jwt|pat|sas|signature|dsn|conn(ection)?_str(ing)?|cookies?|headers?|session|"
    r"prox(y|ies))(_|$)",
)
# ... but these are words of a tokenizer.
_VOCABULARY = re.compile(r"(^|_)(bos|eos|sep|cls|pad|mask|unk|query|document|passage|special)_tokens?$")

# A name of these is what one pays or logs in with: it chooses no model.
_CREDENTIAL = re.compile(
    r"(^|_)(api_?key|subscription_key|access_key(_id)?|secret(_access)?_key|api_token|access_token|auth_token|"
    r"session_token|bearer(_token)?|id_token|refresh_token|password|passwd|passphrase|pwd|client_secret|"
    r"authorization|key|token|sig|signature)$"
)

# ... and of a URL's parameters only these, since any other may choose what it opens.
_API_KEY = re.compile(r"(^|_)(api_?key|key|subscription_key|sig|signature)$")

# Headers that say who asks, or how: the same request is answered with the same vectors.
_TRANSPORT_HEADERS = re.compile(
    r"authorization|(x-)?api-key|user-agent|accept|accept-encoding|connection|content-type|cookie|"
    r"openai-(organization|project)|http-referer|referer|x-title|x-request-id|traceparent|tracestate|"
    r"x-stainless-.*|x-b3-.*|x-amzn-trace-id|x-client.*|x-goog-api-(client|key)"
)


_SHORTEST = 16  # bytes of a secret


def secret_bytes(secret: object, name: str) -> bytes:
    """Return a secret as bytes, a str as its UTF-8; raise TypeError or ValueError for what is none."""
    if not isinstance(secret, (str, bytes)):
        message = f"{name} must be a str, bytes or None, not {type(secret).__name__}"
        raise TypeError(message)
    encoded = secret if isinstance(secret, bytes) else secret.encode("utf-8", "surrogatepass")
    if len(encoded) < _SHORTEST:
        message = f"{name} must have at least {_SHORTEST} bytes: secrets.token_hex() makes one"
        raise ValueError(message)
    return encoded


def plain_url(text: str) -> str:
    """Return a URL without user, password, query and fragment, which may hold secrets."""
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def refuse_torn(url: str) -> None:
    """Raise ValueError for a URL with an @ behind its host: a /, ? or # in its password is not encoded."""
    parts = urlsplit(url)
    told = [part for part in parts.query.split("&") if "=" not in part]
    hosted = parts.netloc or parts.scheme.startswith("redis")  # else a path is a file's or a socket's
    if hosted and any("@" in each for each in [parts.path, parts.fragment, *told]):
        message = "there is an @ behind the host"
        raise ValueError(message)


def is_secret_name(name: str) -> bool:
    """Tell whether an attribute or field of this name holds a secret, or may."""
    words = snake(name)
    return _SECRET.search(words) is not None and _VOCABULARY.search(words) is None


def is_credential(name: str) -> bool:
    """Tell whether a field of this name holds what is paid or logged in with, which decides nothing."""
    words = snake(name)
    return _CREDENTIAL.search(words) is not None and _VOCABULARY.search(words) is None


@lru_cache(maxsize=256)
def sealed(secret: str | bytes) -> str:
    """Return what tells a secret from another and does not give it away: 32 hexadecimal characters.

    PBKDF2-HMAC-SHA-256 (RFC 8018) with a fixed salt, so that it is the same on every machine.
    """
    secret = secret if isinstance(secret, bytes) else secret.encode("utf-8", "surrogatepass")
    return pbkdf2_hmac("sha256", secret, _SALT, _ROUNDS, 16).hex()


def deciding_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that may choose a model or its settings, by name, their values sealed."""
    told = ((name.lower(), value) for name, value in headers.items())
    return {name: sealed(_written(value)) for name, value in told if not _TRANSPORT_HEADERS.fullmatch(name)}


def deciding_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return a URL's parameters without API keys; those that may be other secrets are sealed."""
    return {
        name: sealed(str(value)) if is_secret_name(name) else value
        for name, value in query.items()
        if not _API_KEY.search(snake(name))
    }


def deciding_url(text: str) -> str:
    """Return a URL without user, password and fragment, and with the parameters that may decide."""
    query = deciding_query(dict(parse_qsl(urlsplit(text).query, keep_blank_values=True)))
    return plain_url(text) + (f"?{urlencode(sorted(query.items()))}" if query else "")


def snake(name: str) -> str:
    """Return a name of any style in lower case, its words between underscores."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.lstrip("_"))
    return re.sub(r"\W", "_", name).lower()


def _written(value: object) -> str | bytes:
    """Write a header's value; what is none (the OpenAI SDK's `Omit`) by its class."""
    if isinstance(value, (str, bytes)):
        return value
    return str(value) if isinstance(value, (int, float)) else type(value).__qualname__
