"""The command line `kura-cache`: words on a terminal, over `Cache` and `CachedEmbeddingModel`."""

from __future__ import annotations

import typer

from kura_cache_adapters._cli import asking, cleaning, keying, moving, seeing

app: typer.Typer = typer.Typer(
    help="See, foresee, explain, clean and move a cache of embeddings. None waits long for other processes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _command in (
    seeing.ls,
    seeing.stats,
    asking.plan,
    asking.embed,
    asking.explain,
    seeing.verify,
    cleaning.prune,
    cleaning.forget,
    cleaning.rm,
    cleaning.compact,
    moving.import_,
    moving.export,
    moving.convert,
    moving.push,
    moving.pull,
    moving.sync,
    keying.keys,
    seeing.doctor,
):
    app.command(_command.__name__.strip("_"))(_command)
