"""A weak set is listed while other threads add to it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

import pytest

from kura_cache_adapters._runtime.members import members

if TYPE_CHECKING:
    from collections.abc import Iterator


class Member:
    """What can be referred to weakly."""


class Crowd(WeakSet[Member]):
    """One to which another is added while it is listed."""

    late: tuple[Member, ...] = ()

    def __iter__(self) -> Iterator[Member]:
        for each in super().__iter__():
            for one in self.late:
                self.add(one)
            yield each


def test_what_is_added_while_a_weak_set_is_listed_ends_no_listing() -> None:
    kept = [Member() for _ in range(9)]
    crowd = Crowd(kept[:5])
    crowd.late = tuple(kept[5:])
    assert set(members(crowd)) == {*kept}
    crowd.late = (Member(),)
    with pytest.raises(RuntimeError, match="changed size"):
        list(crowd)
