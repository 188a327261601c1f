"""Embed 50,000 texts, each there twice, with Spark in local mode; then do it again.

Run it with `python examples/spark_local.py` after `pip install pyspark pandas`. It needs a JVM, and no
network: the model is a toy that writes down what it was asked for, as an invoice would.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from kura_cache_adapters import CallableEmbeddingModel
from kura_cache_adapters.integrations.batches import Embed

COUNT = 50_000


def make_model(invoice: Path) -> CallableEmbeddingModel:
    """Make the model in a worker; each call is a line on the invoice."""

    def embed(texts: list[str]) -> list[list[float]]:
        with invoice.open("a") as lines:
            lines.write(f"{len(texts)}\n")
        return [[float(len(text)), float(sum(text.encode()))] for text in texts]

    return CallableEmbeddingModel(embed, model_name="toy-v1")


def run(spark: SparkSession, cache: Path, invoice: Path, name: str) -> None:
    """Embed the rows once, and say what that cost."""
    invoice.write_text("")
    embed = Embed(partial(make_model, invoice), cache)
    start = time.perf_counter()
    texts = spark.range(2 * COUNT).selectExpr(f"concat('text ', id % {COUNT}) AS text")
    embedded = texts.mapInPandas(embed, "text string, vector array<float>")
    rows = embedded.where("size(vector) = 2").count()
    paid = sum(map(int, invoice.read_text().split()))
    seconds = time.perf_counter() - start
    print(f"{name} run: {rows:,} rows, {paid} texts to the model, {seconds:.1f} s")


def main() -> None:
    """Embed twice with a cache that all workers share."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cache", help="a directory to keep; the default is a new temporary one")
    kept: str | None = arguments.parse_args().cache

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("first", "second"):
            run(spark, Path(kept or temporary) / "cache", Path(temporary) / "invoice", name)
    spark.stop()


if __name__ == "__main__":
    main()
