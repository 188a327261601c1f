"""The package's loggers: whatever a name on disk or a server's message holds, a record is one plain line."""

from __future__ import annotations

import logging


def logger_of(area: str) -> logging.Logger:
    """Return the logger of a part of the package."""
    logger = logging.getLogger(f"kura_cache_adapters.{area}")
    logger.addFilter(_make_plain)
    return logger


def plain(text: str) -> str:
    """Return a text with what is not printable escaped: line breaks, control codes, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _make_plain(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    if not message.isprintable():
        record.msg, record.args = plain(message), None
    return True
