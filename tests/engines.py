"""Jobs of the engines, each for a process of its own.

Each text is there twice. The model writes down, in DIRECTORY/paid, each text that it is asked for.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters.integrations.batches import Embed
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

DIMENSION = 8


class PaidModel(FakeEmbeddingModel):
    """Write down who was made, and each text; take some time for a call."""

    def __init__(self, directory: Path, seconds: float) -> None:
        super().__init__(dimension=DIMENSION)
        self._directory, self._seconds = directory, seconds
        self._write("made", [str(os.getpid())])

    def identity(self) -> dict[str, object]:
        return {}

    async def embed(self, texts: list[str], *, role: str = "document") -> list[list[float]]:
        self._write("paid", texts)
        time.sleep(self._seconds)
        return await super().embed(texts, role=role)

    def _write(self, name: str, lines: list[str]) -> None:
        file = os.open(self._directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, "".join(f"{line}\n" for line in lines).encode())
        os.close(file)


def texts_of(count: int) -> list[str]:
    return [f"text {at % count}" for at in range(2 * count)]


def embed_of(directory: Path, seconds: float = 0.0) -> Embed:
    return Embed(partial(PaidModel, directory, seconds), directory / "cache")


def frame_of(count: int) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"text": texts_of(count)})


def with_ray(directory: Path, count: int, seconds: float) -> Iterable[tuple[str, Any]]:
    import pyarrow as pa
    import ray

    from kura_cache_adapters.integrations.ray import embed_dataset

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    texts = texts_of(count)
    blocks = [pa.table({"text": texts[at : at + 4096]}) for at in range(0, len(texts), 4096)]
    dataset = embed_dataset(
        ray.data.from_arrow(blocks),
        partial(PaidModel, directory, seconds),
        directory / "cache",
        actors=2,
        batch_size=1024,
        ray_options={"max_restarts": 0, "max_task_retries": 0},
    )
    return [(row["text"], row["vector"]) for row in dataset.iter_rows()]


def with_dask(directory: Path, count: int, seconds: float) -> Iterable[tuple[str, Any]]:
    import dask.dataframe as dd

    embed = embed_of(directory, seconds)
    frame = dd.from_pandas(frame_of(count), npartitions=8)  # type: ignore[no-untyped-call]
    done = frame.map_partitions(embed, meta=embed(frame.head(0)))
    done = done.compute(scheduler="processes", num_workers=2)
    return zip(done["text"], done["vector"], strict=True)


def with_datasets(directory: Path, count: int, seconds: float) -> Iterable[tuple[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    dataset = datasets.Dataset.from_dict({"text": texts_of(count)})
    done = dataset.map(embed_of(directory, seconds), batched=True, num_proc=2).with_format("numpy")
    return zip(done["text"][:], done["vector"][:], strict=True)


def with_spark(directory: Path, count: int, seconds: float) -> Iterable[tuple[str, Any]]:
    import pandas as pd
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    frame_of(count).to_parquet(directory / "texts")
    texts = spark.read.parquet(f"{directory}/texts").repartition(8)
    done = texts.mapInPandas(embed_of(directory, seconds), "text string, vector array<float>")
    done.write.mode("overwrite").parquet(f"{directory}/vectors")
    spark.stop()
    frame = pd.read_parquet(directory / "vectors")
    return zip(frame["text"], frame["vector"], strict=True)


def with_daft(directory: Path, count: int, seconds: float) -> Iterable[tuple[str, Any]]:
    import daft

    kind = daft.DataType.list(daft.DataType.float32())
    embed = daft.func.batch(return_dtype=kind, batch_size=1024)(embed_of(directory, seconds))
    frame = daft.from_pydict({"text": texts_of(count)})
    done = frame.with_column("vector", embed(frame["text"])).to_pydict()
    return zip(done["text"], done["vector"], strict=True)


def main(engine: str, directory: str, count: str, seconds: str) -> None:
    """Run a job; end with an error unless each text has its vector, as often as it is there."""
    jobs = {
        "ray": with_ray,
        "dask": with_dask,
        "datasets": with_datasets,
        "spark": with_spark,
        "daft": with_daft,
    }
    texts, vectors = zip(*jobs[engine](Path(directory), int(count), float(seconds)), strict=True)
    right = FakeEmbeddingModel(dimension=DIMENSION).array(texts)
    if sorted(texts) != sorted(texts_of(int(count))) or not np.array_equal(np.array([*vectors]), right):
        sys.exit("a wrong vector")
