"""What decides an embedder's vectors, read from the live object; never a secret in the clear."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._identity import local_models, modules
from kura_cache_adapters._identity.facts import asked, fact, ruled
from kura_cache_adapters._identity.origin import class_path, own_class, replaced_method
from kura_cache_adapters._identity.providers import DIALECTS, Known, known
from kura_cache_adapters._identity.reading import Reader, held
from kura_cache_adapters._identity.secrets import deciding_url
from kura_cache_adapters._identity.watch import state_of
from kura_cache_adapters.errors import IdentityError
from kura_cache_adapters.identity import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kura_cache_adapters._identity.dialect import Dialect
    from kura_cache_adapters._identity.record import Provider
    from kura_cache_adapters.identity import Role

FINGERPRINT_VERSION = 2
"""Version of the rules of reading; it is part of every fingerprint."""

_SCALARS = (str, int, float, bool, type(None))
_MODEL_NAMES = ("model_name", "model", "model_id")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """An embedder's name, what else decides its vectors, and which roles it tells apart.

    `of_roles` holds what decides those of one role only. `local` is the model in this process that one
    thread at a time may use, if there is one; `edits` what becomes of a text before it is embedded.
    """

    name: str
    fields: dict[str, Any]
    roles: tuple[Role, ...]
    of_roles: dict[Role, dict[str, Any]] = field(default_factory=dict)
    local: object | None = None
    edits: Callable[[str], str] | None = None

    @property
    def identity(self) -> ModelIdentity:
        """What is in the keys; of a local model the name that it was found by is not."""
        name = self.name if self.local is None else local_models.NAME
        return ModelIdentity.of(name, {}, self.fields, self.of_roles)


def fingerprint(embedder: Any, *, named: bool = False) -> Fingerprint:  # noqa: ANN401 - of any framework
    """Look a live embedder up, beneath its wrappers, and read it, see `read`."""
    return read(known(embedder), named=named)


def read(seen: Known, *, named: bool = False) -> Fingerprint:
    """Read from a live embedder what decides its vectors.

    A known class is read by its record; of another installed one everything counts. Raises
    IdentityError for a class of the user's own, whose code decides, and for what cannot be read,
    unless its name is vouched for; also then for an embedder whose vectors depend on the other texts
    of a batch.
    """
    _refuse_unfit(seen)
    try:
        refuse_own(seen.embedder)
        return _reading(seen)
    except IdentityError:
        if not named:
            raise
        return vouched_for(seen)


def vouched_for(seen: Known) -> Fingerprint:
    """Return what is known of an embedder whose user says what decides its vectors."""
    _refuse_unfit(seen)
    local = next((value for _, value in held(seen.embedder) if local_models.is_local_model(value)), None)
    name = model_name_of(seen.embedder) or type(seen.embedder).__name__
    edits = None if seen.record is None else seen.record.edits
    return Fingerprint(name, {}, seen.roles, local=local, edits=edits)


def _reading(seen: Known) -> Fingerprint:
    if seen.record is None:
        return _by_attributes(seen)
    by = _of_local if seen.record.local else _of_adapter if seen.record.inner else _by_record
    return by(seen, seen.record)


def _refuse_unfit(seen: Known) -> None:
    """Raise IdentityError for an embedder whose answers are no vectors of their texts."""
    why = None if seen.record is None else ruled(seen.embedder, seen.record.refuses)
    cure = "Use it without a cache."
    own_cache = "" if seen.dialect is None else seen.dialect.own_cache
    if own_cache and getattr(seen.embedder, own_cache, None) is not None:
        why = f"has an {own_cache}, which answers a query with a document's vector"
        cure = "Set it to None: what is embedded here is cached. To keep what it holds, pass fallback=it."
    if why is not None:
        raise IdentityError(seen.path, why, cure)


def state(seen: Known) -> object:
    """Return at a glance what is equal for as long as an embedder's fingerprint is.

    A known class is looked at by its record, its clients by which they are; any other class is taken
    as it was when it was wrapped.
    """
    if (record := seen.record) is None:
        return None
    embedder = seen.embedder
    told = [_glance(getattr(embedder, name, None), inside=inside) for name, inside in _watched(record)]
    if record.local:
        told.append(local_models.state(getattr(embedder, record.local)))
    if record.inner:
        told.append(state(known(getattr(embedder, record.inner))))
    return told


@lru_cache(maxsize=256)
def _watched(record: Provider) -> tuple[tuple[str, bool], ...]:
    return record.watched


def _glance(value: Any, *, inside: bool) -> object:  # noqa: ANN401
    if isinstance(value, _SCALARS):
        return value
    if inside:
        return id(value)
    return state_of(value) if modules.is_torch(value) else repr(value)


def model_name_of(embedder: object, *attributes: str) -> str | None:
    """Return the name by which people know an embedder's model; None where it says none."""
    names = (getattr(embedder, attribute, None) for attribute in attributes or _MODEL_NAMES)
    plain = (name.value if isinstance(name, Enum) else name for name in names)
    told = (str(name).removeprefix("models/") for name in plain if isinstance(name, str))
    return next(
        (deciding_url(name) if "://" in name else name for name in told if name not in {"", "unknown"}), None
    )


def of_local_model(
    content: local_models.Content, documents: dict[str, Any], others: dict[Role, dict[str, Any]]
) -> tuple[dict[str, Any], dict[Role, dict[str, Any]]]:
    """Return the fields of a local model, and those of the roles that are encoded in another way."""
    roles = {role: {"encode": encoding} for role, encoding in others.items() if encoding != documents}
    return {**content.fields, "encode": documents}, roles


