"""The options that several commands take, each in one place."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT = "./cache"

CacheAt = Annotated[
    str,
    typer.Option(
        "--cache", "-c", envvar="KURA_CACHE_DIR", help="A directory, or a URL as open_store() takes it."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Url = Annotated[
    str, typer.Argument(metavar="URL", help="s3://bucket/prefix, gs://, az:// or file:///directory.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print names alone, for pipes.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go; lock and change nothing.")]
Within = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME", help="Only this space, or all of this model's name."),
]
OlderThan = Annotated[
    str | None, typer.Option("--older-than", metavar="TIME", help="With nothing newer: 12h, 30d, 8w.")
]
UnusedFor = Annotated[
    str | None, typer.Option("--unused-for", metavar="TIME", help="With nothing found for so long.")
]
MaxSize = Annotated[
    str | None,
    typer.Option("--max-size", metavar="SIZE", help="Then the oldest, until 10GB are left."),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="openai:NAME, sentence-transformers:NAME, or module:attribute of your own.",
    ),
]
Keywords = Annotated[
    list[str] | None,
    typer.Option(
        "--param", "-p", metavar="NAME=VALUE", help="A keyword of the cache, as in its keys: batch_size=50."
    ),
]
Role = Annotated[str, typer.Option("--role", help="What the texts are embedded as.")]
Space = Annotated[str, typer.Argument(metavar="SPACE", help="As ls names it, or its model's name.")]
