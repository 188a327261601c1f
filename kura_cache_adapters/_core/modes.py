"""Modes of a cache: what a miss may cost, and what may be stored."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from kura_cache_adapters._core.engine import Engine
from kura_cache_adapters._core.fail_open import FailOpenSpace
from kura_cache_adapters._observe.events import Failed
from kura_cache_adapters._observe.log import describe
from kura_cache_adapters.errors import CacheMissError, DimensionMismatchError
from kura_cache_adapters.options import CacheOptions
from kura_cache_adapters.protocols import Hits, LooksQuietly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kura_cache_adapters._core.lookup import Lookup
    from kura_cache_adapters._observe.events import Observer
    from kura_cache_adapters.identity import ModelIdentity
    from kura_cache_adapters.protocols import EmbeddingStore, Vectors, VectorSpace

VARIABLE = "KURA_CACHE"
"""The environment variable that sets the mode of all models of a process."""

_PLAIN: dict[str, Any] = {"on_miss": "embed", "refresh": False, "read_only": False, "enabled": True}
_MODES: dict[str, dict[str, Any]] = {
    "embed": {},
    "replay": {"on_miss": "raise", "read_only": True},
    "refresh": {"refresh": True},
    "read-only": {"read_only": True},
    "off": {"enabled": False},
}
_CURE = f'Run once with {VARIABLE}=embed, or CacheOptions(on_miss="embed"), to embed and store them.'


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedOptions(CacheOptions):
    """Options that the environment does not change; `cure` says what to do about a miss."""

    cure: str = _CURE


def effective(options: CacheOptions) -> CacheOptions:
    """Return options in the mode that the environment sets, if it sets one.

    Raises ValueError for a mode that there is not.
    """
    mode = os.environ.get(VARIABLE)
    if not mode or isinstance(options, PinnedOptions):
        return options
    if mode not in _MODES:
        message = f"{VARIABLE}={mode!r} is no mode of a cache: set it to {', '.join(_MODES)}, or unset it"
        raise ValueError(message)
    return replace(options, **{**_PLAIN, **_MODES[mode]})


def miss(
    name: str, keys: Iterable[bytes], asked: int, options: CacheOptions, where: str = "a cache: it has none"
) -> CacheMissError:
    """Return the error about a model's keys that are not there, of so many texts."""
    missing = [key.hex() for key in dict.fromkeys(keys)]
    return CacheMissError(name, missing, asked, where, getattr(options, "cure", _CURE))


class Replay(Engine):
    """An engine that embeds nothing: what is missing is an error before anything is loaded or claimed."""

    def __init__(self, *parts: Any, options: CacheOptions) -> None:
        """Take the parts of an `Engine`, and the options that say what to do about a miss."""
        super().__init__(*parts)
        self._options = options

    def share(self, lookup: Lookup) -> NoReturn:
        """Raise CacheMissError."""
        missing = {lookup.keys[at] for at in lookup.missing}
        self._tell(lookup, missing=len(missing))
        name, where = self._source.name, repr(self._space)
        keys = [key for key in lookup.keys if key in missing]
        error = miss(name, keys, len(lookup.texts), self._options, where)
        self._observe(Failed("embed", name, where, describe(error), lookup.call, error))
        raise error


def engine_of(options: CacheOptions) -> Callable[..., Engine]:
    """Return what makes an engine of its parts as options will have it."""
    return partial(Replay, options=options) if options.on_miss == "raise" else Engine


def space_of(
    store: EmbeddingStore, identity: ModelIdentity, observe: Observer, options: CacheOptions
) -> FailOpenSpace:
    """Open a model's space as its options will have it."""
    reads = ReadOnlySpace if options.read_only else FailOpenSpace
    kind = RefreshingSpace if options.refresh else reads
    return kind(store, identity, observe, durable=options.durable)


def quiet(space: VectorSpace) -> VectorSpace:
    """Return a space whose look-ups write nothing, where a space can tell them apart."""
    return space.quiet() if isinstance(space, LooksQuietly) else space


class ReadOnlySpace(FailOpenSpace):
    """A space in which nothing is stored, claimed or noted."""

    def claim(self, keys: Sequence[bytes]) -> None:
        """Claim nothing: a claim is a file."""

    def save(self, *_: Any, **__: Any) -> int:
        """Store nothing."""
        return 0

    def _forget(self, keys: list[bytes]) -> bool:  # noqa: ARG002 - of `add`, in the place of known ones
        return False

    def _open(self) -> VectorSpace:
        return quiet(super()._open())


class RefreshingSpace(FailOpenSpace):
    """A space in which nothing is found, and what is stored takes the place of what was."""

    def __init__(
        self, store: EmbeddingStore, identity: ModelIdentity, observe: Observer, *, durable: bool
    ) -> None:
        """Name the space, see `FailOpenSpace`."""
        super().__init__(store, identity, observe, durable=durable)
        self._stored = FailOpenSpace(store, identity, observe, durable=durable)

    def load(self, keys: Sequence[bytes]) -> Hits | None:
        """Find nothing; None where the store fails."""
        return None if self._stored.load(keys) is None else Hits.none()

    def glance(self, keys: list[bytes]) -> None:
        """Find nothing."""

    def claim(self, keys: Sequence[bytes]) -> None:
        """Claim nothing: what others embed meanwhile is embedded here all the same."""

    def answerer(self) -> str:
        """Return the name under which a server has answered for what is stored."""
        return self._stored.answerer()

    def add(self, keys: Sequence[bytes], vectors: Vectors, *, replace: bool, answerer: str = "") -> int:
        """Store vectors of distinct keys, see `FailOpenSpace`."""
        return self._stored.add(keys, vectors, replace=replace, answerer=answerer)

    def save(self, keys: Sequence[bytes], vectors: Vectors, *, answerer: str = "", **_: Any) -> int:
        """Store a batch in the place of what is known of its keys; return how many it has now."""
        try:
            return self.add(keys, vectors, replace=True, answerer=answerer)
        except DimensionMismatchError as error:
            self._report("write", error)
            return 0
