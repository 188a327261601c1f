"""Models as records, which are fields in JSON's types, and records as models again."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from kura_cache_adapters._observe.log import OnceLog, describe
from kura_cache_adapters._runtime.logs import logger_of
from kura_cache_adapters.checkpoints import kura_format
from kura_cache_adapters.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pydantic import BaseModel

    from kura_cache_adapters.checkpoints.kura_format import Fields
    from kura_cache_adapters.protocols import ModelT

_logger = logger_of("checkpoints")


def to_fields(models: Sequence[BaseModel], path: Path) -> list[Fields]:
    """Turn models into records for a checkpoint; raise CheckpointError for one that JSON cannot hold."""
    log = OnceLog(_logger)
    return [_record(model, at, path, log) for at, model in enumerate(models)]


def to_models(texts: Iterable[str | bytes], model_class: type[ModelT], path: Path) -> list[ModelT]:
    """Read records, as JSON texts; CheckpointError tells of others, FileNotFoundError of none."""
    try:
        return [_model(model_class, text) for text in texts]
    except FileNotFoundError:
        raise
    except (ValidationError, ValueError, OSError, RecursionError) as error:
        message = f"{path} holds no checkpoint of {model_class.__name__}: {_why(error, model_class)}"
        raise CheckpointError(message) from None  # pydantic's error quotes what it has read


def _record(item: BaseModel, at: int, path: Path, log: OnceLog) -> Fields:
    try:
        fields = _fields(item, at, path, log)
        json.dumps(fields, ensure_ascii=False).encode()
    except (PydanticSerializationError, ValueError, TypeError) as error:
        message = f"item {at} ({type(item).__name__}) cannot be saved to {path}: {describe(error)}"
        raise CheckpointError(message) from None  # it quotes the item
    return fields


def _fields(item: BaseModel, at: int, path: Path, log: OnceLog) -> Fields:
    dump = partial(item.model_dump, mode="json", by_alias=False, round_trip=True)
    try:
        return dump(warnings="error")
    except PydanticSerializationError:  # pydantic's own warning would quote the values
        fields: Fields = dump(warnings=False)
    message = "Item %d (%s) of %s has values of other types than its fields'"
    log.report("types", message, at, type(item).__name__, path)
    return fields


def _model(model_class: type[ModelT], text: str | bytes) -> ModelT:
    """Read a record as it was written, by name; then as others write: by alias, or packed by Kura."""
    try:
        return model_class.model_validate_json(text, by_alias=False, by_name=True)
    except ValidationError as error:
        failed = {location[0] for each in error.errors() if (location := each["loc"])}
    with suppress(ValidationError):
        return model_class.model_validate_json(text, by_alias=True, by_name=True)
    return model_class.model_validate_json(kura_format.unpacked(text, failed), by_alias=False, by_name=True)


def _why(error: Exception, model_class: type[BaseModel]) -> str:
    """Say why records are no models: which fields have what wrong, never what they hold."""
    if not isinstance(error, ValidationError):
        return describe(error)
    wrong = [
        f"{name}: {each['type']}"
        if (name := (*each["loc"], "")[0]) in model_class.model_fields
        else each["type"]
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return f"{', '.join(dict.fromkeys(wrong)):.300}"
