"""Reads the options of a store from the query of its URL, each by the type of its parameter."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from inspect import Parameter, isclass, signature
from types import NoneType, SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, unquote_plus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Way: TypeAlias = tuple[str, Callable[[str], object]]
    """One way to write a value: how it is called, and what reads it or raises ValueError."""

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_options(scheme: str, store_class: Callable[..., Any], query: str | None) -> dict[str, object]:
    """Return the keyword arguments for a store's class that a URL's query stands for; None has none.

    Raises ValueError, with all the options that there are, for one that is unknown, twice there or
    missing, and for a value that is none of its type.
    """
    keywords, known = _keywords(store_class), _known(store_class)
    needed = [each.name for each in keywords if each.default is Parameter.empty]
    told = parse_qsl(query or "", keep_blank_values=True)
    if query is not None and not told:
        raise ValueError(_refusal(scheme, known, "there is no option behind the ?"))
    if wrong := ", ".join(_wrong([name for name, _ in told], known, needed)):
        raise ValueError(_refusal(scheme, known, wrong))
    return {name: _value(scheme, name, text, known) for name, text in told}


def refusal(scheme: str, store_class: Callable[..., Any], why: str) -> str:
    """Say why a URL cannot be opened, and which options there are."""
    return _refusal(scheme, _known(store_class), why)


def _keywords(store_class: Callable[..., Any]) -> list[Parameter]:
    return [each for each in signature(store_class).parameters.values() if each.kind is each.KEYWORD_ONLY]


def _known(store_class: Callable[..., Any]) -> dict[str, list[Way]]:
    return {each.name: ways for each in _keywords(store_class) if (ways := _ways(store_class, each))}


def take_options(
    scheme: str, store_class: Callable[..., Any], url: str, *, inner: Callable[..., Any] | None = None
) -> tuple[str, dict[str, object]]:
    """Take a store's own options out of its URL: return what is left of it, and the keyword arguments.

    Raises ValueError as `read_options` does; an option that is none of them is left to the server's client,
    and one that the `inner` store has, too, to that as well.
    """
    address, _, query = url.partition("?")
    own = {each.name for each in _keywords(store_class)}
    left = {each.name for each in _keywords(inner)} if inner is not None else set()
    told = [part for part in query.split("&") if part]
    mine = [part for part in told if _option(part) in own]
    rest = "&".join(part for part in told if part not in mine or _option(part) in left)
    return f"{address}?{rest}" if rest else address, read_options(scheme, store_class, "&".join(mine) or None)


def _option(part: str) -> str:
    return unquote_plus(part.partition("=")[0])


def _wrong(told: list[str], known: dict[str, list[Way]], needed: list[str]) -> Iterator[str]:
    yield from (f"there is no option {name!r} (a ? begins the options)" for name in told if name not in known)
    yield from (f"the option {name!r} is missing" for name in needed if name not in told)
    yield from (f"the option {name!r} is there twice" for name in {*told} if told.count(name) > 1)


def _value(scheme: str, name: str, text: str, known: dict[str, list[Way]]) -> object:
    for _, read in known[name]:
        try:
            return read(text)
        except ValueError:
            continue
    raise ValueError(_refusal(scheme, known, f"{name} is {text!r}"))


def _refusal(scheme: str, known: dict[str, list[Way]], why: str) -> str:
    options = [f"{name}=({' | '.join(word for word, _ in ways)})" for name, ways in known.items()]
    return f"{scheme}:// cannot be opened: {why}; its options are: {', '.join(options) or 'none'}"


def _ways(store_class: Callable[..., Any], parameter: Parameter) -> list[Way]:
    """Return how a parameter's values are written, text last; none for what cannot be written in a URL."""
    code = store_class.__init__ if isclass(store_class) else store_class
    only = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        hint = get_type_hints(only, globalns=getattr(code, "__globals__", {}))[parameter.name]
    except (NameError, AttributeError, TypeError):  # a name for type checkers alone
        return []
    ways = sorted(_ways_of(hint), key=lambda way: way[1] is str)
    return ways if any(read is not _none for _, read in ways) else []


def _ways_of(hint: Any) -> list[Way]:  # noqa: ANN401 - a type, or what typing makes of several
    if get_origin(hint) in {Union, UnionType}:
        return [way for each in get_args(hint) for way in _ways_of(each)]
    if get_origin(hint) is Literal:
        return [(str(each), partial(_same, each)) for each in get_args(hint)]
    return [_PLAIN[hint]] if hint in _PLAIN else []


def _same(value: object, text: str) -> object:
    if text != str(value):
        raise ValueError
    return value


def _none(text: str) -> None:
    if text.lower() != "none":
        raise ValueError


def _bool(text: str) -> bool:
    if text.lower() not in _BOOLS:
        raise ValueError
    return _BOOLS[text.lower()]


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        if not float(text).is_integer():
            raise
        return int(float(text))


def read_span(text: str) -> timedelta:
    """Return the time that a number with a unit stands for: `30d`, `1.5h`; raise ValueError for others."""
    try:
        return float(text[:-1]) * _UNITS[text[-1:]]
    except (KeyError, OverflowError) as error:
        raise ValueError(text) from error


_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}

_PLAIN: dict[object, Way] = {
    NoneType: ("none", _none),
    bool: ("true | false", _bool),
    int: ("a whole number", _int),
    float: ("a number", float),
    timedelta: ("a time as in 90s, 15m, 12h, 30d or 8w", read_span),
    str: ("text", str),
}
