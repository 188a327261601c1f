"""The command keys: those of a space, or those of a file of texts."""

from __future__ import annotations

from typing import Annotated

import typer

from kura_cache_adapters._cli.options import DEFAULT, AsJson, CacheAt, Role
from kura_cache_adapters._cli.terminal import exit_codes, opened, print_json, print_lines
from kura_cache_adapters._cli.words import model_named
from kura_cache_adapters.cached_embedding import CachedEmbeddingModel


def keys(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SPACE|SOURCE",
            help="A space, as ls names it, or its model's name; with TARGET a file, as embed takes it.",
        ),
    ],
    target: Annotated[
        str | None,
        typer.Argument(help="A new .parquet file for all columns of SOURCE, and the keys of its texts."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="As embed takes it; a file needs one."),
    ] = None,
    cache: CacheAt = DEFAULT,
    column: Annotated[str, typer.Option("--column", help="The column of the texts.")] = "text",
    role: Role = "document",
    as_json: AsJson = False,
) -> None:
    """Print the keys of a space, 64 hexadecimal characters each; or write those of a file's texts."""
    if target is None:
        _print(source, cache, as_json=as_json)
    else:
        _write(source, target, model, column, role, as_json=as_json)


def _print(space: str, cache: str, *, as_json: bool) -> None:
    with opened(cache) as there:
        found = (key.hex() for key in there.keys(space))
        if as_json:
            print_json("keys", space=space, keys=[*found])
        else:
            print_lines(found)


def _write(source: str, target: str, model: str | None, column: str, role: str, *, as_json: bool) -> None:
    with exit_codes():
        if model is None:
            message = "say by --model whose keys they are to be"
            raise ValueError(message)
        rows = CachedEmbeddingModel(model_named(model)).keys_file(source, target, column=column, role=role)
        if as_json:
            print_json("keys", target=target, rows=rows)
        else:
            print_lines([f"{rows:,} rows with their keys are in {target}"])
