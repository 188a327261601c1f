"""Records as Arrow columns and back: plain values as themselves, anything else as JSON text.

A column of strings, numbers, booleans, or lists of one of these has that Arrow type. Every other
column is a struct with the one field `json`; a null there means that the record lacks the field.
Records that are no objects, or have a field without a name, are such a struct as a whole, in the one
column without a name; records without fields are nulls there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kura_cache_adapters.checkpoints import kura_format

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kura_cache_adapters.checkpoints.kura_format import Fields

_JSON = pa.struct([pa.field("json", pa.string())])
_PLAIN = {str: pa.string(), bool: pa.bool_(), float: pa.float64(), int: pa.int64()}
_INT64 = range(-(2**63), 2**63)


def to_table(records: list[Any]) -> pa.Table:
    """Turn records into a table with one column per field."""
    if any(not isinstance(fields, dict) or "" in fields for fields in records):
        return pa.table({"": pa.array([_as_json(fields) for fields in records], _JSON)})
    names = list(dict.fromkeys(name for fields in records for name in fields))
    columns = {name: _column(name, records) for name in names}
    # A table without columns has no rows: what stands for them is a column without a name.
    return pa.table(columns or {"": pa.nulls(len(records))})


def to_texts(table: pa.Table) -> Iterator[str]:
    """Turn a table, of ours or of Kura's, back into one JSON text per record."""
    as_json = {field.name for field in table.schema if field.type == _JSON}
    kuras = kura_format.is_dataset(table.schema)
    for row in table.to_pylist():
        if "" in row:
            yield row[""]["json"] if row[""] else "{}"
            continue
        row = kura_format.from_dataset(row) if kuras else row  # noqa: PLW2901 - the same row, made plain
        texts = (
            f"{json.dumps(name)}:{value['json'] if name in as_json else json.dumps(value)}"
            for name, value in row.items()
            if not (name in as_json and (value is None or value["json"] is None))
        )
        yield f"{{{','.join(texts)}}}"


def _column(name: str, records: list[Fields]) -> pa.Array:
    if all(name in fields for fields in records):
        values = [fields[name] for fields in records]
        plain = _plain_type(values)
        if plain is not None:
            return pa.array(values, plain)
    return pa.array([_as_json(fields[name]) if name in fields else None for fields in records], _JSON)


def _as_json(value: Any) -> dict[str, str]:  # noqa: ANN401 - any JSON
    return {"json": json.dumps(value, ensure_ascii=False)}


def _plain_type(values: Iterable[Any]) -> pa.DataType | None:
    """Return the Arrow type that holds values exactly; None when there is no plain one."""
    present = [value for value in values if value is not None]
    types = set(map(type, present))
    if types == {list}:
        inner = [item for value in present for item in value]
        plain = _plain_type(inner)
        nested = plain is None or pa.types.is_list(plain) or None in inner
        return None if nested else pa.list_(plain)
    if len(types) != 1 or (types == {int} and not all(value in _INT64 for value in present)):
        return None
    return _PLAIN.get(types.pop())
