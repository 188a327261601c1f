"""The paths: all hits, one text, most hits, cold fills."""

from __future__ import annotations

import os
import time
from functools import partial
from itertools import count as counter
from statistics import median
from typing import TYPE_CHECKING, Any

from tests import peers
from tests.benchmarks.contestants import (
    ADAPTERS,
    STORES,
    AsArrays,
    Filled,
    embed,
    entering,
    is_ours,
    room_in,
    start,
)
from tests.benchmarks.timing import FLOOR, corpus, measured, timed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.benchmarks.timing import Contestants, Row, Work
    from tests.peers import System

PATHS = {
    "arrays": "All hits as arrays; floor: SHA-256 and gather",
    "lists": "All hits as lists; floor: SHA-256, gather and tolist",
    "again": "The same texts again, with memory in front, as arrays; floor: SHA-256 and gather",
    "one": "One text as a list, a hit, p50; floor: SHA-256, one row and tolist",
    "durable": "Cold fill with fsync after each 256; floor: SHA-256, append to one file, fsync",
    "fill": "Cold fill without fsync; floor: SHA-256, append to one file",
    "most": "90% hits as lists; floor: SHA-256, gather, tolist, append the rest to one file",
}
LISTS_UP_TO = 40_000_000  # floats: as lists they take 32 bytes each
ASKED = 100  # single texts in a round
MOSTLY: list[type[System]] = [peers.Arrow, peers.LangChainFiles, peers.LlamaIndexCache]


def hits(
    work: Work, found: list[type[System]], directory: Path, *, rounds: int
) -> tuple[list[Row], list[Row]]:
    """Measure finding everything, and one text; return the rows, and what is on disk."""
    with Filled(work, work.texts, directory) as filled:
        for system in entering(found, work.count):
            filled.add(system)
        asked = work.asked
        rows = [
            *measured("arrays", _arrays(filled, [*STORES, peers.Memory]), work, rounds=rounds),
            *measured("again", _arrays(filled, [peers.Tiers, peers.Arrow]), work, rounds=rounds),
            *measured("one", _ones(filled), work, rounds=rounds, per=1),
        ]
        if work.matrix.size <= LISTS_UP_TO:
            rows += measured("lists", _lists(filled), work, rounds=rounds)
        assert work.asked == asked, "not everything was a hit"
    return rows, filled.sizes


def _arrays(filled: Filled, those: list[type[peers.Ours]]) -> Contestants:
    work = filled.work
    entrants: Contestants = {FLOOR: partial(timed, work.floor_arrays)}
    for name, one in filled.open.items():
        if isinstance(one, peers.Ours) and type(one) in those:
            entrants[name] = partial(timed, partial(one.model.embed_array_sync, work.texts))
    return entrants


def _lists(filled: Filled) -> Contestants:
    work = filled.work
    entrants: Contestants = {FLOOR: partial(timed, work.floor_lists)}
    for name, one in filled.open.items():
        entrants[name] = partial(timed, partial(one.documents, work.texts))
    return entrants


def _ones(filled: Filled) -> Contestants:
    """Ask all by the way of documents: LangChain's caches no queries."""
    work = filled.work
    some = work.texts[:ASKED]
    entrants: Contestants = {FLOOR: partial(_p50, partial(_floor_one, work), some)}
    for name, one in filled.open.items():
        entrants[name] = partial(_p50, one.documents, some)
    return entrants


def _floor_one(work: Work, texts: list[str]) -> Any:
    work.hash(texts)
    return work.matrix[work.rows(texts)].tolist()


def _p50(call: Callable[[list[str]], Any], texts: list[str]) -> float:
    seconds = []
    for text in texts:
        started = time.perf_counter()
        call([text])
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def fills(work: Work, found: list[type[System]], directory: Path, *, rounds: int) -> list[Row]:
    """Measure filling new caches, with fsync (ours: no peer does that) and without (all)."""
    those = [system for system in entering(found, work.count) if system not in {*ADAPTERS, peers.Tiers}]
    entrants = [(name, one) for one in those for name in _answers(one, work)]
    durable = [(name, one) for name, one in entrants if issubclass(one, tuple(STORES))]
    return [
        *measured("durable", _fills(durable, work, directory, durable=True), work, rounds=rounds),
        *measured("fill", _fills(entrants, work, directory, durable=False), work, rounds=rounds),
    ]


