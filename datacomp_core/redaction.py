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
# An authority up to its last @; or a user and a password that has a / in it, which is not the port and path of a host.
_USER = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{1,20}://)"
    r"(?:[^\s\"'<>/?#]*|[^\s\"'<>/?#:@]*:(?!\d{1,5}[/?#])[^\s\"'<>]*?)@(?=[\w.\[-])"
)
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


def redact_error(problem: BaseException) -> None:
    """Take the secrets of urls out of an error's own words, in place, and out of those of what caused it.

    For whoever keeps the words of an error itself, as Prefect does in the state of a run.
    """
    seen = set[int]()
    following: BaseException | None = problem
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        if any(isinstance(arg, str) and redact(arg) != arg for arg in following.args):
            following.args = tuple(redact(arg) if isinstance(arg, str) else arg for arg in following.args)
        following = following.__cause__ or following.__context__


def install() -> None:
    """From now on every log record of this process is made redacted, its traceback included, whatever handler takes it."""
    before = logging.getLogRecordFactory()
    if getattr(before, "redacts", False):
        return

    def made(*given: Any, **options: Any) -> logging.LogRecord:
        record = before(*given, **options)
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # the handler reports a call of a logger that does not fit its text
            return record
        if (clean := redact(text)) != text:
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[0] is not None:
            told = logging.Formatter().formatException(record.exc_info)
            if (hidden := redact(told)) != told:
                record.exc_text, record.exc_info = hidden, None
        return record

    made.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(made)
