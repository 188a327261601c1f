"""One entry as bytes, and spaces over whatever keeps one value per key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.stores import ArrowStore, entry
from kura_cache_adapters.stores.key_value import KeyValueSpace
from kura_cache_adapters.stores.signing import Signed
from kura_cache_adapters.testing import FakeEmbeddingModel, StoreContract
from kura_cache_adapters.testing.stores import IDENTITY, key_of, vectors_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kura_cache_adapters.protocols import EmbeddingStore

Values = dict[ModelIdentity, dict[bytes, bytes]]

KEY = bytes(range(32))
VECTORS: dict[str, Any] = {
    "float32": np.array([1.0, -2.5, 3e-45], np.float32),
    "float64": np.array([0.1, -0.0], np.float64),
}
PINNED = {
    "float32": "01040000030000005abdfc8a48d891220000803f000020c002000000",
    "float64": "010800000200000059d978e6c2765bec9a9999999999b93f0000000000000080",
}

SIGNED = {
    "float32": "0204000003000000e5e702c65e763ebc7db8bc216b1a52af0000803f000020c002000000",
    "float64": "02080000020000002695f0b89dbe3219a184de1e86b6bb809a9999999999b93f0000000000000080",
}

fixed = settings(deadline=None, database=None, derandomize=True)
keys = st.binary(min_size=32, max_size=32)
vectors = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda dtype: arrays(dtype, st.integers(1, 40), elements={"allow_nan": False})
)


class DictStore:
    """A store over plain dicts of bytes, as over a server that keeps values by key."""

    def __init__(self, values: Values) -> None:
        self.values = values
        self._spaces: dict[ModelIdentity, KeyValueSpace[bytes]] = {}

    def space(self, identity: ModelIdentity) -> KeyValueSpace[bytes]:
        if identity not in self._spaces:
            held = self.values.setdefault(identity, {})
            self._spaces[identity] = KeyValueSpace(
                lambda keys: map(held.get, keys),
                held.update,
                lambda keys: sum(held.pop(key, None) is not None for key in keys),
                keys=lambda: list(held),
                codec=entry,
                where=self,
            )
        return self._spaces[identity]

    def spaces(self) -> list[ModelIdentity]:
        return [identity for identity, held in self.values.items() if held]

    def close(self) -> None:
        self._spaces.clear()

    def __reduce__(self) -> Any:
        return DictStore, (self.values,)


class TestDictStore(StoreContract):
    @pytest.fixture
    def open_store(self) -> Callable[[], EmbeddingStore]:
        values: Values = {}
        return lambda: DictStore(values)


def flipped(content: bytes, bit: int) -> bytes:
    number = int.from_bytes(content, "little") ^ 1 << bit
    return number.to_bytes(len(content), "little")


@pytest.mark.parametrize("dtype", VECTORS)
def test_the_bytes_of_an_entry_are_pinned(dtype: str) -> None:
    vector = VECTORS[dtype]
    assert entry.encode(KEY, vector).hex() == PINNED[dtype]
    assert entry.decode(KEY, bytes.fromhex(PINNED[dtype])).tobytes() == vector.tobytes()


@fixed
@given(keys, vectors)
def test_an_entry_comes_back_bit_for_bit(key: bytes, vector: Any) -> None:
    decoded = entry.decode(key, entry.encode(key, vector))
    assert decoded.dtype == vector.dtype
    assert decoded.tobytes() == vector.tobytes()


@settings(fixed, max_examples=30)
@given(st.lists(st.sampled_from(["f4", "f8", "other", "damaged", "absent", "unread"]), max_size=6))
def test_many_keys_are_answered_as_if_each_were_asked_for(kinds: list[str]) -> None:
    """Whatever is there, in more batches than one, all of one kind or mixed: the first hit decides D."""
    numbers, held = np.random.default_rng(0), dict[bytes, Any]()
    asked = [key_of(number) for number in range(100 * len(kinds))]
    for key, kind in zip(asked, [kind for kind in kinds for _ in range(100)], strict=True):
        vector = numbers.standard_normal(1001 if kind == "other" else 1000, "f4")
        value = entry.encode(key, vector.astype("f8") / 3 if kind == "f8" else vector)
        held[key] = {"damaged": flipped(value, 130), "absent": None, "unread": OSError()}.get(kind, value)

    def space() -> KeyValueSpace[bytes]:
        return KeyValueSpace(lambda keys: map(held.get, keys), held.update, len, codec=entry, where="here")

    one_by_one, hits = space(), space().get_many(asked).checked(len(asked))
    single = [one_by_one.get_many([key]) for key in asked]
    assert hits.positions.tolist() == [at for at, each in enumerate(single) if len(each.positions)]
    assert hits.invalid == sum(each.invalid for each in single)
    assert hits.vectors.tolist() == [row for each in single for row in each.vectors.tolist()]


@pytest.mark.parametrize("kept", ["by key", "in segments"])
def test_what_was_in_memory_before_is_not_taken_for_numbers(
    kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cast of it would warn, as of a signalling NaN."""
    wanted, wide = [*map(key_of, range(300))], vectors_of([*range(300)], 1000, np.float64) / 3
    narrow = wide[:200].astype(np.float32)
    values = [*entry.encode_many(wanted[:200], narrow), *entry.encode_many(wanted[200:], wide[200:])]
    held = dict(zip(wanted, values, strict=True))
    space: Any = KeyValueSpace(lambda asked: map(held.get, asked), dict, len, codec=entry, where="a dict")
    if kept == "in segments":
        space = ArrowStore(tmp_path).space(IDENTITY)
        space.put_many(wanted[200:], wide[200:])
        space.put_many(wanted[:200], narrow)
    empty = np.empty

    def used_before(shape: Any, dtype: Any = float) -> Any:
        made = empty(shape, dtype)
        made.reshape(-1).view(np.uint8)[3::4] = 0x7F
        made.reshape(-1).view(np.uint8)[2::4] = 0xA0
        return made

    monkeypatch.setattr(np, "empty", used_before)
    hits = space.get_many(wanted)
    assert hits.vectors[200:].tobytes() == wide[200:].tobytes()
    assert hits.vectors[:200].astype(np.float32).tobytes() == narrow.tobytes()


