"""Tells a URL from a path, and refuses a path that was meant to be a URL: it may have a password in it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]+"  # one letter is a drive
_SLIP = re.compile(f"({_SCHEME})(:|//)")
_COLLAPSED = re.compile(f"({_SCHEME}):/")  # what pathlib makes of a URL; another colon is of a name
_LIKE_ONE = re.compile(r"[^/\\]{2,}://|([^/\\]+//)?[^/\\@:]*:[^/\\@]+@")  # also user:password@host


def scheme_of(cache: object) -> str:
    """Return the scheme of a URL; empty for a path, and for what else is a cache."""
    scheme, separator, _ = cache.partition("://") if isinstance(cache, str) else ("", "", "")
    return scheme if separator and re.fullmatch(_SCHEME, scheme) else ""


def refuse_mistyped(path: str | os.PathLike[str], is_scheme: Callable[[str], bool]) -> None:
    """Raise ValueError for a path that was meant for a URL, or has a login in it; it is not quoted."""
    text, typed = os.fspath(path), isinstance(path, str)
    slip = (_SLIP if typed else _COLLAPSED).match(text)
    if slip and is_scheme(slip[1].lower()):
        raise ValueError(_refusal(f"what begins with {slip[0]} is no URL", slip[1].lower()))
    if typed and _LIKE_ONE.match(text):
        raise ValueError(_refusal("this looks like a URL, and is none", "redis"))


def _refusal(why: str, scheme: str) -> str:
    return f"{why}: write {scheme}://..., as a str; a directory of such a name needs its absolute path"
