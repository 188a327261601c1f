"""What decides a foreign embedder's vectors, read from the live object; never a secret in the clear."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._identity import local_models
from kura_cache_adapters._identity.origin import class_path, own_class
from kura_cache_adapters._identity.providers import record_of
from kura_cache_adapters._identity.reading import Reader, held
from kura_cache_adapters._identity.secrets import deciding_headers, deciding_query, deciding_url
from kura_cache_adapters.errors import IdentityError
from kura_cache_adapters.identity import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kura_cache_adapters._identity.providers import Provider
    from kura_cache_adapters.identity import Role

FINGERPRINT_VERSION = 2
"""Version of the rules of reading; it is part of every fingerprint."""

METHODS: tuple[dict[Role, str], ...] = (
    {"document": "embed_documents", "query": "embed_query"},  # LangChain
    {"document": "get_text_embedding_batch", "query": "get_query_embedding"},  # LlamaIndex
)
"""How the embedders of the frameworks are asked."""

_SCALARS = (str, int, float, bool, type(None))
_MODEL_NAMES = ("model_name", "model", "model_id")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """An embedder's name, what else decides its vectors, and whether queries are documents.

    `roles` holds what decides those of one role only. `local` is the model in this process that one
    thread at a time may use, if there is one; `edits` what becomes of a text before it is embedded.
    """

    name: str
    fields: dict[str, Any]
    symmetric: bool
    roles: dict[Role, dict[str, Any]] = field(default_factory=dict)
    local: object | None = None
    edits: Callable[[str], str] | None = None

    @property
    def identity(self) -> ModelIdentity:
        """What is in the keys; of a local model the name that it was found by is not."""
        name = self.name if self.local is None else local_models.NAME
        return ModelIdentity.of(name, {}, self.fields, self.roles)


def fingerprint(embedder: Any, *, named: bool = False) -> Fingerprint:  # noqa: ANN401 - of any framework
    """Read from a live embedder what decides its vectors.

    A known class is read by its record; of another installed one everything counts. Raises
    IdentityError for a class of the user's own, whose code decides, and for what cannot be read,
    unless its name is vouched for; also then for an embedder whose vectors depend on the other texts
    of a batch.
    """
    known = _record(embedder)
    try:
        _refuse_own(embedder)
        if known is None:
            return _by_attributes(embedder)
        name, record = known
        return _of_local(embedder, record) if record.local else _by_record(embedder, name, record)
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
    return Fingerprint(name, {}, symmetric=False, local=local, edits=edits)


def _record(embedder: Any) -> tuple[str, Provider] | None:  # noqa: ANN401
    known = record_of(embedder)
    if known and (why := known[1].refuses(embedder)) is not None:
        raise IdentityError(known[0], why, cure="Use it without a cache.")
    return known


def state(embedder: Any) -> object:  # noqa: ANN401 - of any framework
    """Return at a glance what is equal for as long as an embedder's fingerprint is.

    A known class is looked at by its record; any other is taken as it was when it was wrapped.
    """
    if (known := record_of(embedder)) is None:
        return None
    _, record = known
    names = (record.name, record.decides, record.queries, record.documents, record.headers, record.parameters)
    values = (getattr(embedder, name.rstrip("?"), None) for part in names for name in part.split())
    told = [value if isinstance(value, _SCALARS) else repr(value) for value in values]
    return [told, local_models.state(getattr(embedder, record.local)) if record.local else None]


def bare(embedder: Any) -> Any:  # noqa: ANN401 - of any framework
    """Return the embedder beneath wrappers that only adapt or cache."""
    known = record_of(embedder)
    return bare(getattr(embedder, known[1].around)) if known is not None and known[1].around else embedder


def is_embedder(thing: object) -> bool:
    """Tell whether a thing embeds as LangChain's or LlamaIndex's embedders do."""
    return any(hasattr(thing, methods["document"]) for methods in METHODS)


def model_name_of(embedder: object, *attributes: str) -> str | None:
    """Return the name by which people know an embedder's model; None where it says none."""
    names = (getattr(embedder, attribute, None) for attribute in attributes or _MODEL_NAMES)
    told = (str(name).removeprefix("models/") for name in names if isinstance(name, str))
    return next(
        (deciding_url(name) if "://" in name else name for name in told if name not in {"", "unknown"}), None
    )


def of_local_model(
    content: local_models.Content, documents: dict[str, Any], queries: dict[str, Any]
) -> tuple[dict[str, Any], dict[Role, dict[str, Any]]]:
    """Return the fields of a local model, and the queries' own where the two are encoded differently."""
    roles: dict[Role, dict[str, Any]] = {} if documents == queries else {"query": {"encode": queries}}
    return {**content.fields, "encode": documents}, roles


def _refuse_own(embedder: object) -> None:
    own = own_class(embedder)
    if own is None:
        return
    why = (
        f"is of your own code ({own.__module__}.{own.__qualname__}), which decides its vectors and may change"
    )
    cure = f'Name it, with a version to raise then: model_name="{own.__name__}-v1", or identity={{...}}.'
    raise IdentityError(class_path(embedder), why, cure)


