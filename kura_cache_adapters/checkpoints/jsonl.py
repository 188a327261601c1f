"""JSONLCheckpointManager: one JSON object a line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import atomic, reading
from kura_cache_adapters.checkpoints.base import FileCheckpointManager
from kura_cache_adapters.stores import JSONLStore

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kura_cache_adapters.checkpoints.kura_format import Fields


class JSONLCheckpointManager(FileCheckpointManager):
    """Keep checkpoints as `<name>.jsonl`, UTF-8, one model a line."""

    suffix = ".jsonl"

    def open_store(self) -> JSONLStore:
        """Open the vector store below this directory."""
        return JSONLStore(self.checkpoint_dir, shared=self.shared)

    def _write(self, path: Path, records: list[Fields]) -> None:
        with atomic.create(path, shared=self.shared) as file:
            for fields in records:
                file.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")

    def _read(self, path: Path) -> Iterable[bytes]:
        return reading.read_file(path).splitlines()