def refuse_own(embedder: object) -> None:
    """Raise IdentityError, with the line to paste, where code of the user's own decides the vectors."""
    if (name := replaced_method(embedder)) is not None:
        raise IdentityError(class_path(embedder), f"has its {name} replaced by code of your own")
    own = own_class(embedder)
    if own is None:
        return
    why = (
        f"is of your own code ({own.__module__}.{own.__qualname__}), which decides its vectors and may change"
    )
    cure = f'Name it, with a version to raise then: model_name="{own.__name__}-v1", or identity={{...}}.'
    raise IdentityError(class_path(embedder), why, cure)


def _of_local(seen: Known, record: Provider) -> Fingerprint:
    embedder = seen.embedder
    model = fact(embedder, record.local)
    if not local_models.is_local_model(model) or record.encodes is None:
        raise IdentityError(class_path(embedder), f"holds no SentenceTransformer in {record.local}")
    content = local_models.content(model)
    documents, queries = (content.encoding(options) for options in record.encodes(embedder, content))
    fields, of_roles = of_local_model(content, documents, {"query": queries})
    fields |= _read(Reader(embedder, _within(seen)), embedder, _unplaced(embedder, record), record)
    name = model_name_of(embedder) or local_models.NAME
    roles = record.roles if of_roles or content.routes else ()
    return Fingerprint(name, fields, roles, of_roles, model, record.edits)


def _by_record(seen: Known, record: Provider) -> Fingerprint:
    embedder, reader = seen.embedder, _reader(seen, record)
    fields = {
        "class": seen.path,
        "fingerprint": FINGERPRINT_VERSION,
        **_read(reader, embedder, record.decides.split(), record),
        **_read(reader, embedder, _unplaced(embedder, record), record),
        **asked(embedder, record),
    }
    only: dict[Role, str] = {"query": record.queries, "document": record.documents}
    of_roles: dict[Role, dict[str, Any]] = {
        role: told for role, names in only.items() if (told := _read(reader, embedder, names.split(), record))
    }
    told_name = type(embedder).__name__
    if record.name and fact(embedder, record.name) is not None:
        told_name = reader.redacted(model_name_of(embedder, record.name) or told_name)
    roles = () if ruled(embedder, record.alike) else record.roles
    return Fingerprint(told_name, reader.redacted(fields), roles, reader.redacted(of_roles))


def _of_adapter(seen: Known, record: Provider) -> Fingerprint:
    """Read an embedder that changes another one's queries: its documents are the other one's."""
    embedder = seen.embedder
    beneath = fingerprint(fact(embedder, record.inner))
    if ruled(embedder, record.alike):
        return beneath
    reader = _reader(seen, record)
    told = _read(reader, embedder, [*record.queries.split(), *_unplaced(embedder, record)], record)
    queries = {**beneath.of_roles.get("query", {}), "adapter": {"class": seen.path, **told}}
    return replace(beneath, roles=record.roles, of_roles={**beneath.of_roles, "query": queries})


def _reader(seen: Known, record: Provider) -> Reader:
    silent = frozenset(record.silent.split())
    reader = Reader(seen.embedder, _within(seen), silent=silent, defaults=record.defaults, known=True)
    for secret in record.secrets.split():
        reader.is_credential("api_key", fact(seen.embedder, secret))
    return reader


def _by_attributes(seen: Known) -> Fingerprint:
    """Read an embedder of an installed package that has no record: all that it holds counts."""
    embedder = seen.embedder
    reader = Reader(embedder, _within(seen))
    told = reader.attributes(embedder)
    name = model_name_of(embedder)
    if name is None and not told:
        raise IdentityError(class_path(embedder), "says nothing about its model")
    fields = {"class": seen.path, "fingerprint": FINGERPRINT_VERSION, "attributes": told}
    name = type(embedder).__name__ if name is None else name
    return Fingerprint(reader.redacted(name), reader.redacted(fields), seen.roles)


def _read(reader: Reader, embedder: Any, names: Iterable[str], record: Provider) -> dict[str, Any]:  # noqa: ANN401
    """Read fields by name; None, and what the record knows as saying nothing, is left out."""
    found = {}
    for name in names:
        value = fact(embedder, name)
        if value is not None and not (name in record.defaults and record.defaults[name] == value):
            found[name.rstrip("?")] = reader.attribute(name, value)
    return {name: told for name, told in found.items() if told not in ({}, [])}


def _unplaced(embedder: Any, record: Provider) -> list[str]:  # noqa: ANN401
    """Name the fields that a newer release has and the record does not place: they count."""
    placed = {name.rstrip("?") for name in record.placed()}
    return [name for name, _ in held(embedder) if name not in placed]


def _within(seen: Known) -> Callable[[Any], Any]:
    """Return what describes a local model inside, or an embedder of this one's framework or a known one."""
    return partial(_nested, DIALECTS if seen.dialect is None else (*DIALECTS, seen.dialect))


def _nested(dialects: tuple[Dialect, ...], value: Any) -> Any:  # noqa: ANN401 - JSON, or None
    if local_models.is_local_model(value):
        content = local_models.content(value)
        return {**content.fields, "encode": content.encoding({}), "prompts": content.prompts}
    if any(dialect.fits(value) for dialect in dialects):
        seen = fingerprint(value)
        return {"name": seen.name, **seen.fields, "roles": seen.of_roles}
    return None
