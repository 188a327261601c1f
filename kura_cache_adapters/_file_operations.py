"""What a cached model reads from files and writes to them, a base of the class."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kura_cache_adapters._adopt.files import TEXT, export_texts
from kura_cache_adapters._corpora.embedding import embed_file
from kura_cache_adapters._corpora.keying import keys_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from kura_cache_adapters._core.ahead import Ahead
    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.calls import Bare, Cached
    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.protocols import EmbeddingStore


class FileOperations:
    """The part of a cached model for files; what it works with is the model's."""

    _source: Source
    _calls: Bare | Cached
    _store: EmbeddingStore | None
    _ahead: Ahead

    def export_file(
        self, path: str | os.PathLike[str], texts: Iterable[str], *, role: Role = "document"
    ) -> int:
        """Write those of the texts that are cached, and their vectors, to a new file; return how many.

        It is a `.parquet`, `.jsonl` or `.npz` file (that one is made in memory), with the columns of
        `import_file`, and appears whole. `model.cache.export_file` writes all of a model, by their keys.

        Raises:
            ValueError: another ending; none of the texts is cached, or there is no cache.

        """
        return export_texts(self._store, self._calls.keys(), path, texts, role)

    async def embed_file(  # noqa: PLR0913 - each may matter
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        column: str = TEXT,
        batch: int = 4096,
        role: Role = "document",
        overwrite: bool = False,
    ) -> int:
        """Embed a file's texts into another file, some rows at a time; return how many rows that were.

        The source is read once before, to see that each row has a text. The target appears whole. Who is
        interrupted calls again: what is cached is not paid for again.

        Args:
            source: a `.parquet`, `.jsonl`, `.csv`, `.arrow` or `.feather` file, or a `.txt` file of lines.
            target: a `.parquet` or `.jsonl` file, which gets all columns and `embedding`, or an `.npy` file,
                which gets the matrix, shape (N, D). Numbers are float32, or float64 where they need it.
            column: the column of the texts; that of lines is "text".
            batch: rows in memory at a time.
            role: as `embed` takes it.
            overwrite: put it in the place of a target that is there.

        Raises:
            ValueError: another kind of file; no such column; a row without a text; no rows: nothing was
                spent then.
            FileExistsError: the target is there.

        """
        return await self._ahead.on_this_loop(
            partial(
                embed_file,
                source=source,
                target=target,
                column=column,
                batch=batch,
                role=role,
                overwrite=overwrite,
            )
        )

    def embed_file_sync(  # noqa: PLR0913 - as above
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        column: str = TEXT,
        batch: int = 4096,
        role: Role = "document",
        overwrite: bool = False,
    ) -> int:
        """Embed a file from sync code, see `embed_file`."""
        return embed_file(
            self._ahead, source, target, column=column, batch=batch, role=role, overwrite=overwrite
        )

    def keys_file(  # noqa: PLR0913 - each may matter
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        column: str = TEXT,
        batch: int = 32_768,
        role: Role = "document",
        overwrite: bool = False,
    ) -> int:
        """Write a file's rows with the keys of their texts, to join them with segments; return how many rows.

        Nothing is looked up or embedded. The target appears whole.

        Args:
            source: as `embed_file` takes it.
            target: a `.parquet` file, which gets all columns and `key`, 32 bytes (docs/joins.md).
            column: the column of the texts; that of lines is "text".
            batch: rows in memory at a time.
            role: what the texts would be embedded as.
            overwrite: put it in the place of a target that is there.

        Raises:
            ValueError: another kind of file; no such column; a row without a text; no rows.
            FileExistsError: the target is there.

        """
        keys = self._calls.keys()
        keys([], role)  # raises for what it does not know
        return keys_file(
            lambda texts: keys(texts, role),
            source,
            target,
            column=column,
            batch=batch,
            overwrite=overwrite,
        )
