"""What is said to PostgreSQL: the two tables of a store, and each thing that is done with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from psycopg.sql import Composable

_MAKE = """
SELECT pg_advisory_xact_lock(1802856033); -- IF NOT EXISTS fails for two that make a table at once
{make_schema}
CREATE TABLE IF NOT EXISTS {spaces} (
    space bigint PRIMARY KEY, -- the first 8 bytes of the identity's digest
    identity text NOT NULL
);
CREATE TABLE IF NOT EXISTS {entries} (
    space bigint NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    key bytea NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (space, key)
);
ALTER TABLE {entries} ALTER COLUMN value SET STORAGE EXTERNAL -- vectors do not shrink
"""

_MAKE_SCHEMA = """
DO $$ BEGIN IF to_regnamespace({name}) IS NULL THEN CREATE SCHEMA {schema}; END IF; END $$;
"""

_READ = """
SELECT key, value FROM {entries} WHERE space = %(space)s AND key = ANY(%(keys)b)
"""

# What is damaged is replaced. A statement is a transaction, and takes rows in the order of their keys and the
# space last: no two wait for each other.
_WRITE = """
WITH told AS (INSERT INTO {spaces} VALUES (%(space)s, %(identity)s) ON CONFLICT DO NOTHING)
INSERT INTO {entries} AS old (space, key, value)
SELECT %(space)s, * FROM unnest(%(keys)b::bytea[], %(values)b::bytea[])
ON CONFLICT (space, key) DO UPDATE SET value = EXCLUDED.value, stored_at = now()
WHERE old.value <> EXCLUDED.value
"""

_DELETE = """
WITH doomed AS (
    SELECT key FROM {entries} WHERE space = %(space)s AND key = ANY(%(keys)b) ORDER BY key FOR UPDATE
)
DELETE FROM {entries} USING doomed WHERE space = %(space)s AND {entries}.key = doomed.key
"""

_KEYS = """
SELECT key FROM {entries} WHERE space = %(space)s AND key > %(after)b ORDER BY key LIMIT %(limit)s
"""

_SPACES = """
SELECT identity FROM {spaces} AS named
WHERE EXISTS (SELECT FROM {entries} AS held WHERE held.space = named.space) ORDER BY space
"""

_DAYS = """
SELECT (stored_at AT TIME ZONE 'UTC')::date AS day, count(*),
    sum(octet_length(key) + octet_length(value))::bigint, max(stored_at)
FROM {entries} WHERE space = %(space)s GROUP BY day ORDER BY day
"""

_DROP = """
DELETE FROM {entries}
WHERE space = %(space)s AND (stored_at AT TIME ZONE 'UTC')::date = %(day)s::date AND stored_at <= %(written)s
"""

_WITH_PARAMETERS = (_READ, _WRITE, _DELETE, _KEYS, _SPACES, _DAYS, _DROP)


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements, with the names of a store's tables in them."""

    make: str
    read: str
    write: str
    delete: str
    keys: str
    spaces: str
    days: str
    drop: str

    @classmethod
    def over(cls, table: str, schema: str | None) -> Statements:
        """Write them for the tables of a name; without a schema, those that the search path finds first."""
        names = {"entries": _name(schema, table), "spaces": _name(schema, f"{table}_spaces")}
        make_schema: Composable = sql.SQL("")
        if schema is not None:
            # to_regnamespace reads what it is given as an identifier
            quoted = sql.Literal(sql.Identifier(schema).as_string(None))
            make_schema = sql.SQL(_MAKE_SCHEMA).format(name=quoted, schema=sql.Identifier(schema))
        made = sql.SQL(_MAKE).format(**names, make_schema=make_schema).as_string(None)
        return cls(made, *(_with_names(template, names) for template in _WITH_PARAMETERS))


def _name(schema: str | None, table: str) -> Composable:
    return sql.Identifier(table) if schema is None else sql.Identifier(schema, table)


def _with_names(template: str, names: dict[str, Composable]) -> str:
    """Put names in; a percent sign in one is doubled, since these statements have parameters."""
    told = {each: sql.SQL(name.as_string(None).replace("%", "%%")) for each, name in names.items()}
    return sql.SQL(template).format(**told).as_string(None).strip()
