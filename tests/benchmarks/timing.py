"""Take turns: what every path of the benchmark is measured with."""

from __future__ import annotations

import gc
import random
import time
from hashlib import sha256
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Contestants = dict[str, Callable[[], float]]
    Row = dict[str, Any]

FLOOR = "(floor)"
FILLER = "lorem ipsum dolor sit amet " * 18


def corpus(count: int, *, mark: str = "") -> list[str]:
    """Return distinct texts of about 500 characters, in random order."""
    texts = [f"{number:08d} {mark}{FILLER}" for number in range(count)]
    random.Random(0).shuffle(texts)
    return texts


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds of a call; what it returns is let go after the clock has stopped."""
    gc.collect()
    start = time.perf_counter()
    answer = call()
    seconds = time.perf_counter() - start
    del answer
    return seconds


def in_turns(contestants: Contestants, *, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contestant, a value per round; they run in random order."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    chance = random.Random(1)
    for _ in range(rounds):
        for name in chance.sample(sorted(contestants), len(contestants)):
            seconds[name].append(contestants[name]())
    return seconds


def measured(
    path: str, contestants: Contestants, work: Work, *, rounds: int, per: int | None = None
) -> list[Row]:
    """Return a row for each contestant: microseconds per text, and the ratio of minima to the floor's."""
    seconds = in_turns(contestants, rounds=rounds)
    floor = min(seconds[FLOOR])
    micro = 1e6 / (per or work.count)
    return [
        {
            "path": path,
            "count": work.count,
            "dimension": work.dimension,
            "system": name,
            "median us": median(each) * micro,
            "minimum us": min(each) * micro,
            "ratio": min(each) / floor,
        }
        for name, each in seconds.items()
    ]


class Work:
    """Texts, their vectors, and a model that has them ready, as rows of a matrix or as lists."""

    def __init__(self, count: int, dimension: int) -> None:
        self.count, self.dimension = count, dimension
        self.texts = corpus(count)
        self.matrix = np.random.default_rng(0).standard_normal((count, dimension), np.float32)
        self.at = self.rows(self.texts)
        self.asked = 0
        self._lists: list[list[float]] = []

    def rows(self, texts: list[str]) -> list[int]:
        """Return the rows of texts in the matrix."""
        return [int(text[:8]) for text in texts]

    def arrays(self, texts: list[str], _role: str) -> Any:
        """Embed texts as a model on this machine does."""
        self.asked += len(texts)
        return self.matrix[self.rows(texts)]

    def lists(self, texts: list[str], _role: str) -> list[list[float]]:
        """Embed texts as a model behind an API does; what costs is done before."""
        self.asked += len(texts)
        self.prepare()
        return [self._lists[row] for row in self.rows(texts)]

    def prepare(self) -> None:
        """Make the lists, once."""
        self._lists = self._lists or self.matrix.tolist()

    def hash(self, texts: list[str]) -> None:
        """Hash texts, which no cache with keys of fixed size can do without."""
        for text in texts:
            sha256(text.encode()).digest()

    def floor_arrays(self) -> Any:
        """Hash all texts and gather their rows."""
        self.hash(self.texts)
        return self.matrix[self.at]

    def floor_lists(self) -> Any:
        """Hash all texts, gather their rows and make lists of them."""
        return self.floor_arrays().tolist()
