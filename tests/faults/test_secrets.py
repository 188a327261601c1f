"""Texts, vectors and keys of an API: in no log line above DEBUG, repr, file name or exception of ours."""

from __future__ import annotations

import base64
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from kura_cache_adapters import (
    CachedEmbeddingModel,
    CacheOptions,
    CallableEmbeddingModel,
    JSONLCheckpointManager,
    MemoryStore,
    TieredStore,
)
from kura_cache_adapters.stores import CheckpointStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.fault_lab import MANAGERS, WAYS
from tests.faults.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = [f"MARKED-text-{at}-of-the-patient" for at in range(10)]
KEY = "sk-MARKED-key-0123456789"
EVERY: dict[str, Callable[[Path], Any]] = {
    **WAYS,
    "entries": lambda path: CheckpointStore(JSONLCheckpointManager(path)),
}
VECTORS = FakeEmbeddingModel().array(TEXTS)


@pytest.fixture
def witness(caplog: Any, capfd: Any) -> Witness:
    caplog.set_level("DEBUG")
    return Witness(caplog, capfd)


def digits(vectors: Any = VECTORS) -> set[str]:
    """Return the first digits of every number: what any way of printing it begins with."""
    return {f"{abs(number):.9f}"[1:7] for number in np.asarray(vectors).ravel().tolist()}


def assert_nothing_shown(said: str) -> None:
    assert "MARKED" not in said
    assert not [number for number in digits() if number in said]


def below(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()]


def failing(text: list[str]) -> None:
    message = f"cannot embed {text} with {KEY}"
    raise RuntimeError(message)


def leave_out_all_but_ours(seen: list[str]) -> list[str]:
    """The model's own exception comes out as it is, whatever it says."""
    return [line for line in seen if "cannot embed" not in line]


MISBEHAVIOURS: dict[str, Callable[[list[str]], Any]] = {
    "strings": lambda texts: [[*texts[0]] for _ in texts],
    "texts": list,
    "none": lambda _: None,
    "holes": lambda texts: [VECTORS[0].tolist(), *[None] * (len(texts) - 1)],
    "ragged": lambda texts: [VECTORS[0, : at + 1].tolist() for at in range(len(texts))],
    "nan": lambda texts: np.where(VECTORS[: len(texts)] > 0.5, np.nan, VECTORS[: len(texts)]),
    "too many": lambda _: [*VECTORS.tolist(), *VECTORS.tolist()],
    "a dict": lambda texts: {text: VECTORS[0].tolist() for text in texts},
    "another dimension": lambda texts: VECTORS[: len(texts), :3],
}


@pytest.mark.parametrize("way", EVERY)
def test_use_and_failing_models_show_nothing(way: str, tmp_path: Path, witness: Witness) -> None:
    options = CacheOptions(progress=True, chunk_size=3, key_secret=f"MARKED {KEY}")
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, EVERY[way](tmp_path), options=options)
    with witness.watching(cached, options, cached.stats, cached.identity(), cached._store):
        assert cached.embed_sync([*TEXTS[:6], *TEXTS[:6]]) == model.lists([*TEXTS[:6], *TEXTS[:6]])
        assert cached.embed_sync(TEXTS[:6]) == model.lists(TEXTS[:6])
    model.fault = failing
    with witness.watching():
        cached.embed_sync(TEXTS)
    for fault, answer in MISBEHAVIOURS.items():
        source = CallableEmbeddingModel(answer, model_name=fault if fault != "another dimension" else "fake")
        other = CachedEmbeddingModel(source, EVERY[way](tmp_path), options=options)
        for embed in (other.embed_sync, other.embed_array_sync, partial(other.embed_sync, role="query")):
            with witness.watching(other):
                embed(TEXTS)
    assert len(leave_out_all_but_ours(witness.seen)) > 9
    witness.seen = leave_out_all_but_ours(witness.seen)
    assert_nothing_shown(witness.said())
    assert "MARKED" not in "".join(map(str, tmp_path.rglob("*")))


@pytest.mark.parametrize("way", EVERY)
def test_texts_are_not_stored_in_any_form(way: str, tmp_path: Path) -> None:
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), EVERY[way](tmp_path))
    for number in range(0, len(TEXTS), 2):  # so often that files are merged
        cached.embed_sync(TEXTS[number : number + 2])
    cached.embed_sync([f"query {text}" for text in TEXTS], role="query")
    stored = b"".join(str(file).encode() + file.read_bytes() for file in below(tmp_path))
    assert stored
    for form in forms("MARKED-text-"):
        assert form not in stored


