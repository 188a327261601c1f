"""When two requests are the same: a model's identity, the roles, and the cache key."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from hashlib import sha256
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Role: TypeAlias = str
"""What a text is embedded as: "document", "query", "classification", any string that a model tells apart."""

DOCUMENT: Role = "document"
"""What a text is embedded as where nothing else is said, and by models that tell no roles apart."""

KEY_VERSION = 1
"""Version of the key's encoding (docs/format.md); it is hashed into every key."""

_SHOWN = 60  # characters of a value, for people
_SCALARS = (str, int, float, bool, type(None))


class Difference(NamedTuple):
    """A field in which two identities differ, as `parameters.batch_size`: JSON, empty where it is absent."""

    field: str
    here: str
    there: str

    def __str__(self) -> str:
        """Say it, long values shortened."""
        here, there = (value or "nothing" for value in self[1:])
        return f"{self.field} {_shortened(here)} here, {_shortened(there)} there"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Everything but role and text that decides a vector, as one canonical JSON text each.

    Build it with `ModelIdentity.of`. Two identities are equal exactly when their keys are.
    """

    model_name: str
    parameters: str
    source: str
    roles: str = "{}"

    @classmethod
    def of(
        cls,
        model_name: str,
        parameters: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
        roles: Mapping[Role, Mapping[str, Any]] | None = None,
    ) -> ModelIdentity:
        """Build an identity from a model's name, the caller's parameters and the source's own.

        `roles` says what else decides the vectors of one role: it replaces equally named fields of
        the source in that role's keys, and moves no other's.

        Raises:
            TypeError: a value that JSON cannot hold exactly (the message names it).
            ValueError: a NaN, an infinity, or a lone surrogate, which JSON cannot tell from half a pair.

        """
        _encodable(model_name, "model_name")
        return cls(
            model_name,
            _canonical(parameters or {}, "parameter"),
            _canonical(source or {}, "identity field"),
            _canonical({checked_role(role): fields for role, fields in (roles or {}).items()}, "role"),
        )

    @property
    def shared(self) -> ModelIdentity:
        """The part that all roles share: a space holds the vectors of them all."""
        return replace(self, roles="{}")

    def with_parameters(self, parameters: Mapping[str, Any]) -> ModelIdentity:
        """Return this identity with further parameters, which replace equally named ones."""
        merged = {**json.loads(self.parameters), **parameters}
        return self.of(self.model_name, merged, json.loads(self.source), json.loads(self.roles))

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelIdentity:
        """Read what `to_json` wrote; raise ValueError for anything else."""
        try:
            fields = json.loads(text)
            if fields["version"] != KEY_VERSION:
                message = f"its key version is not {KEY_VERSION}"
                raise ValueError(message)
            return cls.of(_name(fields["model_name"]), fields["parameters"], fields["source"])
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            message = f"not an identity: {error!r}"
            raise ValueError(message) from error

    def to_json(self) -> str:
        """Write what all roles share for people: indented JSON that `from_json` reads back."""
        fields = {
            "version": KEY_VERSION,
            "model_name": self.model_name,
            "parameters": json.loads(self.parameters),
            "source": json.loads(self.source),
        }
        return json.dumps(fields, indent=2) + "\n"

    def differences(self, there: ModelIdentity) -> tuple[Difference, ...]:
        """List the fields in which another identity differs from this one; what roles add is left out."""
        mine, others = self._fields(), there._fields()
        names = sorted(mine.keys() | others.keys())
        told = (Difference(name, mine.get(name, ""), others.get(name, "")) for name in names)
        return tuple(each for each in told if each.here != each.there)

    def _fields(self) -> dict[str, str]:
        parts = {"parameters": json.loads(self.parameters), "source": json.loads(self.source)}
        return dict(_flat({"model_name": self.model_name, **parts}, ""))

    def head(self, role: Role) -> bytes:
        """Encode all but the text: canonical JSON, ended by a NUL, which JSON cannot contain.

        Raises:
            TypeError: a role that is no str.
            ValueError: an empty one, or one with a lone surrogate.

        """
        role = checked_role(role)
        name, source = json.dumps(self.model_name), self.source
        if of_role := json.loads(self.roles).get(role):
            source = _canonical({**json.loads(source), **of_role}, "identity field")
        return (
            f'{{"model_name":{name},"parameters":{self.parameters},"role":{json.dumps(role)},'
            f'"source":{source},"version":{KEY_VERSION}}}\0'
        ).encode("ascii")

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 of what all roles share (64 characters)."""
        return sha256(self.shared.head("document")).hexdigest()

    @property
    def directory(self) -> str:
        """A name for a directory: readable characters of the model's name, then 16 of the digest."""
        readable = re.sub(r"[^A-Za-z0-9._]+", "-", self.model_name)[-48:].strip("-.")
        return f"{readable or 'model'}-{self.digest[:16]}"


