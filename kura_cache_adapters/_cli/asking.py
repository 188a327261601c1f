"""Commands that need a model: plan, explain and embed."""

from __future__ import annotations

from typing import Annotated

import typer

from kura_cache_adapters._cli.options import DEFAULT, AsJson, CacheAt, Keywords, Model, Role
from kura_cache_adapters._cli.terminal import TROUBLE, exit_codes, print_json, print_lines
from kura_cache_adapters._cli.words import cached_model, lines_of


def plan(
    file: Annotated[str, typer.Argument(help="Texts, one a line; - is standard input.")],
    model: Model,
    cache: CacheAt = DEFAULT,
    role: Role = "document",
    keywords: Keywords = None,
    price: Annotated[float | None, typer.Option("--price", help="Of a million tokens.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what embedding texts would find, send and cost; the model is not touched."""
    with exit_codes(), cached_model(model, cache, keywords) as there:
        told = there.plan(lines_of(file), role=role, price_per_million=price)
        if as_json:
            print_json("plan", plan=told)
        else:
            print_lines([str(told)])


def explain(
    text: Annotated[str, typer.Argument(help="The text.")],
    model: Model,
    cache: CacheAt = DEFAULT,
    role: Role = "document",
    keywords: Keywords = None,
    as_json: AsJson = False,
) -> None:
    """Say why a text is found, or is not; ends with 1 where it is not."""
    with exit_codes(), cached_model(model, cache, keywords) as there:
        told = there.explain(text, role=role)
        if as_json:
            print_json("explain", hit=told.hit, key=told.key, role=told.role, says=str(told))
        else:
            print_lines([str(told)])
        if not told.hit:
            raise typer.Exit(TROUBLE)


def embed(
    source: Annotated[str, typer.Argument(help="Parquet, JSONL, CSV, Arrow or text lines.")],
    target: Annotated[str, typer.Argument(help="A new .parquet, .jsonl or .npy file.")],
    model: Model,
    cache: CacheAt = DEFAULT,
    column: Annotated[str, typer.Option("--column", help="The column of the texts.")] = "text",
    role: Role = "document",
    keywords: Keywords = None,
    as_json: AsJson = False,
) -> None:
    """Embed a file's texts into another file; what is cached is not embedded again."""
    with exit_codes(), cached_model(model, cache, keywords, progress=not as_json) as there:
        there.embed_file_sync(source, target, column=column, role=role)
        if as_json:
            print_json("embed", target=target, stats=there.stats)
        else:
            print_lines([f"{target}: {there.stats}"])