@pytest.mark.parametrize("dtype", VECTORS)
def test_every_flipped_bit_is_refused(dtype: str) -> None:
    value = entry.encode(KEY, VECTORS[dtype])
    for bit in range(8 * len(value)):
        with pytest.raises(ValueError, match="entry"):
            entry.decode(KEY, flipped(value, bit))
    for bit in range(8 * len(KEY)):
        with pytest.raises(ValueError, match="another key"):
            entry.decode(flipped(KEY, bit), value)


@fixed
@given(keys, vectors, st.data())
def test_any_flipped_bit_of_any_entry_is_refused(key: bytes, vector: Any, data: st.DataObject) -> None:
    value = entry.encode(key, vector)
    damaged = flipped(value, data.draw(st.integers(0, 8 * len(value) - 1)))
    with pytest.raises(ValueError, match="entry"):
        entry.decode(key, damaged)


@fixed
@given(st.lists(st.tuples(keys, vectors), max_size=8), st.data())
def test_a_batch_is_read_as_each_of_its_entries_is(entries: list[tuple[bytes, Any]], data: Any) -> None:
    """Of any dimensions and dtypes, damaged or not: the first that is intact decides the dimension."""
    values = [entry.encode(key, vector) for key, vector in entries]
    damage = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    values = [flipped(value, 130) if bad else value for value, bad in zip(values, damage, strict=True)]
    whole = [at for at, bad in enumerate(damage) if not bad]
    fit = [at for at in whole if len(entries[at][1]) == len(entries[whole[0]][1])]
    hits = entry.decode_many([key for key, _ in entries], values).checked(len(entries))
    assert (hits.positions.tolist(), hits.invalid) == (fit, len(entries) - len(fit))
    for row, at in enumerate(fit):
        wide = entries[at][1].astype(np.float64)
        assert hits.vectors[row].astype(np.float64).tobytes() == wide.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_is_written_as_each_of_its_entries_is(dtype: Any) -> None:
    wanted, matrix = [*map(key_of, range(700))], vectors_of([*range(700)], 5, dtype)
    each = [entry.encode(key, vector) for key, vector in zip(wanted, matrix, strict=True)]
    assert entry.encode_many(wanted, matrix) == each


