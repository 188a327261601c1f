"""Plan: what a call would find, send and cost, told before the model is touched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kura_cache_adapters._core.prices import price_of
from kura_cache_adapters._observe.bar import pictured
from kura_cache_adapters._observe.counters import CacheStats

if TYPE_CHECKING:
    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.calls import Bare, Cached
    from kura_cache_adapters._core.keys import Keys
    from kura_cache_adapters.identity import Role


@dataclass(frozen=True, slots=True)
class Plan:
    """What embedding these texts would take now; what is not known is None.

    Of `texts`, `cached` are found and `duplicates` are the same as another missing one; `missing`
    distinct ones would be sent to the model: `characters` of text, `tokens` as the source counts them, and
    their `cost` in the currency of the price.
    """

    texts: int
    cached: int
    duplicates: int
    missing: int
    characters: int
    tokens: int | None
    cost: float | None

    def __str__(self) -> str:
        """Say it in two lines."""
        tokens = "unknown" if self.tokens is None else f"{self.tokens:,}"
        cost = "unknown" if self.cost is None else f"{self.cost:,.2f}"
        if self.cost and self.cost < 1:
            cost = f"{self.cost:.2g}"
        found = f"texts: {self.texts:,}, cached: {self.cached:,}, repeated: {self.duplicates:,}"
        wanted = f"characters: {self.characters:,}, tokens: {tokens}, cost: {cost}"
        return f"{found}\nto embed: {self.missing:,}, {wanted}"

    def _repr_html_(self) -> str:
        counted = CacheStats(hits=self.cached, duplicates=self.duplicates, misses=self.missing)
        return pictured(type(self).__name__, str(self), counted)


def plan(
    source: Source,
    calls: Bare | Cached,
    texts: list[str],
    role: Role,
    price_per_million: float | None,
) -> Plan:
    """Look texts up and count what is missing; raise ValueError for a role that the model does not know."""
    keys = calls.keys()
    named = zip(keys(texts, role), calls.contains(texts, role), texts, strict=True)
    wanted = [(key, text) for key, found, text in named if not found]
    cached = len(texts) - len(wanted)
    missing = [*dict(wanted).values()] if calls.each_once else [text for _, text in wanted]
    counts = source.count_tokens(missing, role) if missing else []
    tokens = None if counts is None else sum(counts)
    return Plan(
        texts=len(texts),
        cached=cached,
        duplicates=len(texts) - cached - len(missing),
        missing=len(missing),
        characters=sum(map(len, missing)),
        tokens=tokens,
        cost=_cost(source, keys, tokens, price_per_million),
    )


def _cost(source: Source, keys: Keys, tokens: int | None, price_per_million: float | None) -> float | None:
    if not tokens:
        return None if tokens is None else 0.0
    if price_per_million is None:
        told = json.loads(keys.identity.source)
        address = told.get("base_url") or told.get("address")
        price_per_million = price_of(getattr(source.model, "model_name", source.name), address)
    return None if price_per_million is None else tokens * price_per_million / 1_000_000
