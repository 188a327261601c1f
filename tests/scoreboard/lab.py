"""Lab: a cache under test, around a model whose vectors are a function of model, role and text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kura_cache_adapters.testing import FakeEmbeddingModel
from tests import peers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class WrongVectorError(AssertionError):
    """A vector is not the one that the model gives to this text in this role."""


class PaidTwiceError(AssertionError):
    """A text was embedded that had been embedded before."""


class LostError(AssertionError):
    """Vectors that the model had returned were not kept."""


class NotApplicableError(Exception):
    """This system has no such thing."""


class Lab:
    """Open a system on a directory, ask it, and compare with the model."""

    def __init__(self, kind: type[peers.System], directory: Path) -> None:
        self.kind = kind
        self.directory = directory
        self.system = kind(directory)
        self.asked: list[str] = []
        self.before: Callable[[list[str]], object] = lambda _: None
        self.change: Callable[[list[Any]], Any] = lambda vectors: vectors
        self.dtype: Any = "float32"

    def open(self, name: str = "model", configuration: str = "", **parameters: Any) -> None:
        """Open the system around a model; its configuration changes its vectors."""
        import numpy as np

        self.fake = FakeEmbeddingModel(
            f"{name} {configuration}",
            dtype=np.float64 if self.dtype == "float64" else np.float32,
            roles=("query",),
        )
        fake = self.fake

        def embed(texts: list[str], role: Any) -> Any:
            self.before(texts)
            self.asked += texts
            return self.change(fake.lists(texts, role))

        self.system.open(embed, name, **parameters)

    def again(self, *, close: bool = True, **options: Any) -> None:
        """Open the same directory once more, as the next process does."""
        if not self.kind.persistent:
            raise NotApplicableError
        if close:
            self.system.close()
        self.system = self.kind(self.directory)
        self.open(**options)

    def documents(self, texts: list[str]) -> Any:
        """Embed documents; raise WrongVectorError unless they are the model's."""
        return self.checked(self.system.documents(texts), texts, "document")

    def query(self, text: str) -> Any:
        """Embed a query; raise WrongVectorError unless it is the model's."""
        return self.checked([self.system.query(text)], [text], "query")[0]

    async def adocuments(self, texts: list[str]) -> Any:
        """Embed documents asynchronously; raise WrongVectorError unless they are the model's."""
        return self.checked(await self.system.adocuments(texts), texts, "document")

    def checked(self, vectors: Any, texts: list[str], role: Any) -> Any:
        """Return vectors; raise WrongVectorError unless they are the model's to the bit."""
        expected = self.fake.lists(texts, role)
        same = len(vectors) == len(expected) and all(
            vector is not None and len(vector) == len(right) and [float(number) for number in vector] == right
            for vector, right in zip(vectors, expected, strict=True)
        )
        if not same:
            raise WrongVectorError
        return vectors

    def nothing_asked(
        self, texts: list[str], *, but: int = 0, error: type[Exception] = PaidTwiceError
    ) -> None:
        """Embed documents again; raise the error if the model is asked for more than `but` of them."""
        before = len(self.asked)
        self.documents(texts)
        if len(self.asked) - before > but:
            raise error

    @property
    def files(self) -> list[Path]:
        """What the system keeps on disk."""
        kept = [path for path in sorted(self.directory.rglob("*")) if path.is_file()]
        if not kept or not self.kind.persistent or self.kind is peers.RedisVL:
            raise NotApplicableError
        return kept


def is_nan(vector: list[float]) -> bool:
    """Tell whether a vector has NaN in it."""
    return any(math.isnan(number) for number in vector)
