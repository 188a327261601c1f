"""A sentence-transformers model is its live content: modules, weights, tokenizer and prompts.

A hub name, a path, a revision or a commit is only how it was found: equal content has equal fields.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kura_cache_adapters._identity import modules, tokenizers
from kura_cache_adapters._identity.watch import Watch
from kura_cache_adapters.errors import IdentityError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

NAME = "sentence-transformers"
"""What stands for a name in the key of a local model: its content tells it apart."""

CONTENT_VERSION = 1
"""Version of the rules below; it is part of every local model's identity."""

# Options of `encode` that say how, not what.
_TRANSPORT = frozenset(
    [
        "batch_size",
        "show_progress_bar",
        "convert_to_numpy",
        "convert_to_tensor",
        "device",
        "pool",
        "chunk_size",
    ]
)
_ENCODE_DEFAULTS = {
    "normalize_embeddings": False,
    "precision": "float32",
    "output_value": "sentence_embedding",
}


@dataclass(frozen=True, slots=True)
class Content:
    """What a local model is: `fields` decide every vector, the rest what `encode` adds to a text.

    `routes` says that it embeds by the task that it is given, as a model with a router does.
    """

    fields: dict[str, Any]
    prompts: dict[str, str]
    default_prompt_name: str | None
    truncate_dim: int | None
    routes: bool

    def to_json(self) -> str:
        """Write it as JSON, which `from_json` reads back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote; raise ValueError or TypeError for anything else."""
        return cls(**json.loads(text))

    def first_prompt(self, *names: str) -> str | None:
        """Return the first of these names that has a prompt: so `encode_query` and its twin choose."""
        return next((name for name in names if name in self.prompts), None)

    def encoding(
        self,
        options: Mapping[str, Any],
        *,
        task: str | None = None,
        prompt_name: str | None = None,
    ) -> dict[str, Any]:
        """Tell what `encode` with these options does to a text and its vector, defaults left out.

        Raises IdentityError for a precision that depends on the other texts of a batch.
        """
        told = {name: value for name, value in options.items() if name not in _TRANSPORT}
        prompt, name = told.pop("prompt", None), told.pop("prompt_name", None) or prompt_name
        if prompt is None:
            prompt = self.prompts.get(name or self.default_prompt_name or "")
        dimension = told.pop("truncate_dim", None) or self.truncate_dim
        told |= {"prompt": prompt, "truncate_dim": dimension, "task": task if self.routes else None}
        if (precision := told.get("precision")) in {"int8", "uint8"}:
            what, cure = f"precision={precision!r}", 'Use "float32" or "binary", or no cache.'
            raise IdentityError(what, "depends on the other texts of a batch", cure)
        return {
            name: value
            for name, value in told.items()
            if value is not None and value != "" and value != _ENCODE_DEFAULTS.get(name)
        }


def is_local_model(thing: object) -> bool:
    """Tell whether a thing is a loaded SentenceTransformer."""
    return any(
        kind.__name__ == "SentenceTransformer" and kind.__module__.startswith("sentence_transformers.")
        for kind in type(thing).__mro__
    )


def content(model: Any) -> Content:  # noqa: ANN401 - a SentenceTransformer
    """Read what a loaded model is; remembered for as long as it does not change.

    Raises IdentityError for what cannot be read: weights that are not in memory, code of the user's
    own inside the model, a release of a library that no longer says what decides.
    """
    return _known(model).content(model)


def state(model: Any) -> object:  # noqa: ANN401 - a SentenceTransformer
    """Return what is equal as long as a loaded model is unchanged: 40 us for MiniLM."""
    return _known(model).state(model)


class _Known:
    """What is known of one model, for as long as nothing of it changes."""

    __slots__ = ("_content", "_rules", "_watch", "_weights")

    def __init__(self) -> None:
        self._watch = Watch()
        self._content: tuple[object, Content] | None = None
        self._weights: tuple[object, str] | None = None
        self._rules: tuple[object, Any] | None = None

    def state(self, model: Any) -> tuple[object, ...]:  # noqa: ANN401
        return self._watch.weights(model), self._settings(model)

    def content(self, model: Any) -> Content:  # noqa: ANN401
        while True:
            before = self.state(model)
            if self._content is None or self._content[0] != before:
                found = self._read(model, before)
                if self.state(model) != before:  # it is being trained
                    continue
                self._content = before, found
            return self._content[1]

    def _settings(self, model: Any) -> list[object]:  # noqa: ANN401
        tokenizer = modules.tokenizer_of(model)
        return [
            _rules_at_a_glance(tokenizer),
            model.truncate_dim,
            model.max_seq_length,
            model.default_prompt_name,
            [*model.prompts.items()],
            *self._watch.settings(),
            len(vars(model)),
            *map(_route_at_a_glance, modules.routed(model)),
            *tokenizers.sides(tokenizer),
        ]

    def _read(self, model: Any, state: tuple[object, ...]) -> Content:  # noqa: ANN401
        if self._weights is None or self._weights[0] != state[0]:
            self._weights = state[0], modules.digest_of_weights(model)
        tokenizer = modules.tokenizer_of(model)
        if self._rules is None or self._rules[0] != _rules_at_a_glance(tokenizer):
            self._rules = _rules_at_a_glance(tokenizer), tokenizers.digest_of_rules(tokenizer)
        routes = [_route(module) for module in modules.routed(model)]
        fields = {
            "content": CONTENT_VERSION,
            "weights": self._weights[1],
            **modules.described(model),
            "tokenizer": {"rules": self._rules[1], **dict(tokenizers.sides(tokenizer))},
            "max_seq_length": _finite(model.max_seq_length),
        } | ({"routes": routes} if routes else {})
        by_task = any(modules.routes(module) for module in model.modules())
        return Content(fields, dict(model.prompts), model.default_prompt_name, model.truncate_dim, by_task)


def _route(module: Any) -> dict[str, Any]:  # noqa: ANN401 - what reads texts on one route
    rules = tokenizers.digest_of_rules(module.tokenizer)
    longest = _finite(getattr(module, "max_seq_length", None))
    return {"rules": rules, **dict(tokenizers.sides(module.tokenizer)), "max_seq_length": longest}


def _route_at_a_glance(module: Any) -> list[object]:  # noqa: ANN401
    tokenizer = module.tokenizer
    longest = getattr(module, "max_seq_length", None)
    return [_rules_at_a_glance(tokenizer), tokenizers.sides(tokenizer), longest]


def _finite(longest: float | None) -> float | None:
    return longest if longest is None or math.isfinite(longest) else None


def _rules_at_a_glance(tokenizer: object) -> object:
    return tokenizers.words(tokenizer), tokenizers.steps(tokenizer)


def _known(model: object) -> _Known:
    return _all_known.setdefault(model, _Known())


_all_known: WeakKeyDictionary[object, _Known] = WeakKeyDictionary()
