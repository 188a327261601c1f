"""Commands that carry vectors from place to place: export, import, convert; push, pull and sync."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer

from kura_cache_adapters._cli.options import DEFAULT, AsJson, CacheAt, DryRun, Role, Space, Url, Within
from kura_cache_adapters._cli.terminal import exit_codes, opened, print_json, print_lines, print_table
from kura_cache_adapters._cli.words import bytes_of, counted, model_named, without_password
from kura_cache_adapters.cache import open_cache
from kura_cache_adapters.cached_embedding import CachedEmbeddingModel

if TYPE_CHECKING:
    from kura_cache_adapters._adopt.adopting import Adopted
    from kura_cache_adapters.receipts import SyncReceipt


def export(
    space: Space,
    file: Annotated[str, typer.Argument(help="A new .parquet, .jsonl or .npz file.")],
    cache: CacheAt = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Write the keys and vectors of a space to a file, which import takes anywhere."""
    with opened(cache) as there:
        entries = there.export_file(file, space)
        if as_json:
            print_json("export", file=file, entries=entries)
        else:
            print_lines([f"{entries:,} entries are in {file}"])


def import_(
    file: Annotated[str, typer.Argument(help="A file of export, or one with texts and vectors.")],
    cache: CacheAt = DEFAULT,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Which made them, where the file has texts.",
        ),
    ] = None,
    text: Annotated[str, typer.Option("--text", help="The column of the texts.")] = "text",
    vector: Annotated[str, typer.Option("--vector", help="The column of the vectors.")] = "embedding",
    role: Role = "document",
    check: Annotated[int, typer.Option("--check", help="Embed so many again first, and compare.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Store the vectors of a file."""
    with exit_codes():
        if model is None:
            with open_cache(cache) as there:
                adopted = there.import_file(file)
        else:
            with CachedEmbeddingModel(model_named(model), cache) as embedder:
                adopted = embedder.import_file(file, text=text, vector=vector, role=role, check=check)
        _show(adopted, as_json=as_json)


def _show(adopted: Adopted, *, as_json: bool) -> None:
    if as_json:
        print_json("import", adopted=adopted)
        return
    rest = f"{adopted.known:,} were known, {adopted.damaged:,} damaged"
    print_lines([f"{adopted.stored:,} of {adopted.texts:,} are stored; {rest}"])


def convert(
    target: Annotated[str, typer.Argument(help="Where to: a directory or URL, as parquet://./other.")],
    cache: CacheAt = DEFAULT,
    model: Within = None,
    as_json: AsJson = False,
) -> None:
    """Copy entries into another cache, of any format; what is there already is left alone."""
    with opened(cache) as there, open_cache(target) as other:
        entries, shown = there.copy_to(other, model=model), without_password(target)
        if as_json:
            print_json("convert", target=shown, entries=entries)
        else:
            print_lines([f"{entries:,} entries were copied to {shown}"])


def push(
    url: Url, cache: CacheAt = DEFAULT, model: Within = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Put what is new here into an object store; nothing there is changed or deleted."""
    with opened(cache) as there:
        _show_sync("push", there.push(url, model=model, dry_run=dry_run), as_json=as_json)


def pull(
    url: Url, cache: CacheAt = DEFAULT, model: Within = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Take what is new in an object store, each row checked."""
    with exit_codes(), open_cache(cache) as there:
        _show_sync("pull", there.pull(url, model=model, dry_run=dry_run), as_json=as_json)


def sync(
    url: Url, cache: CacheAt = DEFAULT, model: Within = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Do pull and push."""
    with exit_codes(), open_cache(cache) as there:
        _show_sync("sync", there.sync(url, model=model, dry_run=dry_run), as_json=as_json)


def _show_sync(command: str, receipt: SyncReceipt, *, as_json: bool) -> None:
    if as_json:
        print_json(command, **{each.name: getattr(receipt, each.name) for each in fields(receipt)})
        return
    rows = [
        [
            each.space,
            counted(each.pulled),
            bytes_of(each.pulled_bytes),
            counted(each.pushed),
            bytes_of(each.pushed_bytes),
        ]
        for each in receipt.spaces
    ]
    would = "would be " if receipt.dry_run else ""
    total = f"{receipt.pulled:,} files {would}pulled, {receipt.pushed:,} {would}pushed: {receipt.url}"
    print_table(["space", "pulled", "bytes", "pushed", "bytes"], rows, total)
    print_lines(f"refused: {each.where}: {each.why}" for each in receipt.refused)
