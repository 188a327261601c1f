"""Commands that only look: ls, stats, verify and doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kura_cache_adapters._cli.checkup import findings
from kura_cache_adapters._cli.options import (
    DEFAULT,
    AsJson,
    CacheAt,
    OlderThan,
    Quiet,
    UnusedFor,
    Within,
)
from kura_cache_adapters._cli.terminal import (
    TROUBLE,
    exit_codes,
    opened,
    print_json,
    print_lines,
    print_table,
)
from kura_cache_adapters._cli.words import ago, bytes_of, counted, duration, longer_ago

if TYPE_CHECKING:
    from kura_cache_adapters.cache import Cache
    from kura_cache_adapters.spaces import SpaceInfo

_SHOWN = ["space", "model", "entries", "size", "D", "written", "used"]


def show_spaces(spaces: list[SpaceInfo]) -> None:
    """Print spaces as a table, with their totals."""
    rows = [
        [
            each.name,
            each.identity.model_name,
            counted(each.entries),
            bytes_of(each.nbytes),
            counted(each.dimension),
            ago(each.newest_write),
            ago(each.last_use),
        ]
        for each in spaces
    ]
    entries, nbytes = sum(each.entries or 0 for each in spaces), sum(each.nbytes or 0 for each in spaces)
    print_table(_SHOWN, rows, f"{len(spaces)} spaces, {entries:,} entries, {bytes_of(nbytes)}")


def spaces_of(cache: Cache, model: str | None) -> list[SpaceInfo]:
    """Return the spaces that are called so, all for None, the largest first."""
    spaces = [each for each in cache.spaces() if model in {None, each.name, each.identity.model_name}]
    if model is not None and not spaces:
        message = f"there is no space or model {model!r}: ls names those that there are"
        raise ValueError(message)
    return sorted(spaces, key=lambda each: each.nbytes or 0, reverse=True)


def ls(
    cache: CacheAt = DEFAULT,
    model: Within = None,
    older_than: OlderThan = None,
    unused_for: UnusedFor = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the spaces of a cache, one for each model and its parameters, the largest first."""
    with opened(cache) as there:
        spaces = spaces_of(there, model)
        if older_than is not None:
            spaces = [each for each in spaces if longer_ago(each.newest_write, duration(older_than))]
        if unused_for is not None:
            spaces = [each for each in spaces if longer_ago(each.last_use, duration(unused_for))]
        if as_json:
            print_json("ls", spaces=spaces)
        elif quiet:
            print_lines(each.name for each in spaces)
        else:
            show_spaces(spaces)


def stats(cache: CacheAt = DEFAULT, model: Within = None, as_json: AsJson = False) -> None:
    """Say what entries were used for, over all processes: hit rates, texts and tokens saved."""
    with opened(cache) as there:
        rates = there.hit_rates()
        uses = {each.name: rates[each.identity] for each in spaces_of(there, model) if each.identity in rates}
        told = {
            name: {
                "texts": use.texts,
                "hits": use.hits,
                "hit_rate": use.hit_rate,
                "texts_saved": use.texts_saved,
                "tokens_saved": use.tokens_saved,
            }
            for name, use in uses.items()
        }
        if as_json:
            print_json("stats", spaces=told)
            return
        rows = [
            [name, f"{use.hit_rate:.1%}", *map(counted, (use.texts, use.texts_saved, use.tokens_saved))]
            for name, use in uses.items()
        ]
        print_table(["space", "hit rate", "texts", "texts saved", "tokens saved"], rows)


def verify(
    cache: CacheAt = DEFAULT,
    repair: Annotated[
        bool, typer.Option("--repair", help="Write files anew without damaged rows, and clear leftovers.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every checksum; ends with 1 where something is wrong that is not repaired now."""
    with opened(cache) as there:
        report = there.verify(repair=repair)
        if as_json:
            print_json("verify", sound=report.sound, spaces=report.spaces)
        else:
            counts = [
                [each.space, *map(counted, (each.rows, each.damaged, each.files, len(each.troubles)))]
                for each in report.spaces
            ]
            troubles = [
                f"{'repaired' if each.repaired else 'wrong'}: {each.where}: {each.why}"
                for each in report.troubles
            ]
            print_table(["space", "rows", "damaged", "files", "troubles"], counts, *troubles)
            print_lines(["All is well." if report.sound else "Not all is well: --repair mends what can be."])
        if not report.sound:
            raise typer.Exit(TROUBLE)


def doctor(cache: CacheAt = DEFAULT, as_json: AsJson = False) -> None:
    """Check the installation, and whether a cache can work where it is; ends with 1 where it cannot."""
    with exit_codes():
        found = findings(cache)
        if as_json:
            print_json("doctor", fine=all(each.fine for each in found), findings=found)
        else:
            rows = [["ok" if each.fine else "!!", each.what, each.found] for each in found]
            print_table(["", "what", "found"], rows)
        if not all(each.fine for each in found):
            raise typer.Exit(TROUBLE)
