"""One redaction for every url that is stored, logged or shown: user and password, and the values of its query, are taken out.

Any of them may be a secret (a proxy's password, a signed url, an API key), and none says what a reader needs: scheme, host and
path stay. The text around a url stays as it is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
# Scheme, then an authority up to its last @ before a /, ? or #; a password may have any character but white space and quotes.
_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{1,20}://)(?P<user>[^\s\"'<>/?#]*|[^\s\"'<>@]*?)@(?=[\w.\[-])")
_URL_QUERY = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s\"'<>?#]*\?)(?P<query>[^\s\"'<>#]*)")
_PATH_QUERY = re.compile(r"(?P<before>\burl: /[^\s\"'<>?#]*\?)(?P<query>[^\s\"'<>#)]*)")  # as urllib3 writes it
_VALUE = re.compile(r"=[^&;]*")
_BARE_USER = re.compile(r"^[^\s/@:]+:[^\s/@]+@(?=[\w.\[-])")
_SECRET_HEADER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_TOKEN = re.compile(r"\b(dc_|hf_)[A-Za-z0-9_-]{8,}")


def redact(text: str) -> str:
    """A text without the secrets of the urls in it, and without bearer tokens."""
    if "://" in text:
        text = _USER.sub(rf"\g<scheme>{HIDDEN}@", text)
        text = _URL_QUERY.sub(_without_values, text)
    if "url: /" in text:
        text = _PATH_QUERY.sub(_without_values, text)
    text = _BARE_USER.sub(f"{HIDDEN}@", text)
    return _TOKEN.sub(rf"\g<1>{HIDDEN}", _SECRET_HEADER.sub(rf"\g<1> {HIDDEN}", text))


def _without_values(found: re.Match[str]) -> str:
    query = found["query"]
    kept = _VALUE.sub(f"={HIDDEN}", query) if "=" in query else HIDDEN if query else ""
    return found["before"] + kept


def redact_all(value: Any) -> Any:
    """The same for every text in a plain value of lists and mappings."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_all(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_all(item) for item in value]
    return value


class RedactingFilter(logging.Filter):
    """For handlers: what a record says, its arguments and its traceback included, goes out redacted."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if (clean := redact(text)) != text:
            record.msg, record.args = clean, None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True
