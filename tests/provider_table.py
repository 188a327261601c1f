"""Renders the table of docs/identity.md from the records: python -m tests.provider_table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kura_cache_adapters._identity.providers import RECORDS

if TYPE_CHECKING:
    from kura_cache_adapters._identity.record import Provider

PAGE = Path(__file__).parents[1] / "docs" / "identity.md"
BEGIN, END = "<!-- providers: written by python -m tests.provider_table -->", "<!-- end of providers -->"


def table() -> str:
    """Return the table as Markdown."""
    head = [
        "| embedder | in every key | queries' only | documents' only | queries as documents | refused |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(row(name, record) for name, record in sorted(RECORDS.items()))])


def row(name: str, record: Provider) -> str:
    package, _, kind = name.partition(":")
    cells = [f"`{kind}` of `{package}`", *(told(record) if not record.around else beneath(record))]
    return f"| {' | '.join(cells)} |"


def beneath(record: Provider) -> list[str]:
    return [f"what is in `{record.around}`", "", "", "as that", ""]


def told(record: Provider) -> list[str]:
    refused = "" if record.refuses.__name__ == "nothing" else words(record.refuses, "Refuse ")
    if record.local:
        alike = "if encoded alike"
        decides = "the live model (weights, modules, tokenizer, prompts) and how it encodes"
        return [decides, "how it encodes queries", "", alike, refused]
    decides = listed(f"{record.name} {record.decides}")
    adds = [what for what, named in asks(record).items() if named]
    whole = ", ".join(part for part in (decides, *adds) if part)
    if record.inner:
        whole = f"what is in `{record.inner}`"
    told_apart = "no" if record.alike.__name__ == "never" else words(record.alike, "Tell whether ", "if ")
    alike = told_apart if record.roles else "yes"
    return [whole, listed(record.queries), listed(record.documents), alike, refused]


def asks(record: Provider) -> dict[str, str]:
    return {
        "the address": record.addresses,
        "headers": record.headers,
        "the URL's parameters": record.parameters,
    }


def listed(names: str) -> str:
    return ", ".join(f"`{name.rstrip('?').rpartition('.')[2]}`" for name in names.split())


def words(rule: object, verb: str, instead: str = "") -> str:
    return f"{instead}{(rule.__doc__ or '').partition(chr(10))[0].removeprefix(verb).rstrip('.')}"


def main() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}")


if __name__ == "__main__":
    main()
