"""CallableEmbeddingModel: any function as an embedding model."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

from kura_cache_adapters._core.vectors import counted
from kura_cache_adapters._runtime import loop
from kura_cache_adapters._runtime.home import at_home
from kura_cache_adapters.identity import DOCUMENT, known_role
from kura_cache_adapters.protocols import BaseEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from kura_cache_adapters.identity import Role


class CallableEmbeddingModel(BaseEmbeddingModel):
    """Embed with any function from a list of texts to vectors, sync or async.

    A sync function runs in a worker thread, an async one on the loop that awaits.
    """

    runs_on = "anywhere"

    def __init__(
        self,
        fn: Callable[[list[str]], Any],
        *,
        model_name: str,
        roles: Mapping[Role, Callable[[list[str]], Any]] | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a function, and the functions of roles that are embedded by another one.

        Args:
            fn: embeds documents, and everything where there are no roles.
            model_name: what the vectors are found by.
            roles: the function of each role that differs, as in `{"query": embed_query}`.
            identity: what else, beside the name, changes the vectors.

        Raises:
            ValueError: a function for "document" among the roles: that is `fn`.

        """
        if DOCUMENT in (roles or {}):
            message = "roles are those beside 'document', which is embedded by fn"
            raise ValueError(message)
        self.model_name = model_name
        self.roles: tuple[Role, ...] = tuple(roles or ())
        self._functions = {DOCUMENT: fn, **(roles or {})}
        self._identity = dict(identity or {})

    def slug(self) -> str:
        """Return a name for people."""
        return f"callable:{self.model_name}"

    def identity(self) -> dict[str, Any]:
        """Return what the constructor was given."""
        return self._identity

    async def embed(self, texts: list[str], *, role: Role = "document") -> list[list[float]]:
        """Return what the role's function returns; raise ValueError for a role that has none."""
        function = self._functions[known_role(role, self.roles, self.model_name)]
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
