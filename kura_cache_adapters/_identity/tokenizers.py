"""What a local model's tokenizer does to a text: its rules and words, and the sides that it cuts."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from kura_cache_adapters._identity.modules import attributes_of, unreadable, written
from kura_cache_adapters._identity.origin import class_path, is_installed
from kura_cache_adapters._identity.watch import plain


def words(tokenizer: Any) -> tuple[int, int]:  # noqa: ANN401
    """Tell which tokenizer it is, and how many words it has now."""
    return id(tokenizer), len(tokenizer) if hasattr(tokenizer, "__len__") else 0


def sides(tokenizer: Any) -> list[tuple[str, object]]:  # noqa: ANN401
    """Return a tokenizer's plain settings that decide what is left of a text."""
    names = ("truncation_side", "padding_side", "split_special_tokens", "do_lower_case")
    given = getattr(tokenizer, "model_input_names", None)  # what the model is handed of a text
    told = [(name, getattr(tokenizer, name, None)) for name in names]
    return [*told, ("model_input_names", None if given is None else [*given])]


def steps(tokenizer: Any) -> list[str]:  # noqa: ANN401
    """Write down a fast tokenizer's steps, which may be exchanged in place; a long one is cut short."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    return [repr(getattr(backend, name, None)) for name in ("normalizer", "pre_tokenizer", "post_processor")]


def digest_of_rules(tokenizer: Any) -> Any:  # noqa: ANN401
    """Digest a tokenizer's rules and words, without what changes as it is used."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        rules: Any = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    elif hasattr(tokenizer, "get_vocab"):
        rules = [class_path(tokenizer), tokenizer.get_vocab(), dict(plain(tokenizer.init_kwargs))]
    elif is_installed(type(tokenizer).__module__):
        rules = [class_path(tokenizer), attributes_of(tokenizer)]
    else:
        why = f"has a {type(tokenizer).__name__} of your own, which may change"
        raise unreadable(why)
    return sha256(json.dumps(rules, sort_keys=True, default=written).encode()).hexdigest()
