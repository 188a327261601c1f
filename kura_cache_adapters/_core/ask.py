"""One way to ask any embedding model: an async stream of counted answers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._core.vectors import counted
from kura_cache_adapters._identity.secrets import deciding_headers, deciding_query, plain_url
from kura_cache_adapters._runtime import home
from kura_cache_adapters._runtime.detached import stop_if_left
from kura_cache_adapters._runtime.home import each_at_home, each_away
from kura_cache_adapters._runtime.loop import in_thread
from kura_cache_adapters._runtime.series import stop_if_series_is_left
from kura_cache_adapters.errors import VectorCountError
from kura_cache_adapters.identity import DOCUMENT, ModelIdentity, checked_role, checked_roles, known_role
from kura_cache_adapters.protocols import (
    BaseEmbeddingModel,
    CountsTokens,
    HasIdentity,
    MayChange,
    StreamsBatches,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from kura_cache_adapters.identity import Role

    _Answers = AsyncGenerator[tuple[Sequence[int], Sequence[Any]], None]


class Unpaid(list[int]):
    """Positions whose vectors are from elsewhere: the model was not asked for them."""


class Source:
    """A model behind its optional abilities: streaming, sync methods, roles, a changing identity."""

    def __init__(
        self,
        model: BaseEmbeddingModel,
        model_name: str | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a model; raise ValueError if it has no name.

        `model_name` stands in for its name, `identity` for all else that it says of itself.
        """
        name = getattr(model, "model_name", None) if model_name is None else model_name
        if not isinstance(name, str) or not name:
            message = (
                f"{type(model).__name__} has no model_name: set the attribute to a string that "
                "names the model and its version, since cached vectors are found by it."
            )
            raise ValueError(message)
        self.model = model
        self.name = str(name)
        self._renamed = model_name
        self._given = identity
        self._changes = model if isinstance(model, MayChange) and identity is None else None
        self._edit: Callable[[str], str] | None = getattr(model, "asked_for", None)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that the model tells apart, beside "document"; none where it embeds all alike.

        Raises TypeError if it says something else than several strings.
        """
        return checked_roles(getattr(self.model, "roles", ()), type(self.model).__name__)

    def identity(self, parameters: Mapping[str, Any]) -> ModelIdentity:
        """Build the model's identity from its name, its own declaration and key parameters."""
        if self._given is not None:
            return ModelIdentity.of(self.name, parameters, self._given)
        declared = self.model.identity() if isinstance(self.model, HasIdentity) else _of_kuras(self.model)
        if isinstance(declared, ModelIdentity):  # a cache, or what stands for one: no second key
            named = declared if self._renamed is None else replace(declared, model_name=self._renamed)
            return named.with_parameters(parameters)
        fields = dict(declared)
        roles = fields.pop("roles", None)
        return ModelIdentity.of(self.name, parameters, fields, roles)

    @property
    def answers_as(self) -> str:
        """The name under which the model's server answers; empty if it is not known, or not compared."""
        return "" if self._given is not None else getattr(self.model, "answers_as", "")

    def expect(self, name: str) -> None:
        """Tell the model under which name its server has answered for this cache before."""
        if name and self._given is None and getattr(self.model, "answers_as", None) == "":
            self.model.answers_as = name  # type: ignore[attr-defined] # it has one

    def state(self) -> object:
        """Return what is equal for as long as the identity is."""
        return None if self._changes is None else self._changes.state()

    def prepare(self) -> None:
        """Load what embeds."""
        if self._changes is not None:
            self._changes.prepare()

    @property
    def may_change(self) -> bool:
        """Whether the identity may change, or is to be looked at once the model is loaded."""
        return self._changes is not None

    def edited(self, texts: list[str]) -> list[str]:
        """Return the texts as the model embeds them: what it edits away makes no other key."""
        return texts if self._edit is None else [*map(self._edit, texts)]

    def role(self, role: Role) -> Role:
        """Return the role as the model sees it, see `known_role`; raise ValueError if it has none such."""
        if checked_role(role) == DOCUMENT:
            return DOCUMENT  # without asking for its roles, which may take reading the model
        return known_role(role, self.roles, self.name)

    def count_tokens(self, texts: list[str], role: Role) -> list[int] | None:
        """Count the tokens of each text, without asking the model; None where it does not."""
        if not isinstance(self.model, CountsTokens):
            return None
        role = self.role(role)
        return self.model.count_tokens(texts, **({} if role == DOCUMENT else {"role": role}))

    def ask(
        self,
        texts: list[str],
        role: Role,
        chunk_size: int,
    ) -> _Answers:
        """Yield (positions in texts, one vector each) until every text has its vector.

        Raises VectorCountError for an answer that leaves texts out or has too many vectors, and
        whatever the model raises. The model runs where it belongs.
        """
        place = self._place()
        if not isinstance(self.model, StreamsBatches):
            answers = self._chunks(texts, role, chunk_size, at_home=place == "caller")
            return each_away(answers) if place == "background" else answers
        answers = self._batches(texts, role)
        match place:
            case "caller":
                return each_at_home(answers)
            case "background":
                return each_away(answers)
            case _:
                return answers

    def _place(self) -> str:
        in_thread = hasattr(self.model, "embed_sync")
        async_too = isinstance(self.model, StreamsBatches) or not in_thread
        place: str = getattr(self.model, "runs_on", "caller" if async_too else "anywhere")
        return place

    async def _batches(self, texts: list[str], role: Role) -> _Answers:
        stream = self.model.embed_batches(texts, role=self.role(role))  # type: ignore[attr-defined] # it streams
        async with aclosing(stream) as batches:
            left = set(range(len(texts)))
            async for positions, answer in batches:
                vectors = counted(answer, len(positions), self.name)
                self._take(left, positions, len(texts))
                yield positions, vectors
        if left:
            raise VectorCountError(self.name, len(texts), len(texts) - len(left))

    async def _chunks(self, texts: list[str], role: Role, size: int, *, at_home: bool) -> _Answers:
        for start in range(0, len(texts), size):
            chunk = texts[start : start + size]
            stop_if_left()
            stop_if_series_is_left(self.name)
            answer = self._counted(chunk, role)
            yield range(start, start + len(chunk)), await (home.at_home(answer) if at_home else answer)

    async def _counted(self, texts: list[str], role: Role) -> Sequence[Any]:
        return counted(await self.embed(texts, role), len(texts), self.name)

    async def embed(self, texts: list[str], role: Role) -> Any:  # noqa: ANN401 - whatever the model returns
        """Ask for all texts at once and return the model's answer as it is."""
        role = self.role(role)
        told = {} if role == DOCUMENT else {"role": role}
        if sync := getattr(self.model, "embed_sync", None):
            return await in_thread("model", partial(sync, texts, **told))
        return await self.model.embed(texts, **told)

    def _take(self, left: set[int], positions: Sequence[int], asked: int) -> None:
        before = len(left)
        left.difference_update(positions)
        if before - len(left) != len(positions):
            raise VectorCountError(self.name, asked, "one text's vector twice")


def _of_kuras(model: object) -> dict[str, Any]:
    """Read what the names of Kura's own models leave out: Cohere's input type, what OpenAI's client adds."""
    client, input_type = getattr(model, "client", None), getattr(model, "input_type", None)
    address = getattr(client, "base_url", None)
    fields = {
        "input_type": input_type if isinstance(input_type, str) else "",
        "base_url": "" if address is None else plain_url(str(address)),
        "query": deciding_query(_added(client, "default_query")),
        "headers": deciding_headers(_added(client, "default_headers")),
    }
    return {name: value for name, value in fields.items() if value}


def _added(client: object, name: str) -> dict[str, Any]:
    """Return what an OpenAI client adds to each request; nothing for clients of another kind."""
    told = getattr(client, name, None)
    if not isinstance(told, Mapping):
        return {}
    return {key: value for key, value in told.items() if isinstance(value, (str, int, float))}
