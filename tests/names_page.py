"""The page of public names, made of their docstrings: `python -m tests.names_page` writes it anew."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import kura_cache_adapters

PAGE = Path(__file__).parents[1] / "docs" / "names.md"
_BEGIN, _END = "<!-- names: begin -->", "<!-- names: end -->"

# Titles, and where the names below them are at home.
_SECTIONS = {
    "Models and adapters": "cached_embedding embedding langchain llama_index options",
    "Caches and stores": "cache stores _guard.breaker stores.records",
    "Checkpoint managers": "checkpoints",
    "Kura": "kura",
    "Engines": "integrations.batches integrations.ray integrations.joins",
    "What is answered": "_core.plan _core.explain _adopt.adopting _observe.uses receipts spaces identity",
    "What is counted and told": "_observe.counters _observe.tiers _observe.events",
    "What is raised": "errors",
    "Contracts": "protocols",
    "For stores and tests of your own": "stores.key_value checks testing",
}
# Public by their spelling, and nobody's business.
_OURS = {"as_store", "checked_role", "checked_roles", "check_keywords", "known_role", "one_cache", "require"}
_OURS |= {"reached_from_anywhere", "import_dimensionality"}
_ALIASES = {
    "Event": "`LookedUp`, `Embedded`, `Stored`, `Failed` or `Guarded`.",
    "ModelT": "Any pydantic model, in the types of managers.",
    "Vectors": "The type of vectors: arrays of float32 or float64.",
}


def _names(home: str) -> list[str]:
    module = import_module(f"kura_cache_adapters.{home}")
    own = {name for name, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__}
    names = {*getattr(module, "__all__", own | {*_ALIASES} & {*vars(module)})} - _OURS
    if home.startswith("_") or home == "stores.records":  # of these rooms only what the root has
        names &= {*dir(kura_cache_adapters)}
    return sorted(name for name in names if not name.startswith("_"))


def _row(home: str, name: str) -> str:
    rooted = name in dir(kura_cache_adapters) and home != "kura"
    thing = getattr(import_module(f"kura_cache_adapters.{home}"), name)
    says = _ALIASES.get(name) or (inspect.getdoc(thing) or "").partition("\n\n")[0]
    where = name if rooted else f"{home}.{name}"
    return f"| `{where}` | {' '.join(says.split()).replace('|', chr(92) + '|')} |"


def written(page: str) -> str:
    """Return the page with all names between its marks."""
    blocks = []
    for title, homes in _SECTIONS.items():
        rows = [_row(home, name) for home in homes.split() for name in _names(home)]
        blocks.append("\n".join([f"## {title}", "", "| | |", "| --- | --- |", *dict.fromkeys(rows)]))
    before, rest = page.split(_BEGIN)
    return before + _BEGIN + "\n\n" + "\n\n".join(blocks) + "\n\n" + _END + rest.split(_END)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
