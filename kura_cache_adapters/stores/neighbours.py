"""Tells whether a directory is another tool's, by the files that the tool keeps there."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from itertools import islice

_UUID5 = "[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"

# What a directory looks like that has a file of each of these names. Only what no directory of a user has
# by chance: in doubt a cache is opened beside what is there, to which it does nothing.
_MARKS = {
    "a cache of diskcache": (r"cache\.db",),
    "a Chroma database": (r"chroma\.sqlite3",),
    "a FAISS index of LangChain": (r"index\.faiss", r"index\.pkl"),
    "a storage of LlamaIndex": (r"docstore\.json", r"index_store\.json"),
    "LangChain's CacheBackedEmbeddings over a LocalFileStore": (f".+{_UUID5}",),
    "a model of HuggingFace": (r"config\.json", r".+\.safetensors"),
    "a dataset of HuggingFace": (r"dataset_info\.json", r"state\.json"),
}
_LOOKED_AT = 1000  # entries: a directory may hold millions


def neighbour_in(directory: str) -> str | None:
    """Return what another tool has made of a directory; None where nothing says so."""
    names = _files_in(directory)
    for what, marks in _MARKS.items():
        if all(any(re.fullmatch(mark, name) for name in names) for mark in marks):
            return what
    return None


def _files_in(directory: str) -> list[str]:
    with suppress(OSError), os.scandir(directory) as entries:
        return [each.name for each in islice(entries, _LOOKED_AT) if each.is_file()]
    return []