@pytest.mark.parametrize("wrong", [b"", b"hello", bytes(16), bytes(40), b"\1\4" + bytes(50)])
def test_a_batch_leaves_out_what_is_no_entry(wrong: bytes) -> None:
    whole = entry.encode(KEY, VECTORS["float32"])
    hits = entry.decode_many([KEY, KEY, key_of(1)], [wrong, whole, whole])
    assert (hits.positions.tolist(), hits.invalid) == ([1], 2)
    assert hits.vectors.flags.writeable


def test_a_batch_of_a_space_has_the_dimension_of_the_space() -> None:
    whole = entry.encode(KEY, VECTORS["float32"])
    assert entry.decode_many([KEY], [whole], dimension=3).invalid == 0
    assert entry.decode_many([KEY], [whole], dimension=2).invalid == 1
    assert entry.decode_many([], []).invalid == 0


def test_the_checksums_of_a_large_batch_are_computed_many_at_a_time() -> None:
    wanted, matrix = [*map(key_of, range(5000))], vectors_of([*range(5000)])
    values = dict(zip(wanted, entry.encode_many(wanted, matrix), strict=True))
    space = KeyValueSpace(lambda asked: map(values.get, asked), dict, len, codec=entry, where="a dict")
    passes = []
    sys.setprofile(
        lambda frame, event, _: passes.append(event) if "checksum" in frame.f_code.co_name else None
    )
    try:
        hits = space.get_many(wanted)
    finally:
        sys.setprofile(None)
    assert np.array_equal(hits.vectors, matrix)
    assert 0 < passes.count("call") < 50


def test_only_the_secret_makes_entries_for_who_has_it() -> None:
    wanted, matrix = [*map(key_of, range(6))], vectors_of([*range(6)])
    mine, others = Signed("a secret of the readers"), Signed(b"a secret of somebody")
    values = mine.encode_many(wanted, matrix)
    assert np.array_equal(mine.decode_many(wanted, values).vectors, matrix)
    assert others.decode_many(wanted, values).invalid == 6
    assert entry.decode_many(wanted, values).invalid == 6
    assert mine.decode_many(wanted, entry.encode_many(wanted, matrix)).invalid == 6
    poisoned = [*others.encode_many(wanted[:1], matrix[:1]), values[0], *values[2:]]
    assert mine.decode_many(wanted, poisoned).positions.tolist() == [2, 3, 4, 5]
    assert "secret" not in repr(mine)


@pytest.mark.parametrize("dtype", VECTORS)
def test_every_flipped_bit_of_a_signed_entry_is_refused(dtype: str) -> None:
    signed = Signed(bytes(16))
    (value,) = signed.encode_many([KEY], VECTORS[dtype][np.newaxis])
    assert value.hex() == SIGNED[dtype]
    damaged = [flipped(value, bit) for bit in range(8 * len(value))]
    assert signed.decode_many([KEY] * len(damaged), damaged).invalid == len(damaged)
    for cut in (b"", value[:8], value[:24], value[:-1], value + bytes(4)):
        assert signed.decode_many([KEY], [cut]).invalid == 1


@pytest.mark.parametrize(("secret", "error"), [("short", ValueError), (16, TypeError)])
def test_what_is_no_secret_signs_nothing(secret: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="sign must"):
        Signed(secret)