def _of_local(embedder: Any, record: Provider) -> Fingerprint:  # noqa: ANN401
    model = _fact(embedder, record.local)
    if not local_models.is_local_model(model) or record.encodes is None:
        raise IdentityError(class_path(embedder), f"holds no SentenceTransformer in {record.local}")
    content = local_models.content(model)
    documents, queries = (content.encoding(options) for options in record.encodes(embedder, content))
    fields, roles = of_local_model(content, documents, queries)
    fields |= _read(Reader(embedder, _nested), embedder, _unplaced(embedder, record), record)
    name = model_name_of(embedder) or local_models.NAME
    return Fingerprint(name, fields, not roles and not content.routes, roles, model, record.edits)


def _by_record(embedder: Any, name: str, record: Provider) -> Fingerprint:  # noqa: ANN401
    reader = Reader(embedder, _nested, silent=frozenset(record.silent.split()), defaults=record.defaults)
    for secret in record.secrets.split():
        reader.is_credential("api_key", getattr(embedder, secret.rstrip("?"), None))
    fields = {
        "class": name,
        "fingerprint": FINGERPRINT_VERSION,
        **_read(reader, embedder, record.decides.split(), record),
        **_read(reader, embedder, _unplaced(embedder, record), record),
        **_asked(embedder, record),
    }
    if record.inner:
        fields["inner"] = fingerprint(_fact(embedder, record.inner)).fields
    only: dict[Role, str] = {"query": record.queries, "document": record.documents}
    roles: dict[Role, dict[str, Any]] = {
        role: told for role, names in only.items() if (told := _read(reader, embedder, names.split(), record))
    }
    told_name = reader.redacted(model_name_of(embedder, record.name) or type(embedder).__name__)
    return Fingerprint(told_name, reader.redacted(fields), record.symmetric(embedder), reader.redacted(roles))


def _by_attributes(embedder: Any) -> Fingerprint:  # noqa: ANN401
    """Read an embedder of an installed package that has no record: all that it holds counts."""
    reader = Reader(embedder, _nested)
    told = reader.attributes(embedder)
    name = model_name_of(embedder)
    if name is None and not told:
        raise IdentityError(class_path(embedder), "says nothing about its model")
    fields = {"class": class_path(embedder), "fingerprint": FINGERPRINT_VERSION, "attributes": told}
    name = type(embedder).__name__ if name is None else name
    return Fingerprint(reader.redacted(name), reader.redacted(fields), symmetric=False)


def _read(reader: Reader, embedder: Any, names: Sequence[str], record: Provider) -> dict[str, Any]:  # noqa: ANN401
    """Read fields by name; None, and what the record knows as saying nothing, is left out."""
    found = {}
    for name in names:
        value = _fact(embedder, name)
        if value is not None and not (name in record.defaults and record.defaults[name] == value):
            found[name.rstrip("?")] = reader.attribute(name, value)
    return {name: told for name, told in found.items() if told not in ({}, [])}


def _asked(embedder: Any, record: Provider) -> dict[str, Any]:  # noqa: ANN401
    """Tell whom an embedder asks, and what it adds to each request."""
    told: dict[str, Any] = {}
    if record.addresses:
        found = (_at(embedder, path) for path in record.addresses.split())
        address = next((str(address) for address in found if address), None)
        told["address"] = None if address is None else deciding_url(address)
    for name in record.headers.split():
        told |= {"headers": deciding_headers(_fact(embedder, name) or {})}
    for name in record.parameters.split():
        told |= {"query": deciding_query(_fact(embedder, name) or {})}
    return {name: value for name, value in told.items() if value}


def _unplaced(embedder: Any, record: Provider) -> list[str]:  # noqa: ANN401
    """Name the fields that a newer release has and the record does not place: they count."""
    placed = record.placed()
    return [name for name, _ in held(embedder) if name not in placed]


def _at(embedder: Any, path: str) -> object:  # noqa: ANN401
    place = embedder
    for step in path.split("."):
        place = place.get(step) if isinstance(place, dict) else getattr(place, step, None)
    return place


def _fact(embedder: Any, name: str) -> Any:  # noqa: ANN401 - its value
    """Return a field; raise IdentityError where a release no longer has it."""
    if hasattr(embedder, name.rstrip("?")) or name.endswith("?"):
        return getattr(embedder, name.rstrip("?"), None)
    why = f"has no {name} any more, by which it was known what decides its vectors"
    raise IdentityError(class_path(embedder), why)


def _nested(value: Any) -> Any:  # noqa: ANN401 - JSON, or None
    """Describe an embedder, or a local model, inside another one."""
    if local_models.is_local_model(value):
        content = local_models.content(value)
        return {**content.fields, "encode": content.encoding({}), "prompts": content.prompts}
    if is_embedder(value):
        seen = fingerprint(bare(value))
        return {"name": seen.name, **seen.fields, "roles": seen.roles}
    return None