def forms(text: str) -> list[bytes]:
    """Write a text in every way in which it might lie in a file."""
    plain = text.encode()
    coded = [base64.b64encode(b"x" * at + plain)[at + 1 : -4] for at in range(3)]
    wide = [text.encode(code) for code in ("utf-16-le", "utf-16-be", "utf-32-le")]
    return [plain, plain.lower(), plain.upper(), plain[::-1], plain.hex().encode(), *wide, *coded]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "texts": lambda _: "\n".join(TEXTS).encode(),
    "records": lambda _: b"".join(b'{"format":"%s","version":"x"}\n' % text.encode() for text in TEXTS),
    "a header": lambda _: (
        b'{"format":"kura_cache_adapters.segment","version":1,"rows":"%s","dimension":1,"dtype":"%s"}\n'
        % (TEXTS[0].encode(), TEXTS[1].encode())
    ),
    "a flipped bit": lambda content: content[:-40] + bytes([content[-40:][0] ^ 1]) + content[-40:][1:],
    "cut": lambda content: content[: len(content) // 2],
    "an identity": lambda _: b'{"version":1,"model_name":"%s\\ud800"}' % TEXTS[0].encode(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("way", EVERY)
def test_damaged_files_are_not_quoted(way: str, damage: str, tmp_path: Path, witness: Witness) -> None:
    model = FakeEmbeddingModel()
    CachedEmbeddingModel(model, EVERY[way](tmp_path)).embed_sync(TEXTS)
    for file in below(tmp_path):
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    again = CachedEmbeddingModel(model, EVERY[way](tmp_path))
    with witness.watching(again):
        assert again.embed_sync(TEXTS) == model.lists(TEXTS)
        again._store.spaces()  # type: ignore[union-attr]
    said = witness.said()
    assert "WARNING" in {record.levelname for record in witness.records}
    assert_nothing_shown(said)


class Quoting(MemoryStore):
    """A store of somebody's that quotes what it was given when it fails."""

    def space(self, _: object) -> Any:
        return self

    def get_many(self, keys: Any) -> Any:
        message = f"no {keys} at http://user:{KEY}@host, texts {TEXTS}"
        raise ConnectionError(message)

    def put_many(self, _: Any, vectors: Any, **__: Any) -> None:
        raise ValueError([*vectors.tolist(), KEY, *TEXTS])


class QuotingManager:
    """A manager of somebody's that does so too."""

    def is_enabled(self) -> bool:
        return True

    def load_checkpoint(self, filename: str, model_class: Any) -> Any:
        message = f"{filename} of {model_class} is not {VECTORS.tolist()} of {TEXTS}"
        raise LookupError(message)

    def save_checkpoint(self, filename: str, data: Any) -> None:
        message = f"{filename} cannot hold {data} of {TEXTS}"
        raise LookupError(message)


@pytest.mark.parametrize(
    "cache",
    [
        Quoting(),
        QuotingManager(),
        TieredStore(MemoryStore(), Quoting()),
        TieredStore(Quoting(), Quoting()),
    ],
)
def test_what_a_foreign_store_says_when_it_fails_is_not_repeated(cache: Any, witness: Witness) -> None:
    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, cache)
    with witness.watching(cached):
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
    said = witness.said()
    assert "Error" in said  # which kind it was, is told
    assert_nothing_shown(said)


@pytest.mark.parametrize(
    "wrong", ["a text", "bytes", "a number", "a hole", "too few", "NaN", "ragged", "words"]
)
def test_wrong_arguments_are_not_quoted(wrong: str, tmp_path: Path, witness: Witness) -> None:
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), str(tmp_path))
    calls: dict[str, Callable[[], object]] = {
        "a text": lambda: cached.embed_sync(TEXTS[0]),
        "bytes": lambda: cached.embed_sync([TEXTS[0].encode()]),  # type: ignore[list-item]
        "a number": lambda: cached.missing([TEXTS[0], 1]),  # type: ignore[list-item]
        "a hole": lambda: cached.embed_sync([*TEXTS, None], role="query"),  # type: ignore[list-item]
        "too few": lambda: cached.add(TEXTS, VECTORS[1:]),
        "NaN": lambda: cached.add(TEXTS, np.where(VECTORS > 0, np.nan, VECTORS)),
        "ragged": lambda: cached.add(TEXTS[:2], [VECTORS[0], VECTORS[0, :3]]),
        "words": lambda: cached.add(TEXTS, [[text] for text in TEXTS]),
    }
    with witness.watching(cached):
        calls[wrong]()
    assert len(witness.seen) > 1, "it was not refused"
    assert_nothing_shown(witness.said())


class Record(BaseModel):
    model_config = ConfigDict(extra="allow")

    text: str
    vector: list[float] = []


class Strict(BaseModel):
    text: int
    vector: list[int]


@pytest.mark.parametrize("way", [way for way in MANAGERS if way in WAYS])
def test_records_are_not_quoted(way: str, tmp_path: Path, witness: Witness) -> None:
    manager = WAYS[way](tmp_path)
    records = [Record(text=text, vector=vector) for text, vector in zip(TEXTS, VECTORS.tolist(), strict=True)]
    with witness.watching(manager):
        manager.save_checkpoint("x", records)
        manager.load_checkpoint("x", Strict)
    with witness.watching():
        manager.save_checkpoint("y", [*records, Record(text=f"{TEXTS[0]}\ud800")])
    with witness.watching():
        manager.save_checkpoint("z", [Record.model_construct(text=7, vector=TEXTS)])
    with witness.watching():
        manager.save_checkpoint("z", [Record.model_construct(text=7, vector=TEXTS, other=failing)])
    for file in below(tmp_path):
        file.write_bytes("\n".join(TEXTS).encode())
    with witness.watching():
        manager.load_checkpoint("x", Record)
    assert sum("CheckpointError" in line for line in witness.seen) >= 4
    assert_nothing_shown(witness.said())
