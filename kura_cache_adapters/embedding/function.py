"""CallableEmbeddingModel: any function as an embedding model."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

from kura_cache_adapters._core.vectors import counted
from kura_cache_adapters._runtime import loop
from kura_cache_adapters._runtime.home import at_home
from kura_cache_adapters.protocols import BaseEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from kura_cache_adapters.identity import Role


class CallableEmbeddingModel(BaseEmbeddingModel):
    """Embed with any function from a list of texts to vectors, sync or async.

    A sync function runs in a worker thread, an async one on the loop that awaits. `query_fn` embeds
    queries where they differ, and `identity` says what else, beside the name, changes the vectors.
    """

    runs_on = "anywhere"

    def __init__(
        self,
        fn: Callable[[list[str]], Any],
        *,
        model_name: str,
        query_fn: Callable[[list[str]], Any] | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the function and the name that its vectors are found by."""
        self.model_name = model_name
        self.symmetric = query_fn is None
        self._functions = {"document": fn, "query": query_fn or fn}
        self._identity = dict(identity or {})

    def slug(self) -> str:
        """Return a name for people."""
        return f"callable:{self.model_name}"

    def identity(self) -> dict[str, Any]:
        """Return what the constructor was given."""
        return self._identity

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Embed documents; return what the function returns."""
        return await self._call("document", texts)

    async def embed_queries(self, texts: list[str]) -> list[list[float]]:
        """Embed search queries; return what the function returns."""
        return await self._call("query", texts)

    async def _call(self, role: Role, texts: list[str]) -> list[list[float]]:
        function = self._functions[role]
        if _is_async(function):
            answer = function(texts)
        else:
            answer = await loop.in_thread("model", function, texts)
        if inspect.isawaitable(answer):
            answer = await at_home(self._awaited(answer, len(texts)))
        return cast("list[list[float]]", answer)

    async def _awaited(self, answer: Awaitable[Any], asked: int) -> Sequence[Any]:
        return counted(await answer, asked, self.model_name)  # a copy, before another call is answered


def _is_async(function: Any) -> bool:  # noqa: ANN401 - of any kind that can be called
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
