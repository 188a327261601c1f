"""FakeEmbeddingModel: vectors that are a function of the text, and faults on demand."""

from __future__ import annotations

import asyncio
from hashlib import shake_128
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kura_cache_adapters.identity import checked_roles, known_role
from kura_cache_adapters.protocols import BaseEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from numpy.typing import NDArray

    from kura_cache_adapters.identity import Role


class FakeEmbeddingModel(BaseEmbeddingModel):
    """Embed without a model: equal texts get equal vectors, different ones different vectors.

    `calls` holds the texts of each call. `fault` may be set at any time:

    - a function of the call's texts: it may raise, and what it returns is ignored;
    - "short", "long": one vector too few, one too many;
    - "reversed": the vectors in the wrong order, which no caller can notice by itself;
    - "stall": calls wait until `fault` is set to something else.
    """

    def __init__(
        self,
        model_name: str = "fake",
        *,
        dimension: int = 8,
        dtype: type[np.float32 | np.float64] = np.float32,
        roles: Collection[Role] = (),
    ) -> None:
        """Choose the vectors' dimension and dtype, and the roles that have vectors of their own."""
        self.model_name = model_name
        self.dimension = dimension
        self.dtype = dtype
        self.roles: tuple[str, ...] = checked_roles(roles, type(self).__name__)
        self.calls: list[list[str]] = []
        self.fault: Callable[[list[str]], object] | Literal["short", "long", "reversed", "stall"] | None
        self.fault = None

    def slug(self) -> str:
        """Return a name for people."""
        return f"fake:{self.model_name}"

    @property
    def texts(self) -> list[str]:
        """All texts that the model was asked for, in the order of asking."""
        return [text for call in self.calls for text in call]

    async def embed(self, texts: list[str], *, role: Role = "document") -> list[list[float]]:
        """Embed each text as what it is in its role."""
        return await self._answer(texts, role)

    def array(self, texts: Iterable[str], role: Role = "document") -> NDArray[Any]:
        """Return the vectors that the model gives, shape (N, D), without counting as a call."""
        role = known_role(role, self.roles, self.model_name)
        rows = [self._vector(text, role) for text in texts]
        return np.array(rows, self.dtype).reshape(-1, self.dimension)

    def lists(self, texts: Iterable[str], role: Role = "document") -> list[list[float]]:
        """Return the vectors that the model gives, as lists, without counting as a call."""
        vectors: list[list[float]] = self.array(texts, role).tolist()
        return vectors

    def _vector(self, text: str, role: Role) -> NDArray[Any]:
        seed = f"{self.model_name}\0{role}\0{text}".encode("utf-8", "surrogatepass")
        bits = np.frombuffer(shake_128(seed).digest(8 * self.dimension), "<u8")
        kept = 24 if self.dtype is np.float32 else 53
        unit: NDArray[Any] = np.ldexp((bits >> np.uint64(64 - kept)).astype(np.float64), 1 - kept) - 1
        return unit

    async def _answer(self, texts: list[str], role: Role) -> list[list[float]]:
        self.calls.append(list(texts))
        while self.fault == "stall":
            await asyncio.sleep(0.001)
        if callable(self.fault):
            self.fault(texts)
        vectors = self.lists(texts, role)
        match self.fault:
            case "short":
                return vectors[:-1]
            case "long":
                return [*vectors, *vectors[-1:]]
            case "reversed":
                return vectors[::-1]
        return vectors