def _flat(fields: Mapping[str, Any], before: str) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{name}.")
        elif value != {} or before:
            yield f"{before}{name}", json.dumps(value)


def _shortened(value: str) -> str:
    return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."


def checked_role(role: object) -> Role:
    """Return a role as a plain str; raise TypeError or ValueError for what is none."""
    if not isinstance(role, str):
        message = f"a role is a str, not {type(role).__name__}"
        raise TypeError(message)
    if not role:
        message = 'a role is not empty: role="document" is what texts are embedded as by default'
        raise ValueError(message)
    _encodable(role, "a role")
    return str.__add__(role, "")  # a member of an enum is written as its value


def checked_roles(roles: object, who: str) -> tuple[Role, ...]:
    """Return the roles beside "document"; raise TypeError or ValueError unless they are several strings."""
    if isinstance(roles, str) or not isinstance(roles, Collection):
        message = f'{who}.roles must be a collection of strings, as in ("query",), not {type(roles).__name__}'
        raise TypeError(message)
    return tuple(role for role in map(checked_role, roles) if role != DOCUMENT)


def known_role(role: object, roles: Collection[Role], who: str) -> Role:
    """Return what a model with these roles embeds a text as that is asked for in a role.

    "document", whatever is asked for, where it tells none apart. Raises ValueError for a role that
    is not among them: a typo is no document.
    """
    role = checked_role(role)
    if role == DOCUMENT or not roles:
        return DOCUMENT
    if role in roles:
        return role
    message = f"{who} embeds texts as {', '.join(map(repr, (DOCUMENT, *roles)))}, not as {role!r}"
    raise ValueError(message)


def _canonical(fields: Mapping[str, Any], kind: str) -> str:
    for name, value in fields.items():
        _refuse_inexact(value, f"{kind} {_name(name, f'a name of a {kind}')!r}")
    return json.dumps(dict(fields), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _refuse_inexact(value: object, where: str) -> None:
    if type(value) in _SCALARS:
        _encodable(value, where)
        return
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_inexact(item, f"{where}[{index}]")
        return
    if isinstance(value, dict):
        for name, item in value.items():
            _name(name, f"a key of {where}")
            _refuse_inexact(item, f"{where}[{name!r}]")
        return
    message = (
        f"{where} is a {type(value).__name__}, which has no exact place in a cache key; "
        "pass a str, int, float, bool, None, list, tuple or dict that says the same."
    )
    raise TypeError(message)


def _name(value: object, what: str = "model_name") -> str:
    if type(value) is str:
        _encodable(value, what)
        return value
    message = f"{what} must be a str, not {type(value).__name__}"
    raise TypeError(message)


def _encodable(value: object, where: str) -> None:
    if isinstance(value, float) and not isfinite(value):
        message = f"{where} is {value}, which has no exact place in a cache key: pass None, or a str"
        raise ValueError(message)
    if not isinstance(value, str):
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        message = f"{where} has a lone surrogate, which has no exact place in a cache key: {value!a:.80}"
        raise ValueError(message) from error