def _answers(system: type[System], work: Work) -> list[str]:
    """Return a name for each kind of answer: peers cannot store arrays, ours is asked for both."""
    if not is_ours(system):
        return [system.name]
    compared = system is peers.Arrow and work.matrix.size <= LISTS_UP_TO
    return [system.name, *[f"{system.name}, model returns lists"] * compared]


def _fills(
    entrants: list[tuple[str, type[System]]], work: Work, directory: Path, *, durable: bool
) -> Contestants:
    if work.matrix.size <= LISTS_UP_TO:
        work.prepare()
    contestants: Contestants = {FLOOR: partial(_floor_fill, work, directory, durable=durable)}
    for name, system in entrants:
        lists = name.endswith("lists") or not is_ours(system)
        contestants[name] = partial(_fill, system, work, directory, durable=durable, lists=lists)
    return contestants


def _fill(system: type[System], work: Work, directory: Path, *, durable: bool, lists: bool) -> float:
    with room_in(directory) as room:
        one = system(room)
        start(one, work, durable=durable, lists=lists)
        arrays = isinstance(one, peers.Ours) and not lists
        return timed(partial(_fill_and_close, one, work.texts, arrays=arrays))


def _fill_and_close(one: System, texts: list[str], *, arrays: bool) -> None:
    """Close too: LlamaIndex's cache is written only then."""
    if arrays and isinstance(one, peers.Ours):
        one.model.embed_array_sync(texts)
    else:
        embed(one, texts)
    one.close()


def _floor_fill(work: Work, directory: Path, *, durable: bool) -> float:
    with room_in(directory) as room:
        return timed(lambda: append(work, work.texts, room / "floor", durable=durable))


def append(work: Work, texts: list[str], path: Path, *, durable: bool) -> None:
    """Hash texts and append their vectors to a file, 256 at a time."""
    with path.open("ab", buffering=0) as file:
        for at in range(0, len(texts), 256):
            some = texts[at : at + 256]
            work.hash(some)
            file.write(work.matrix[work.rows(some)].tobytes())
            if durable:
                os.fsync(file.fileno())


def most(work: Work, found: list[type[System]], directory: Path, *, rounds: int) -> list[Row]:
    """Measure calls of which a tenth is new, another tenth in each round."""
    if work.matrix.size > LISTS_UP_TO:
        return []
    known = work.texts[: work.count * 9 // 10]
    with Filled(work, known, directory) as filled, room_in(directory) as room:
        filled.add(peers.Arrow, durable=True)
        filled.add(AsArrays)
        for system in entering(found, work.count):
            if system in MOSTLY:
                filled.add(system)
        contestants: Contestants = {FLOOR: _rounds(partial(_floor_most, work, known, room), work, known)}
        for name, one in filled.open.items():
            contestants[name] = _rounds(one.documents, work, known)
        asked = work.asked
        rows = measured("most", contestants, work, rounds=rounds)
        new = (work.count - len(known)) * rounds * len(filled.open)
        assert work.asked - asked == new, "the model was asked for what is new, and only for that"
        return rows


def _rounds(call: Callable[[list[str]], Any], work: Work, known: list[str]) -> Callable[[], float]:
    number = counter()

    def once() -> float:
        new = corpus(work.count - len(known), mark=f"{next(number)} ")
        return timed(partial(call, known + new))

    return once


def _floor_most(work: Work, known: list[str], room: Path, texts: list[str]) -> Any:
    work.hash(texts[: len(known)])
    append(work, texts[len(known) :], room / "floor", durable=False)
    return work.matrix[work.rows(texts)].tolist()
