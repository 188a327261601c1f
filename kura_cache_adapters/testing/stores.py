"""StoreContract: what every EmbeddingStore must do, as a pytest suite."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from kura_cache_adapters.errors import DimensionMismatchError
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.protocols import AnswersAtOnce, EmbeddingStore, VectorSpace

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

IDENTITY = ModelIdentity.of("a model/with: signs")


def key_of(number: int) -> bytes:
    """Return the number's key: 32 bytes, spread like real ones."""
    return sha256(b"%d" % number).digest()


def vectors_of(numbers: list[int], dimension: int = 5, dtype: Any = np.float32) -> NDArray[Any]:
    """Return a vector per number, shape (N, D), a function of the number alone."""
    rows = [np.random.default_rng(number).standard_normal(dimension) for number in numbers]
    return np.array(rows, np.float32).astype(dtype).reshape(-1, dimension)


class StoreContract:
    """Subclass it, and override `open_store` with a function that opens the same store each time."""

    persistent: ClassVar[bool] = True
    """Whether a store that is opened again holds what was put before."""

    counts_spaces: ClassVar[bool] = True
    """Whether `spaces()` of a store that is opened again knows the identities in it."""

    examples: ClassVar[int] = 25
    """How many histories the state machine tries."""

    @pytest.fixture
    def open_store(self) -> Callable[[], EmbeddingStore]:
        """Return a function that opens the store under test."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, open_store: Callable[[], EmbeddingStore]) -> EmbeddingStore:
        """Open the store once."""
        return open_store()

    @pytest.fixture
    def space(self, store: EmbeddingStore) -> VectorSpace:
        """Open a space in the store."""
        return store.space(IDENTITY)

    def test_it_has_the_shape_of_a_store(self, store: EmbeddingStore, space: VectorSpace) -> None:
        assert isinstance(store, EmbeddingStore)
        assert isinstance(space, VectorSpace)

    def test_an_empty_space_finds_nothing(self, store: EmbeddingStore, space: VectorSpace) -> None:
        assert not len(space.get_many([key_of(1)]).positions)
        assert not len(space.get_many([]).positions)
        assert list(space.keys()) == []
        assert space.stats().rows == 0
        assert store.spaces() in ([], [IDENTITY])

    def test_nothing_put_is_nothing_stored(self, space: VectorSpace) -> None:
        space.put_many([], np.empty((0, 5), np.float32))
        assert space.stats().rows == 0

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("count", [1, 2, 300])
    def test_what_was_put_is_found_bit_for_bit(self, space: VectorSpace, dtype: Any, count: int) -> None:
        limits = np.finfo(dtype)
        vectors = vectors_of(list(range(count)), 7, dtype) * dtype(0.1)
        vectors[0] = [-0.0, limits.smallest_subnormal, limits.max, limits.min, limits.tiny, 0, 1]
        space.put_many(map(key_of, range(count)), vectors)
        hits = space.get_many(map(key_of, range(count)))
        assert hits.positions.tolist() == list(range(count))
        assert hits.vectors.astype(np.float64).tobytes() == vectors.astype(np.float64).tobytes()
        for number in {0, count - 1}:
            one = space.get_many([key_of(number)])
            assert one.vectors.shape == (1, 7)
            assert one.vectors.tobytes() == hits.vectors[number].tobytes()

    def test_hits_keep_the_order_of_the_keys(self, space: VectorSpace) -> None:
        space.put_many(map(key_of, [1, 3, 5]), vectors_of([1, 3, 5]))
        space.put_many(map(key_of, [4]), vectors_of([4]))
        hits = space.get_many(map(key_of, [5, 0, 4, 1, 5, 2, 3]))
        assert hits.positions.tolist() == [0, 2, 3, 4, 6]
        assert np.array_equal(hits.vectors, vectors_of([5, 4, 1, 5, 3]))

    def test_a_glance_finds_what_a_look_up_finds_or_nothing(self, space: VectorSpace) -> None:
        if not isinstance(space, AnswersAtOnce):
            return
        assert space.glance([key_of(1)]) is None
        space.put_many(map(key_of, range(4)), vectors_of([*range(4)]))
        for asked in ([1], [3, 1, 2], [2, 2, 0]):
            keys = [*map(key_of, asked)]
            hits, glance = space.get_many(keys), space.glance(keys)
            assert glance is None or glance.positions.tolist() == hits.positions.tolist()
            assert glance is None or np.array_equal(glance.vectors, hits.vectors)
        assert space.glance([key_of(1), key_of(9)]) is None
        space.delete_many([key_of(1)])
        assert space.glance([key_of(1)]) is None

    def test_float64_beside_float32_stays_exact(self, space: VectorSpace) -> None:
        wide = vectors_of([2], dtype=np.float64) / 3
        space.put_many([key_of(1)], vectors_of([1]))
        space.put_many([key_of(2)], wide)
        hits = space.get_many(map(key_of, [1, 2]))
        assert np.array_equal(hits.vectors, np.concatenate([vectors_of([1]), wide]))
        assert np.array_equal(space.get_many([key_of(1)]).vectors, vectors_of([1]))

    def test_keys_that_begin_alike_are_different_keys(self, space: VectorSpace) -> None:
        keys = [bytes(31 - at) + b"\1" * (at + 1) for at in range(20)]
        space.put_many(keys, vectors_of(list(range(20))))
        hits = space.get_many(keys)
        assert np.array_equal(hits.vectors, vectors_of(list(range(20))))
        assert not len(space.get_many([bytes(32)]).positions)

    def test_a_key_put_twice_is_one_entry(self, space: VectorSpace) -> None:
        space.put_many(map(key_of, [1, 2, 1]), vectors_of([1, 2, 1]))
        space.put_many(map(key_of, [2, 3]), vectors_of([2, 3]))
        assert sorted(space.keys()) == sorted(map(key_of, [1, 2, 3]))
        assert np.array_equal(space.get_many([key_of(2)]).vectors, vectors_of([2]))

    def test_a_second_opening_finds_what_the_first_put(
        self,
        open_store: Callable[[], EmbeddingStore],
    ) -> None:
        if not self.persistent:
            return
        first, second = open_store(), open_store()
        assert not len(second.space(IDENTITY).get_many([key_of(1)]).positions)
        first.space(IDENTITY).put_many(map(key_of, range(9)), vectors_of(list(range(9))))
        for store in (second, open_store(), pickle.loads(pickle.dumps(first))):  # noqa: S301 - our own
            hits = store.space(IDENTITY).get_many(map(key_of, range(9)))
            assert np.array_equal(hits.vectors, vectors_of(list(range(9))))
            if self.counts_spaces:
                assert store.spaces() == [IDENTITY]

    def test_models_have_spaces_of_their_own(self, store: EmbeddingStore, space: VectorSpace) -> None:
        other = store.space(ModelIdentity.of("another", {"p": 1}))
        space.put_many([key_of(1)], vectors_of([1]))
        assert not len(other.get_many([key_of(1)]).positions)
        other.put_many([key_of(2)], vectors_of([2], 9))
        assert set(store.spaces()) == {IDENTITY, ModelIdentity.of("another", {"p": 1})}
        assert list(space.keys()) == [key_of(1)]

    def test_another_dimension_is_refused(self, space: VectorSpace) -> None:
        space.put_many([key_of(1)], vectors_of([1]))
        with pytest.raises(DimensionMismatchError, match=r"5.*6"):
            space.put_many([key_of(2)], vectors_of([2], 6))
        assert list(space.keys()) == [key_of(1)]

    def test_another_dimension_is_refused_before_anything_is_found(self, open_store: Any) -> None:
        if not self.persistent:
            pytest.skip("nothing is there before")
        open_store().space(IDENTITY).put_many([key_of(1)], vectors_of([1]))
        with pytest.raises(DimensionMismatchError, match=r"5.*6"):
            open_store().space(IDENTITY).put_many([key_of(2)], vectors_of([2], 6))

    @pytest.mark.parametrize(
        ("keys", "shape"),
        [([b"short"], (1, 4)), ([bytes(32)], (2, 4)), ([bytes(32)], (1, 0)), ([bytes(32)], (4,))],
    )
    def test_what_does_not_fit_is_refused(
        self,
        space: VectorSpace,
        keys: list[bytes],
        shape: tuple[int, ...],
    ) -> None:
        with pytest.raises(ValueError, match="key"):
            space.put_many(keys, np.zeros(shape, np.float32))
        assert space.stats().rows == 0

    @pytest.mark.parametrize("dtype", ["f2", ">f4", ">f8", "i8"])
    def test_another_dtype_is_refused(self, space: VectorSpace, dtype: str) -> None:
        with pytest.raises(ValueError, match="float32 or float64"):
            space.put_many([key_of(1)], np.ones((1, 4), dtype))
        assert space.stats().rows == 0

    def test_a_space_is_the_same_object_each_time(self, store: EmbeddingStore) -> None:
        assert store.space(IDENTITY) is store.space(IDENTITY)

    def test_results_are_copies(self, space: VectorSpace) -> None:
        vectors = vectors_of([1, 2])
        space.put_many(map(key_of, [1, 2]), vectors)
        vectors[:] = 0
        for keys in ([1, 2], [1]):
            space.get_many(map(key_of, keys)).vectors[:] = 7
        assert np.array_equal(space.get_many(map(key_of, [1, 2])).vectors, vectors_of([1, 2]))

    def test_deleted_keys_are_gone(self, space: VectorSpace) -> None:
        space.put_many(map(key_of, range(6)), vectors_of(list(range(6))))
        assert space.delete_many(map(key_of, [1, 4, 99])) == 2
        assert space.delete_many(map(key_of, [1])) == 0
        hits = space.get_many(map(key_of, range(6)))
        assert hits.positions.tolist() == [0, 2, 3, 5]
        assert np.array_equal(hits.vectors, vectors_of([0, 2, 3, 5]))

    def test_a_closed_store_opens_again(self, store: EmbeddingStore) -> None:
        store.space(IDENTITY).put_many([key_of(1)], vectors_of([1]))
        store.close()
        found = len(store.space(IDENTITY).get_many([key_of(1)]).positions)
        assert found == int(self.persistent)
        store.space(IDENTITY).put_many([key_of(2)], vectors_of([2]))
        assert len(store.space(IDENTITY).get_many([key_of(2)]).positions) == 1

    def test_threads_may_share_a_space(self, space: VectorSpace) -> None:
        def work(worker: int) -> None:
            for batch in range(6):
                numbers = [1000 * worker + 10 * batch + at for at in range(10)]
                space.put_many(map(key_of, numbers), vectors_of(numbers))
                hits = space.get_many(map(key_of, [*numbers, -1]))
                assert np.array_equal(hits.vectors, vectors_of(numbers))

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        assert len(set(space.keys())) == 480

    def test_any_history_is_that_of_a_dict(self, open_store: Any) -> None:
        identities = (ModelIdentity.of(f"history {at}") for at in range(10_000))
        contract, numbers = self, st.lists(st.integers(0, 40), max_size=12)

        class History(RuleBasedStateMachine):
            def __init__(self) -> None:
                super().__init__()
                self.identity = next(identities)
                self.store = open_store()
                self.model: set[int] = set()

            @property
            def space(self) -> VectorSpace:
                space: VectorSpace = self.store.space(self.identity)
                return space

            @rule(numbers=numbers, durable=st.booleans())
            def put(self, numbers: list[int], durable: bool) -> None:  # noqa: FBT001
                self.space.put_many(map(key_of, numbers), vectors_of(numbers), durable=durable)
                self.model.update(numbers)

            @rule(numbers=numbers)
            def get(self, numbers: list[int]) -> None:
                hits = self.space.get_many(map(key_of, numbers))
                found = [number for number in numbers if number in self.model]
                assert [numbers[at] for at in hits.positions] == found
                assert np.array_equal(hits.vectors.reshape(-1, 5), vectors_of(found))

            @rule(numbers=numbers)
            def delete(self, numbers: list[int]) -> None:
                there = self.model.intersection(numbers)
                assert self.space.delete_many(map(key_of, numbers)) == len(there)
                self.model -= there

            @rule()
            def list_keys(self) -> None:
                assert sorted(self.space.keys()) == sorted(map(key_of, self.model))

            @precondition(lambda _: contract.persistent)
            @rule()
            def reopen(self) -> None:
                self.store.close()
                self.store = open_store()

        run_state_machine_as_test(
            History,
            settings=settings(
                max_examples=self.examples,
                stateful_step_count=20,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
