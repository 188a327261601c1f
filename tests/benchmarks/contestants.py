"""Who takes part in which path, opened and filled."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any

from kura_cache_adapters import CacheOptions
from tests import peers
from tests.peers import PEERS, Ours, System

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.timing import Row, Work

PEERS_UP_TO = 10_000  # more would take an hour
CHUNK = 256


class ZstdParquet(Ours):
    """A `ParquetStore` whose files are compressed."""

    name = "ours (Parquet, zstd)"

    def cache(self) -> Any:
        from kura_cache_adapters import ParquetStore

        return ParquetStore(self.directory, compression="zstd")


class AsArrays(peers.Arrow):
    """An `ArrowStore`, asked for arrays."""

    name = "ours (Arrow), arrays"

    def documents(self, texts: list[str]) -> Any:
        return self.model.embed_array_sync(texts)


STORES: list[type[Ours]] = [peers.Arrow, peers.Parquet, ZstdParquet, peers.JSONL, peers.HFDataset]
FAST: list[type[Ours]] = [*STORES, peers.Memory, peers.Tiers]
ADAPTERS: list[type[Ours]] = [peers.OursInLangChain, peers.OursInLlamaIndex]
# These are asked for what they have and told what they lack; LangChain and LlamaIndex make batches.
UNBATCHED = (peers.RedisVL, peers.DiskCache)


def present(directory: Path) -> tuple[list[type[System]], dict[str, str]]:
    """Return the systems that can be opened here, and why the others cannot."""
    reasons = {system: _reason(system, directory) for system in [*FAST, *ADAPTERS, *PEERS]}
    absent = {system.name: reason for system, reason in reasons.items() if reason is not None}
    return [system for system, reason in reasons.items() if reason is None], absent


def _reason(system: type[System], directory: Path) -> str | None:
    with TemporaryDirectory(dir=directory) as room:
        return peers.reachable(system, Path(room))


def is_ours(system: type[System]) -> bool:
    """Tell whether a system is ours."""
    return issubclass(system, Ours)


def entering(found: list[type[System]], count: int) -> list[type[System]]:
    """Return who takes part at a size: the peers only where it is small."""
    return [system for system in found if is_ours(system) or count <= PEERS_UP_TO]


def start(one: System, work: Work, *, durable: bool, lists: bool) -> None:
    """Open a system around a model that answers with arrays or lists."""
    parameters = {"options": CacheOptions(durable=durable, chunk_size=CHUNK)} if isinstance(one, Ours) else {}
    one.open(work.lists if lists else work.arrays, "instant", **parameters)


def embed(one: System, texts: list[str]) -> Any:
    """Embed texts in batches where a system makes none itself."""
    if not isinstance(one, UNBATCHED):
        return one.documents(texts)
    slices = [texts[at : at + CHUNK] for at in range(0, len(texts), CHUNK)]
    return [vector for some in slices for vector in one.documents(some)]


@contextmanager
def room_in(directory: Path) -> Iterator[Path]:
    """Yield a new directory; stop what runs for it in the end, and remove it."""
    room = Path(mkdtemp(dir=directory))
    try:
        yield room
    finally:
        peers.stop(room)
        shutil.rmtree(room)


class Filled(ExitStack):
    """Systems that have been filled, closed as at a program's end, measured on disk and opened again."""

    def __init__(self, work: Work, texts: list[str], directory: Path) -> None:
        super().__init__()
        self.sizes: list[Row] = []
        self.work, self.texts, self.directory = work, texts, directory
        self.open: dict[str, System] = {}

    def add(self, system: type[System], *, durable: bool = False) -> None:
        """Fill a system and let it take part."""
        room = self.enter_context(room_in(self.directory))
        one = system(room)
        start(one, self.work, durable=durable, lists=not is_ours(system))
        embed(one, self.texts)
        one.close()
        self._weigh(system, room)
        start(one, self.work, durable=durable, lists=not is_ours(system))
        self.callback(one.close)
        embed(one, self.texts)  # what a first look-up opens is no matter here
        self.open[f"{system.name}, fsync" if durable else system.name] = one

    def _weigh(self, system: type[System], room: Path) -> None:
        if not system.persistent or system in {*ADAPTERS, peers.Tiers}:
            return
        if system is peers.RedisVL:
            peers.RedisVL._servers[room].save()
        size = on_disk(room)
        raw = 4 * len(self.texts) * self.work.dimension
        self.sizes.append(
            {
                "count": self.work.count,
                "dimension": self.work.dimension,
                "system": system.name,
                "bytes": size,
                "relative": size / raw,
            },
        )


def on_disk(directory: Path) -> int:
    """Return the bytes that the files below a directory take: whole blocks."""
    return sum(file.stat().st_blocks * 512 for file in directory.rglob("*") if file.is_file())
