"""The errors that callers may meet, and the one that names a missing extra."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from kura_cache_adapters.spaces import CleaningReceipt

_MOST_POSITIONS = 20  # named in a message
_MOST_KEYS = 3  # likewise


class KuraCacheError(Exception):
    """Base of every error that this package defines."""


class VectorCountError(KuraCacheError, ValueError):
    """The model answered with another number of vectors than asked for, or with none in an order."""

    def __init__(
        self,
        model_name: str,
        asked: int,
        answered: int | str,
        cure: str = "Check the model's batching, then call again.",
    ) -> None:
        """Name the model, the number of texts asked, what came back, and what to do."""
        super().__init__(
            f"{model_name} was asked for {asked} vectors and answered with {answered}; "
            f"nothing of this answer was stored. {cure}",
        )


class AnswerError(KuraCacheError, ValueError):
    """A server answered with success, and with something that is no embeddings."""

    def __init__(self, address: str, answer: str, cure: str = "") -> None:
        """Quote what came from where, and say what to do."""
        message = f"{address} answered with no embeddings but with: {answer or 'nothing'}"
        super().__init__(f"{message}\n{cure}" if cure else message)


class RefusedTextsError(KuraCacheError, ValueError):
    """Some texts were refused by the model's server, one by one; the others were embedded.

    Its cause is the first refusal.

    Attributes:
        model_name: the model's.
        positions: where they stand in the texts of the call, rising.
        message: the server's, for the first of them.

    """

    def __init__(self, model_name: str, positions: Sequence[int], message: str) -> None:
        """Name the model and the positions, and quote the server's message for the first of them."""
        self.model_name = model_name
        self.positions: tuple[int, ...] = tuple(positions)
        self.message = message
        self.keys: Sequence[bytes] = ()  # by which a cache finds the positions in its own caller's call
        shown = ", ".join(map(str, self.positions[:_MOST_POSITIONS]))
        more = ", ..." if len(self.positions) > _MOST_POSITIONS else ""
        super().__init__(
            f"{model_name} refused {len(self.positions)} of the texts, at position {shown}{more}: {message}\n"
            "The others were embedded, and are stored where there is a cache.",
        )

    def __reduce__(self) -> tuple[type[RefusedTextsError], tuple[str, tuple[int, ...], str]]:
        """Pickle what the constructor takes."""
        return type(self), (self.model_name, self.positions, self.message)


class CacheMissError(KuraCacheError, LookupError):
    """Texts are not in the cache, and its options say that none is to be embedded.

    Attributes:
        model_name: the model's.
        keys: the keys of those texts, each once, as `cache_key` gives them.

    """

    def __init__(self, model_name: str, keys: Sequence[str], asked: int, where: str, cure: str) -> None:
        """Name the model, how many of the texts are missing where, the first keys, and what to do."""
        self.model_name = model_name
        self.keys: tuple[str, ...] = tuple(keys)
        self._told = asked, where, cure
        shown = ", ".join(self.keys[:_MOST_KEYS]) + (", ..." if len(self.keys) > _MOST_KEYS else "")
        super().__init__(
            f"{len(self.keys)} of {asked} texts for {model_name} are not in {where}. Nothing was embedded.\n"
            f"{cure}\nKeys: {shown}",
        )

    def __reduce__(self) -> tuple[type[CacheMissError], tuple[object, ...]]:
        """Pickle what the constructor takes."""
        return type(self), (self.model_name, self.keys, *self._told)


class DimensionMismatchError(KuraCacheError, ValueError):
    """Vectors of two dimensions met where only one may be."""


class IdentityError(KuraCacheError, ValueError):
    """Nothing can be said about what decides an embedder's vectors, so none can be cached."""

    def __init__(
        self,
        what: str,
        why: str,
        cure: str = "Pass model_name=... or identity={...}: whatever changes its vectors must be in there.",
    ) -> None:
        """Name the embedder, the reason, and what to do."""
        super().__init__(f"{what} {why}. {cure}")


class RegistrationError(KuraCacheError, ValueError):
    """What another distribution adds to this package by an entry point cannot be used."""

    def __init__(self, group: str, name: str, distributions: Sequence[str], why: str) -> None:
        """Name the entry point, whose it is, and what is wrong with it."""
        owners = " and ".join(distributions)
        super().__init__(f"{name!r} of {owners} ({group}) {why}. Update or uninstall {owners}.")


class DamagedSegmentError(KuraCacheError, OSError):
    """A segment's file is not what its writer left: cut, overwritten or foreign."""


class OtherVersionError(DamagedSegmentError):
    """A file is of another version of its format: another release may read it."""


class UnsupportedError(KuraCacheError, NotImplementedError):
    """A store cannot do what was asked of it; nothing was changed."""


class UnreachableError(KuraCacheError, ConnectionError):
    """A remote store did not answer or has refused, to someone who has to know; embedding goes on without."""


class SpaceBusyError(KuraCacheError, OSError):
    """Another process was merging or cleaning a space for longer than is waited for it.

    Attributes:
        names: the spaces that were left as they are.
        receipt: what was cleaned of the others; None where the space was the only one.

    """

    def __init__(self, names: Sequence[str], receipt: CleaningReceipt | None = None) -> None:
        """Name the spaces, and say what was done."""
        self.names: tuple[str, ...] = tuple(names)
        self.receipt: CleaningReceipt | None = receipt
        super().__init__(
            f"Another process is merging or cleaning {', '.join(self.names)}, which was left as it is. "
            "Call again in a moment.",
        )

    def __reduce__(self) -> tuple[type[SpaceBusyError], tuple[tuple[str, ...], CleaningReceipt | None]]:
        """Pickle what the constructor takes."""
        return type(self), (self.names, self.receipt)


class CheckpointError(KuraCacheError, ValueError):
    """A checkpoint could not be read or written; the message names its file."""


class MissingExtraError(KuraCacheError, ImportError):
    """An optional package is needed here and is not installed."""


def require(package: str, *, extra: str) -> ModuleType:
    """Import an optional package.

    Raises:
        MissingExtraError: it is not installed; the message has the pip line of its extra.

    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package.partition(".")[0]:
            raise
        message = f"{package} is not installed. Install it with: pip install 'kura-cache-adapters[{extra}]'"
        raise MissingExtraError(message, name=package) from error


class ReentryError(KuraCacheError, RuntimeError):
    """A signal handler uses the cache in the middle of the use that it interrupts, or would wait for it."""
