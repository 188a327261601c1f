"""Embed 50,000 texts, each there twice, by two actors of a local Ray cluster; then do it again.

Run it with `python examples/ray_data.py` after `pip install 'kura-cache-adapters[ray]'`. It needs no network
and no API key: the model is a toy that writes down what it was asked for, as an invoice would.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import ray

from kura_cache_adapters import CallableEmbeddingModel
from kura_cache_adapters.integrations.ray import embed_dataset

COUNT = 50_000


def make_model(invoice: Path) -> CallableEmbeddingModel:
    """Make the model in a worker; each call is a line on the invoice."""

    def embed(texts: list[str]) -> list[list[float]]:
        with invoice.open("a") as lines:
            lines.write(f"{len(texts)}\n")
        return [[float(len(text)), float(sum(text.encode()))] for text in texts]

    return CallableEmbeddingModel(embed, model_name="toy-v1")


def run(cache: Path, invoice: Path, name: str) -> None:
    """Embed the dataset once, and say what that cost."""
    invoice.write_text("")
    dataset = ray.data.range(2 * COUNT).map(lambda row: {"text": f"text {row['id'] % COUNT}"})
    start = time.perf_counter()
    embedded = embed_dataset(dataset, partial(make_model, invoice), cache, actors=2)
    rows = embedded.materialize().count()
    paid = sum(map(int, invoice.read_text().split()))
    seconds = time.perf_counter() - start
    print(f"{name} run: {rows:,} rows, {paid} texts to the model, {seconds:.1f} s")


def main() -> None:
    """Embed twice with a cache that both actors share."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cache", help="a directory to keep; the default is a new temporary one")
    kept: str | None = arguments.parse_args().cache

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("first", "second"):
            run(Path(kept or temporary) / "cache", Path(temporary) / "invoice", name)
    ray.shutdown()


if __name__ == "__main__":
    main()
