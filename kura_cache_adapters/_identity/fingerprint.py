"""What decides a foreign embedder's vectors, read from the live object; never a secret in the clear."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._identity import local_models, modules
from kura_cache_adapters._identity.facts import asked, fact, ruled
from kura_cache_adapters._identity.origin import class_path, own_class
from kura_cache_adapters._identity.providers import record_of
from kura_cache_adapters._identity.reading import Reader, held
from kura_cache_adapters._identity.secrets import deciding_url
from kura_cache_adapters._identity.watch import state_of
from kura_cache_adapters.errors import IdentityError
from kura_cache_adapters.identity import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kura_cache_adapters._identity.record import Provider
    from kura_cache_adapters.identity import Role

FINGERPRINT_VERSION = 2
"""Version of the rules of reading; it is part of every fingerprint."""

METHODS: tuple[dict[Role, str], ...] = (
    {"document": "embed_documents", "query": "embed_query"},  # LangChain
    {"document": "get_text_embedding_batch", "query": "get_query_embedding"},  # LlamaIndex
)
"""How the embedders of the frameworks are asked."""

_ROLES = ("query",)  # what both frameworks ask for
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
    """Read from a live embedder what decides its vectors.

    A known class is read by its record; of another installed one everything counts. Raises
    IdentityError for a class of the user's own, whose code decides, and for what cannot be read,
    unless its name is vouched for; also then for an embedder whose vectors depend on the other texts
    of a batch.
    """
    known = _record(embedder)
    try:
        refuse_own(embedder)
        if known is None:
            return _by_attributes(embedder)
        name, record = known
        if record.local:
            return _of_local(embedder, record)
        read = _of_adapter if record.inner else _by_record
        return read(embedder, name, record)
    except IdentityError:
        if not named:
            raise
        return vouched_for(embedder)


def vouched_for(embedder: Any) -> Fingerprint:  # noqa: ANN401 - of any framework
    """Return what is known of an embedder whose user says what decides its vectors."""
    known = _record(embedder)
    local = next((value for _, value in held(embedder) if local_models.is_local_model(value)), None)
    name = model_name_of(embedder) or type(embedder).__name__
    edits = known[1].edits if known else None
    return Fingerprint(name, {}, _ROLES, local=local, edits=edits)


def _record(embedder: Any) -> tuple[str, Provider] | None:  # noqa: ANN401
    known = record_of(embedder)
    why = ruled(embedder, known[1].refuses) if known else None
    cure = "Use it without a cache."
    if getattr(embedder, "embeddings_cache", None) is not None:  # every LlamaIndex class may have one
        why = "has an embeddings_cache, which answers a query with a document's vector"
        cure = "Set it to None: what is embedded here is cached already."
    if why is not None:
        raise IdentityError(known[0] if known else class_path(embedder), why, cure)
    return known


def state(embedder: Any) -> object:  # noqa: ANN401 - of any framework
    """Return at a glance what is equal for as long as an embedder's fingerprint is.

    A known class is looked at by its record, its clients by which they are; any other class is taken
    as it was when it was wrapped.
    """
    if (known := record_of(embedder)) is None:
        return None
    _, record = known
    told = [_glance(getattr(embedder, name, None), inside=inside) for name, inside in _watched(record)]
    if record.local:
        told.append(local_models.state(getattr(embedder, record.local)))
    if record.inner:
        told.append(state(bare(getattr(embedder, record.inner))))
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


def bare(embedder: Any) -> Any:  # noqa: ANN401 - of any framework
    """Return the embedder beneath wrappers that only adapt or cache; one that was changed does more."""
    known = record_of(embedder)
    if known is None or not known[1].around or _replaced(embedder) is not None:
        return embedder
    return bare(fact(embedder, known[1].around))


def is_embedder(thing: object) -> bool:
    """Tell whether a thing embeds as LangChain's or LlamaIndex's embedders do."""
    return any(hasattr(thing, methods["document"]) for methods in METHODS)


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


def _replaced(embedder: Any) -> str | None:  # noqa: ANN401
    """Name a method that was replaced on this embedder alone, if there is one."""
    mine = getattr(embedder, "__dict__", {})
    return next((name for name in mine if callable(getattr(type(embedder), name, None))), None)


def refuse_own(embedder: object) -> None:
    """Raise IdentityError, with the line to paste, where code of the user's own decides the vectors."""
    if (name := _replaced(embedder)) is not None:
        raise IdentityError(class_path(embedder), f"has its {name} replaced by code of your own")
    own = own_class(embedder)
    if own is None:
        return
    why = (
        f"is of your own code ({own.__module__}.{own.__qualname__}), which decides its vectors and may change"
    )
    cure = f'Name it, with a version to raise then: model_name="{own.__name__}-v1", or identity={{...}}.'
    raise IdentityError(class_path(embedder), why, cure)


