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
_END = re.compile(r"""([\s<>]|["'](?=[\s,;:)\]}>]|$))""")
"""Matches the end of a url in a text: white space, a bracket, or a quote that is not part of the url."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,20}://")
_HOST = re.compile(r"[\w.\[/-]|$")
_AFTER_HOST = re.compile(r"[/?#]")
_PORT = re.compile(r"\d{1,5}(?=[/?#])")
_BEFORE_USER = ":,;=\"'([{"
_BARE_USER = re.compile(
    r"(?!mailto:)((?:[\w.-]{1,40}=)?(?://)?)[^\s/@:]+:[^\s/@]+@(?!sha256:|SHA256\b|[0-9a-f]{64}\b)(?=[\w.\[-])"
)
_VALUE = re.compile(r"=[^&;]*")
_NAMED_VALUE = re.compile(r"([?&][\w.%\[\]-]{1,80}=)[^&#\s)]*")
_PATH_QUERY = re.compile(r"(?P<before>\burl: /[^\s\"'<>?#]*\?)(?P<query>[^\s\"'<>#)]*)")  # as urllib3 writes it
_SECRET_HEADER = re.compile(r"\b((?i:bearer)|(?i:basic)(?=\s+\S*[0-9A-Z=+/]))\s+[A-Za-z0-9._~+/=-]{8,}")
_TOKEN = re.compile(r"\b(dc_[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{20,})")


def redact(text: str) -> str:
    """A text without the secrets of the urls in it, and without bearer tokens.

    Its time grows with the length of the text alone: logs and errors contain urls of strangers.
    """
    if "url: /" in text:
        text = _PATH_QUERY.sub(lambda found: found["before"] + _without_values(found["query"]), text)
    if "@" in text or "?" in text or "#" in text or "&" in text:
        text = "".join(_of_word(word) for word in _END.split(text))
    return _TOKEN.sub(lambda found: f"{found[0][:3]}{HIDDEN}", _SECRET_HEADER.sub(rf"\g<1> {HIDDEN}", text))


def _of_word(word: str) -> str:
    """A text without white space: a url, or something that may have one within."""
    if "://" in word:
        word = _without_users(word)
        head, found, rest = word.partition("://")
        before, sign, query = rest.partition("?")
        query, hash_, fragment = query.partition("#") if sign else ("", "", "")
        if not sign:
            before, hash_, fragment = rest.partition("#")
        shown = _VALUE.sub(f"={HIDDEN}", fragment)
        return head + found + before + sign + _without_values(query) + hash_ + shown
    bare = word.lstrip(_BEFORE_USER)
    if "@" in bare and (user := _BARE_USER.match(bare)):
        word = f"{word[: len(word) - len(bare)]}{user[1]}{HIDDEN}@{bare[user.end() :]}"
    return _NAMED_VALUE.sub(rf"\g<1>{HIDDEN}", word)


def _without_users(word: str) -> str:
    """Without what stands before an @ in the authority of its urls, also if the password has a / in it."""
    kept, done, last = list[str](), 0, word.rfind("@")
    for scheme in _SCHEME.finditer(word):
        begin = scheme.end()
        if begin > last:
            break
        if begin >= done and (end := _user_end(word, begin)) > 0:
            kept += [word[done:begin], HIDDEN]
            done = end
    return "".join(kept) + word[done:]


def _user_end(word: str, begin: int) -> int:
    """Where the user and password end that begin there: the place of their @, or 0."""
    after = _AFTER_HOST.search(word, begin)
    slash = after.start() if after else len(word)
    at = word.rfind("@", begin, slash)
    colon = word.find(":", begin, slash)
    if at < 0 and colon >= 0 and not _PORT.match(word, colon + 1):
        at = word.find("@", colon)
    return at if at >= 0 and _HOST.match(word, at + 1) else 0


def _without_values(query: str) -> str:
    return _VALUE.sub(f"={HIDDEN}", query) if "=" in query else HIDDEN if query else ""


def redact_all(value: Any) -> Any:
    """Redact every text in a plain value of lists and mappings."""
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
