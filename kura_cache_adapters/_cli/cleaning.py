"""Commands that take something away: prune, compact, rm and forget."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from kura_cache_adapters._cli.options import (
    DEFAULT,
    AsJson,
    CacheAt,
    DryRun,
    MaxSize,
    OlderThan,
    UnusedFor,
    Within,
    Yes,
)
from kura_cache_adapters._cli.seeing import show_spaces, spaces_of
from kura_cache_adapters._cli.terminal import (
    UNREACHABLE,
    confirm,
    opened,
    print_json,
    print_lines,
    print_table,
)
from kura_cache_adapters._cli.words import bytes_of, counted, duration, lines_of, size
from kura_cache_adapters.checks import keys_of
from kura_cache_adapters.spaces import CleaningReceipt

if TYPE_CHECKING:
    from kura_cache_adapters.cache import Cache
    from kura_cache_adapters.receipts import Receipt

_GOING = ["space", "model", "files", "entries", "size"]


def _show(command: str, receipt: CleaningReceipt, *, as_json: bool) -> None:
    if as_json:
        totals = {"parts": receipt.parts, "entries": receipt.entries, "nbytes": receipt.nbytes}
        print_json(command, dry_run=receipt.dry_run, spaces=receipt.spaces, **totals)
        return
    rows = [
        [
            each.name,
            each.identity.model_name,
            counted(each.parts),
            counted(each.entries),
            bytes_of(each.nbytes),
        ]
        for each in receipt.spaces
    ]
    verb = "would go" if receipt.dry_run else "went"
    files = f"{receipt.parts:,} files with {receipt.entries:,} entries"
    print_table(_GOING, rows, f"{files}, {bytes_of(receipt.nbytes)}, {verb}")


def prune(
    cache: CacheAt = DEFAULT,
    older_than: OlderThan = None,
    unused_for: UnusedFor = None,
    max_size: MaxSize = None,
    model: Within = None,
    remote: Annotated[
        str | None,
        typer.Option(
            "--remote", metavar="URL", help="Clean this object store instead, after a sync with it."
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Drop what is old, unused or too much, in whole files, the oldest first."""
    with opened(cache) as there:

        def pruned(*, dry_run: bool) -> CleaningReceipt:
            return there.prune(
                older_than=None if older_than is None else duration(older_than),
                unused_for=None if unused_for is None else duration(unused_for),
                max_bytes=None if max_size is None else size(max_size),
                model=model,
                remote=remote,
                dry_run=dry_run,
            )

        going = pruned(dry_run=True)
        if (going.parts or remote) and not dry_run:  # a sync may find more there
            if not as_json:
                _show("prune", going, as_json=False)
            confirm("Remove them?", yes=yes)
            going = pruned(dry_run=False)
        _show("prune", replace(going, dry_run=dry_run), as_json=as_json)


def compact(cache: CacheAt = DEFAULT, model: Within = None, as_json: AsJson = False) -> None:
    """Merge the files of spaces into few, without what is forgotten or left over."""
    with opened(cache) as there:
        _show("compact", there.compact(model=model), as_json=as_json)


def rm(
    space: Annotated[
        str | None, typer.Argument(metavar="SPACE", help="As ls names it, or its model's name.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All spaces.")] = False,
    cache: CacheAt = DEFAULT,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove a space, or all of a model's name."""
    with opened(cache) as there:
        if (space is None) != everything:
            message = "say which space, or --all"
            raise ValueError(message)
        doomed = spaces_of(there, space)
        if not as_json:
            show_spaces(doomed)
        if dry_run and as_json:
            print_json("rm", dry_run=True, spaces=doomed)
        if dry_run:
            return
        confirm("Remove them?", yes=yes)
        gone = CleaningReceipt(tuple(cleaned for each in doomed for cleaned in there.rm(each).spaces))
        _show("rm", gone, as_json=as_json)


def forget(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="KEY...", help="64 hexadecimal characters.")
    ] = None,
    file: Annotated[str | None, typer.Option("--file", help="Keys, one a line; - is standard input.")] = None,
    cache: CacheAt = DEFAULT,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Forget keys everywhere, to the last byte, with a receipt; ends with 3 if not all was reached."""
    with opened(cache) as there:
        doomed = [*(keys or ()), *([] if file is None else lines_of(file))]
        if not doomed:
            message = "say which keys, or --file; model.forget(texts) takes texts"
            raise ValueError(message)
        if dry_run:
            _show_held(_held(there, keys_of(doomed)), as_json=as_json)
            return
        confirm(f"Forget {len(doomed):,} keys?", yes=yes)
        receipt = there.forget(doomed)
        _show_receipt(receipt, as_json=as_json)
        if not receipt.complete:
            raise typer.Exit(UNREACHABLE)


def _held(cache: Cache, keys: list[bytes]) -> dict[str, int]:
    missing = {each.name: cache.missing(each, keys) for each in cache.spaces()}
    return {name: len({*keys}) - len(absent) for name, absent in missing.items()}


def _show_held(held: dict[str, int], *, as_json: bool) -> None:
    if as_json:
        print_json("forget", dry_run=True, spaces=held)
    else:
        print_table(["space", "of the keys"], [[name, counted(count)] for name, count in held.items()])


def _show_receipt(receipt: Receipt, *, as_json: bool) -> None:
    if as_json:
        print_json("forget", dry_run=False, receipt=receipt.as_dict())
        return
    print_lines([f"{receipt.there:,} of {len(receipt.keys):,} keys were there, and are forgotten"])
    print_lines(f"not reached: {each.where}: {each.why}" for each in receipt.unreachable)
