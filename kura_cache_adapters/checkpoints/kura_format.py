"""Records as the managers of Kura 0.5.4 lay them out in datasets and Parquet, made plain again."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

Fields = dict[str, Any]
"""One record in JSON's types."""

_STRINGS = pa.list_(pa.string())
_METADATA = pa.struct([("keys", _STRINGS), ("values", _STRINGS)])
_ROLES = ("user", "assistant")

# What stands for None in a dataset.
_ABSENT: Fields = {
    **dict.fromkeys(("request", "topic", "task", "parent_id"), ""),
    **dict.fromkeys(("concerning_score", "user_frustration"), 0),
    **{name: [] for name in ("languages", "assistant_errors", "embedding")},
}


def is_dataset(schema: pa.Schema) -> bool:
    """Tell a dataset of Kura's HFDatasetCheckpointManager by types that our managers never write."""
    types = {field.name: field.type for field in schema}
    return bool(types.get("metadata") == _METADATA or types.get("count") == pa.int32())


def from_dataset(row: Fields) -> Fields:
    """Read a row of a dataset as Kura's own manager would."""
    fields = {name: None if _ABSENT.get(name) == value else value for name, value in row.items()}
    if "metadata" in row:
        pairs = zip(row["metadata"]["keys"], row["metadata"]["values"], strict=True)
        fields["metadata"] = {key: _parsed(value) for key, value in pairs}
    if "messages" in row:
        fields["messages"] = [_message(message) for message in _by_row(row["messages"])]
        fields["created_at"] = row["created_at"].isoformat()
    fields.pop("count", None)
    return fields


def unpacked(text: str | bytes, names: set[int | str]) -> str | bytes:
    """Parse the JSON that Kura's Parquet manager writes into columns of text, in the named fields."""
    fields = json.loads(text)
    if not isinstance(fields, dict):
        return text
    return json.dumps(
        {
            name: _parsed(value) if name in names and isinstance(value, str) else value
            for name, value in fields.items()
        }
    )


def _by_row(messages: Any) -> list[Fields]:  # noqa: ANN401 - a list of rows, or a dict of columns
    if not isinstance(messages, dict):
        return list(messages)
    return [dict(zip(messages, values, strict=True)) for values in zip(*messages.values(), strict=True)]


def _message(message: Fields) -> Fields:
    role = message["role"]
    when = message["created_at"].isoformat()
    return {**message, "created_at": when, "role": _ROLES[role] if isinstance(role, int) else role}


def _parsed(value: str) -> Any:  # noqa: ANN401 - any JSON, or the text itself
    try:
        return json.loads(value)
    except ValueError:
        return value
