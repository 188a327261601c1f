"""One function per way in which an embedding cache gives a wrong vector, pays twice or loses what was paid.

Each gets a Lab, and returns if the system is right; otherwise it raises what it found.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from kura_cache_adapters.testing import OpenAIServer
from tests.peers import Ours, RedisVL
from tests.scoreboard.lab import LostError, NotApplicableError, PaidTwiceError, WrongVectorError, is_nan

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scoreboard.lab import Lab

CASES: dict[str, Callable[[Lab], None]] = {}
TEXTS = [f"text {number}" for number in range(20)]


def case(title: str) -> Callable[[Callable[[Lab], None]], Callable[[Lab], None]]:
    """Enter a function into the scoreboard."""

    def enter(function: Callable[[Lab], None]) -> Callable[[Lab], None]:
        CASES[title] = function
        return function

    return enter


# The same key for different things


@case("the same text as document and as query")
def roles(lab: Lab) -> None:
    lab.open()
    for _ in range(2):
        lab.documents(["a"])
        lab.query("a")


@case("two models in one cache")
def two_models(lab: Lab) -> None:
    lab.open("one")
    lab.documents(TEXTS)
    lab.again(name="two")
    lab.documents(TEXTS)


@case("two settings of dimensions")
def dimensions(lab: Lab) -> None:
    lab.open("model", "256 dimensions", dimensions=256)
    lab.documents(TEXTS)
    lab.again(configuration="512 dimensions", dimensions=512)
    lab.documents(TEXTS)


@case("a prompt changed")
def prompt(lab: Lab) -> None:
    lab.open("model", "passage: ", prompt="passage: ")
    lab.documents(TEXTS)
    lab.again(configuration="document: ", prompt="document: ")
    lab.documents(TEXTS)


@case('ambiguous names: "a:b" with "m", "a" with "b:m"')
def ambiguous(lab: Lab) -> None:
    lab.open("a:b")
    lab.documents(["m", "b:m", "a:b"])
    lab.again(name="a")
    lab.documents(["b:m", "m", "a:b"])


@case("a parameter named text")
def parameter_text(lab: Lab) -> None:
    if not issubclass(lab.kind, Ours):
        raise NotApplicableError
    lab.open("model", "x", text="x")
    lab.documents(["y"])
    lab.again(configuration="y", text="y")
    lab.documents(["x", "y"])


@case("upper and lower case, spaces, Unicode forms")
def forms(lab: Lab) -> None:
    texts = ["a", "A", " a", "a ", "a\n", "\u00e9", "e\u0301", "ﬁ", "fi"]
    lab.open()
    lab.documents(texts)
    lab.nothing_asked(texts)


@case("model names with / and : and spaces")
def odd_names(lab: Lab) -> None:
    lab.open("BAAI/bge small:v1")
    lab.documents(TEXTS)
    lab.nothing_asked(TEXTS)


@case("empty string and NUL")
def empty(lab: Lab) -> None:
    lab.open()
    lab.documents(["", "\0", "a\0b"])
    lab.nothing_asked(["", "\0", "a\0b"])


@case("a lone surrogate")
def surrogate(lab: Lab) -> None:
    lab.open()
    lab.documents(["\ud83d", "\ud83d\ude00", "\U0001f600"])
    lab.nothing_asked(["\ud83d", "\ud83d\ude00", "\U0001f600"])


# Order and count


@case("hits and misses mixed, in random order, 30 rounds")
def mixed(lab: Lab) -> None:
    lab.open()
    chance = random.Random(0)
    for _ in range(30):
        lab.documents(chance.choices([f"text {number}" for number in range(60)], k=20))


@case("[p, q], then [p, r]")
def overlapping(lab: Lab) -> None:
    lab.open()
    lab.documents(["p", "q"])
    lab.documents(["p", "r"])
    lab.nothing_asked(["r", "q", "p"])


@case("a text repeated in one call")
def duplicates(lab: Lab) -> None:
    lab.open()
    lab.documents(["a"] * 5 + ["b"] + ["a"] * 5)
    if len(lab.asked) > 2:
        raise PaidTwiceError


@case("OpenAI's answers out of order, as their index tells")
def out_of_order(lab: Lab) -> None:
    with OpenAIServer() as server:
        server.faults = ["reversed"]
        try:
            lab.system.open_openai(server.url)
        except NotImplementedError as error:
            raise NotApplicableError from error
        for _ in range(2):
            if lab.system.documents(TEXTS) != server.lists(TEXTS):
                raise WrongVectorError
        lab.system.close()
        del lab.system  # and with it its client, while its server is there


@case("the provider answers one vector too few")
def too_few(lab: Lab) -> None:
    wrong_count(lab, lambda vectors: vectors[:-1])


@case("the provider answers one vector too many")
def too_many(lab: Lab) -> None:
    wrong_count(lab, lambda vectors: [vectors[-1], *vectors])


def wrong_count(lab: Lab, change: Callable[[list[Any]], Any]) -> None:
    """Let the model answer wrongly once: an error is right, and nothing of it may be kept."""
    lab.open()
    lab.change = change
    with contextlib.suppress(Exception):
        vectors = lab.system.documents(TEXTS)
        lab.checked(vectors, TEXTS, "document")
        raise WrongVectorError
    lab.change = lambda vectors: vectors
    lab.documents(TEXTS)


# Values


@case("vectors of numpy's float32")
def numpy_vectors(lab: Lab) -> None:
    lab.open()
    lab.change = lambda vectors: list(np.array(vectors, np.float32))
    lab.documents(TEXTS)
    lab.nothing_asked(TEXTS)


@case("float64 values that float32 cannot hold")
def doubles(lab: Lab) -> None:
    lab.dtype = "float64"
    lab.open()
    lab.documents(TEXTS)
    lab.nothing_asked(TEXTS)


@case("a NaN, once")
def one_nan(lab: Lab) -> None:
    lab.open()
    lab.change = lambda vectors: [[float("nan")] * 8, *vectors[1:]]
    with contextlib.suppress(Exception):
        lab.system.documents(TEXTS)
    lab.change = lambda vectors: vectors
    if is_nan(lab.system.documents(TEXTS)[0]):
        raise WrongVectorError
    lab.documents(TEXTS)


@case("the caller changes what it got")
def mutated(lab: Lab) -> None:
    lab.open()
    for _ in range(2):
        for vector in lab.documents(TEXTS):
            vector[0] = 99.0
    lab.documents(TEXTS)


# A provider that fails


@case("the provider dies on the last of 1,001 texts")
def dies_late(lab: Lab) -> None:
    texts = [f"text {number}" for number in range(1001)]
    lab.open()

    def die(batch: list[str]) -> None:
        if texts[-1] in batch:
            raise ConnectionError

    lab.before = die
    with contextlib.suppress(ConnectionError):
        lab.system.documents(texts)
    lab.before = lambda _: None
    lab.nothing_asked(texts, but=256, error=LostError)


@case("the provider refuses one text of many")
def one_bad_text(lab: Lab) -> None:
    texts = [f"text {number}" for number in range(800)]
    lab.open()

    def refuse(batch: list[str]) -> None:
        if texts[600] in batch:
            raise ValueError

    lab.before = refuse
    with contextlib.suppress(ValueError):
        lab.system.documents(texts)
    kept = [*texts[:600], *texts[601:]]
    asked = {*lab.asked}
    lab.documents(kept)
    if sum(lab.asked.count(text) > 1 for text in asked) > 0:
        raise LostError


@case("the call is cancelled midway")
def cancelled(lab: Lab) -> None:
    texts = [f"text {number}" for number in range(1024)]
    lab.open()
    lab.before = lambda _: time.sleep(0.05)

    async def cancel() -> None:
        work = asyncio.ensure_future(lab.adocuments(texts))
        while len(lab.asked) < 512:
            await asyncio.sleep(0.005)
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        await asyncio.sleep(0.3)

    asyncio.run(cancel())
    lab.before = lambda _: None
    lab.documents(texts)
    if lab.asked.count(texts[0]) > 1:
        raise LostError
    lab.nothing_asked(texts)


# Many at once


@case("five concurrent calls of one text")
def concurrent(lab: Lab) -> None:
    lab.open()
    lab.before = lambda _: time.sleep(0.05)

    async def five() -> None:
        await asyncio.gather(*[lab.adocuments(["a"]) for _ in range(5)])

    asyncio.run(five())
    if len(lab.asked) > 1:
        raise PaidTwiceError


@case("a text in two sub-batches of one async call")
def sub_batches(lab: Lab) -> None:
    lab.open()
    lab.before = lambda _: time.sleep(0.01)
    texts = ["a", *(f"text {number}" for number in range(300)), "a"]
    asyncio.run(lab.adocuments(texts))
    if len(lab.asked) > 301:
        raise PaidTwiceError


@case("two programs at once on one cache")
def two_programs(lab: Lab) -> None:
    lab.open()
    if not lab.kind.persistent:
        raise NotApplicableError
    other = type(lab)(lab.kind, lab.directory)
    other.open()
    lab.documents(TEXTS[:10])
    other.documents(TEXTS[10:])
    other.system.close()
    lab.again()
    lab.nothing_asked(TEXTS, error=LostError)


# The next run, and what may have happened to the files


@case("the next run, with another batch size")
def next_run(lab: Lab) -> None:
    lab.open()
    lab.documents(TEXTS)
    lab.again()
    for text in TEXTS:
        lab.nothing_asked([text])


@case("the program is killed after the call has returned")
def killed(lab: Lab) -> None:
    lab.open()
    lab.documents(TEXTS)
    lab.again(close=False)
    lab.nothing_asked(TEXTS, error=LostError)


@case("the program is killed midway")
def killed_midway(lab: Lab) -> None:
    texts = [f"text {number}" for number in range(1024)]
    lab.open()
    if not lab.kind.persistent:
        raise NotApplicableError

    def work() -> None:
        lab.system = lab.kind(lab.directory)
        lab.open()
        lab.before = lambda batch: os.kill(os.getpid(), signal.SIGKILL) if texts[600] in batch else None
        lab.system.documents(texts)

    lab.system.close()
    child: Any = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    lab.again(close=False)
    lab.documents(texts[:1])
    if lab.asked:
        raise LostError


@case("a cache of another version of the format")
def other_version(lab: Lab) -> None:
    if not issubclass(lab.kind, Ours):
        raise NotApplicableError
    lab.open()
    lab.documents(TEXTS)
    lab.system.close()
    for file in lab.files:
        content = file.read_bytes().replace(b'"version": 1', b'"version": 2')
        content = content.replace(b"kura_cache_adapters.segment", b"kura_cache_adapters.Segment")
        file.write_bytes(content)
    lab.again(close=False)
    lab.documents(TEXTS)
    lab.nothing_asked(TEXTS)


@case("files cut in half")
def truncated(lab: Lab) -> None:
    lab.open()
    lab.documents(TEXTS)
    lab.system.close()
    for file in lab.files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    lab.again(close=False)
    lab.documents(TEXTS)
    lab.nothing_asked(TEXTS)


@case("a flipped bit, 60 times")
def flipped(lab: Lab) -> None:
    lab.open()
    lab.documents(TEXTS)
    lab.system.close()
    chance = random.Random(0)
    whole = {file: file.read_bytes() for file in lab.files}
    for _ in range(60):
        for path in lab.directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for file, content in whole.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        file = chance.choice(sorted(whole))
        spoiled = bytearray(whole[file])
        spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
        file.write_bytes(spoiled)
        lab.again(close=False)
        lab.documents(TEXTS)
        lab.system.close()


@case("the cache cannot be read: a file stands in its place")
def unreadable(lab: Lab) -> None:
    if not lab.kind.persistent:
        raise NotApplicableError
    lab.open()
    lab.documents(TEXTS)
    lab.system.close()
    RedisVL.stop(lab.directory)
    shutil.rmtree(lab.directory)
    lab.directory.write_text("no directory")
    lab.again(close=False)
    lab.documents(TEXTS)


@case("the cache cannot be written: its place is taken while it is open")
def unwritable(lab: Lab) -> None:
    if not lab.kind.persistent:
        raise NotApplicableError
    lab.open()
    lab.documents(TEXTS[:10])
    RedisVL.stop(lab.directory)
    shutil.rmtree(lab.directory)
    lab.directory.write_text("no directory")
    lab.documents(TEXTS)