@fixed
@given(keys, st.binary(max_size=64))
def test_bytes_of_something_else_are_refused(key: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match="entry"):
        entry.decode(key, value)


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 17, -1])
def test_a_cut_or_longer_entry_is_refused(cut: int) -> None:
    value = entry.encode(KEY, VECTORS["float32"])
    for damaged in (value[:cut], value + bytes(1)):
        with pytest.raises(ValueError, match="entry"):
            entry.decode(KEY, damaged)


@pytest.mark.parametrize(
    ("key", "vector"),
    [
        (b"short", VECTORS["float32"]),
        (KEY, VECTORS["float32"].astype(np.float16)),
        (KEY, VECTORS["float32"].astype(">f4")),
        (KEY, VECTORS["float32"][:0]),
        (KEY, VECTORS["float32"].reshape(1, 3)),
    ],
)
def test_what_is_no_entry_is_not_encoded(key: bytes, vector: Any) -> None:
    with pytest.raises(ValueError, match="key"):
        entry.encode(key, vector)


@pytest.mark.parametrize("spoil", ["bit", "other key", "dimension", "nan", "foreign"])
def test_a_value_that_does_not_fit_is_a_miss_and_is_written_again(spoil: str) -> None:
    values: Values = {}
    model = FakeEmbeddingModel()
    texts = ["one", "two", "three"]
    cached = CachedEmbeddingModel(model, DictStore(values))
    cached.embed_sync(texts)
    (held,) = values.values()
    key = bytes.fromhex(cached.cache_key("two"))
    one = entry.decode(key, held[key])
    held[key] = {
        "bit": flipped(held[key], 200),
        "other key": held[bytes.fromhex(cached.cache_key("one"))],
        "dimension": entry.encode(key, one[:2]),
        "nan": entry.encode(key, np.full_like(one, np.nan)),
        "foreign": b"hello",
    }[spoil]
    again = CachedEmbeddingModel(model, DictStore(values))
    assert again.embed_sync(texts) == model.lists(texts)
    assert model.calls[1:] == [["two"]]
    assert (again.stats.invalid_entries, again.stats.load_failures) == (1, 0)
    assert CachedEmbeddingModel(model, DictStore(values)).embed_sync(texts) == model.lists(texts)
    assert len(model.calls) == 2


def test_a_value_that_cannot_be_read_is_invalid_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    def read_many(keys: list[bytes]) -> list[bytes | Exception | None]:
        return [TimeoutError("slow"), None, entry.encode(keys[2], vectors_of([2])[0])]

    space = KeyValueSpace(read_many, dict, len, codec=entry, where="a server")
    for _ in range(2):
        hits = space.get_many(map(key_of, range(3)))
        assert (hits.positions.tolist(), hits.invalid) == ([2], 1)
        assert np.array_equal(hits.vectors, vectors_of([2]))
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "Could not read entries from 'a server': TimeoutError"
    ]


def test_without_keys_nothing_is_asked_and_without_a_list_nothing_is_counted() -> None:
    def never(_: Any) -> Any:
        raise AssertionError

    space = KeyValueSpace(never, never, never, codec=entry, where="nothing")
    assert not len(space.get_many([]).positions)
    space.put_many([], np.empty((0, 3), np.float32))
    assert space.delete_many([]) == 0
    assert [*space.keys()] == []
    assert space.stats().rows == 0


def test_a_failure_to_read_or_write_reaches_who_asked() -> None:
    def broken(_: Any) -> Any:
        raise ConnectionError

    space = KeyValueSpace(broken, broken, broken, codec=entry, where=IDENTITY)
    with pytest.raises(ConnectionError):
        space.get_many([KEY])
    with pytest.raises(ConnectionError):
        space.put_many([KEY], vectors_of([1]))
    with pytest.raises(ConnectionError):
        space.delete_many([KEY])
