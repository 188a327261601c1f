"""Processes that want the same texts: each writes down what it pays for, and when."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from kura_cache_adapters import CachedEmbeddingModel, CacheOptions
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.crowd import WRONG
from tests.faults.fault_lab import WAYS

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters.identity import Role


class Paid(FakeEmbeddingModel):
    """A model that takes some seconds a call, and appends what it is asked for to a file of all processes."""

    def __init__(self, bill: Path, seconds: float = 0.0) -> None:
        super().__init__()
        self.bill, self.seconds = bill, seconds

    async def embed(self, texts: list[str], *, role: Role = "document") -> list[list[float]]:
        pay(self.bill, texts)
        await asyncio.sleep(self.seconds)
        return await super().embed(texts, role=role)


class PaidInThread(Paid):
    """The same, sync."""

    def embed_sync(self, texts: list[str]) -> list[list[float]]:
        pay(self.bill, texts)
        time.sleep(self.seconds)
        return self.lists(texts)


def pay(bill: Path, texts: list[str]) -> None:
    with bill.open("ab", buffering=0) as file:
        file.write("".join(f"{os.getpid()}:{text}\n" for text in texts).encode())


def paid(bill: Path) -> list[str]:
    """Return the texts that were paid for, as often as they were."""
    return [line.partition(":")[2] for line in bill.read_text().splitlines()] if bill.exists() else []


def paid_by(bill: Path) -> Counter[str]:
    """Return how many texts each process has paid for."""
    return Counter(line.partition(":")[0] for line in bill.read_text().splitlines())


def opened(
    way: str, path: Path, seconds: float = 0.0, *, patience: float = 60.0, chunk_size: int = 256
) -> CachedEmbeddingModel:
    """Open a cache at a path; the bill lies beside it."""
    options = CacheOptions(wait_for_others=patience, chunk_size=chunk_size)
    return CachedEmbeddingModel(Paid(path / "bill", seconds), WAYS[way](path / "cache"), options=options)


def want(
    way: str, path: Path, texts: list[str], seconds: float, chunk_size: int = 256, together: Any = None
) -> None:
    """Embed texts in this process, once all are there; end with a code that says whether they are right."""
    cached = opened(way, path, seconds, chunk_size=chunk_size)
    if together is not None:
        together.wait()
    if cached.embed_sync(texts) != FakeEmbeddingModel().lists(texts):
        os._exit(WRONG)


def want_in_threads(way: str, path: Path, texts: list[str], seconds: float, together: Any) -> None:
    """Embed the same texts in four threads of this process, sync and async."""
    cached = opened(way, path, seconds, chunk_size=16)

    def embed(number: int) -> list[list[float]]:
        together.wait()
        return cached.embed_sync(texts) if number % 2 else asyncio.run(cached.embed(texts))

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(embed, range(4)))
    if any(answer != FakeEmbeddingModel().lists(texts) for answer in answers):
        os._exit(WRONG)
