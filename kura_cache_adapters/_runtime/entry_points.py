"""What other distributions add to this package, by entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from kura_cache_adapters.errors import RegistrationError

if TYPE_CHECKING:
    from collections.abc import Callable


def registered(group: str, name: str, *, fits: Callable[[Any], bool], what: str) -> Any:  # noqa: ANN401 - what fits
    """Load what a distribution registers under a name; None where none does.

    Distributions are looked through at each call (some milliseconds), and only the one entry point
    is loaded: what is broken elsewhere does no harm. Raises RegistrationError for one that cannot
    be loaded or does not fit, and where two distributions claim one name.
    """
    found = [*entry_points(group=group, name=name)]
    if not found:
        return None
    origins = sorted(f"{each.dist.name} {each.dist.version}" if each.dist else each.value for each in found)
    if len(found) > 1:
        raise RegistrationError(group, name, origins, "is claimed more than once")
    try:
        loaded = found[0].load()
    except Exception as error:
        why = f"cannot be loaded from {found[0].value} ({type(error).__name__}: {error})"
        raise RegistrationError(group, name, origins, why) from error
    if not fits(loaded):
        raise RegistrationError(group, name, origins, f"is {found[0].value}, which is not {what}")
    return loaded


def names_in(group: str) -> set[str]:
    """List the names that distributions have registered; nothing is loaded."""
    return entry_points(group=group).names