def _of_local(embedder: Any, record: Provider) -> Fingerprint:  # noqa: ANN401
    model = fact(embedder, record.local)
    if not local_models.is_local_model(model) or record.encodes is None:
        raise IdentityError(class_path(embedder), f"holds no SentenceTransformer in {record.local}")
    content = local_models.content(model)
    documents, queries = (content.encoding(options) for options in record.encodes(embedder, content))
    fields, of_roles = of_local_model(content, documents, {"query": queries})
    fields |= _read(Reader(embedder, _nested), embedder, _unplaced(embedder, record), record)
    name = model_name_of(embedder) or local_models.NAME
    roles = _ROLES if of_roles or content.routes else ()
    return Fingerprint(name, fields, roles, of_roles, model, record.edits)


def _by_record(embedder: Any, name: str, record: Provider) -> Fingerprint:  # noqa: ANN401
    reader = _reader(embedder, record)
    fields = {
        "class": name,
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


def _of_adapter(embedder: Any, name: str, record: Provider) -> Fingerprint:  # noqa: ANN401
    """Read an embedder that changes another one's queries: its documents are the other one's."""
    beneath = fingerprint(bare(fact(embedder, record.inner)))
    if ruled(embedder, record.alike):
        return beneath
    reader = _reader(embedder, record)
    told = _read(reader, embedder, [*record.queries.split(), *_unplaced(embedder, record)], record)
    queries = {**beneath.of_roles.get("query", {}), "adapter": {"class": name, **told}}
    return replace(beneath, roles=record.roles, of_roles={**beneath.of_roles, "query": queries})


def _reader(embedder: Any, record: Provider) -> Reader:  # noqa: ANN401
    reader = Reader(
        embedder, _nested, silent=frozenset(record.silent.split()), defaults=record.defaults, known=True
    )
    for secret in record.secrets.split():
        reader.is_credential("api_key", fact(embedder, secret))
    return reader


def _by_attributes(embedder: Any) -> Fingerprint:  # noqa: ANN401
    """Read an embedder of an installed package that has no record: all that it holds counts."""
    reader = Reader(embedder, _nested)
    told = reader.attributes(embedder)
    name = model_name_of(embedder)
    if name is None and not told:
        raise IdentityError(class_path(embedder), "says nothing about its model")
    fields = {"class": class_path(embedder), "fingerprint": FINGERPRINT_VERSION, "attributes": told}
    name = type(embedder).__name__ if name is None else name
    return Fingerprint(reader.redacted(name), reader.redacted(fields), _ROLES)


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


def _nested(value: Any) -> Any:  # noqa: ANN401 - JSON, or None
    """Describe an embedder, or a local model, inside another one."""
    if local_models.is_local_model(value):
        content = local_models.content(value)
        return {**content.fields, "encode": content.encoding({}), "prompts": content.prompts}
    if is_embedder(value):
        seen = fingerprint(bare(value))
        return {"name": seen.name, **seen.fields, "roles": seen.of_roles}
    return None
