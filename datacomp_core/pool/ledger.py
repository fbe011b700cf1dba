"""Defines the ledger: the outcome of each candidate, one row each, in `ledger/<8 digits>.parquet` next to the shards. Every
candidate of a shard has a row; `reason` is null exactly for those whose image arrived.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit

import polars as pl

from datacomp_core import uid

DIGEST_MODULUS, digest = uid.DIGEST_MODULUS, uid.digest
"""Hash over the uids that arrived: the hash of a realised pool."""

SCHEMA = pl.Schema(
    {
        "uid": pl.String,
        "shard": pl.String,
        "key": pl.String,
        "status": pl.String,  # img2dataset's: success, failed_to_download, failed_to_resize; ours: refused
        "reason": pl.String,
        "message": pl.String,  # from img2dataset
        "http_status": pl.Int16,
        "bytes": pl.Int64,  # of the image in the shard
        "seconds": pl.Float32,  # from the first try to the last answer
        "at": pl.Datetime("ms", "UTC"),  # when it was done
        "sha256": pl.String,  # of the received body
        "hash": pl.String,  # match or mismatch with the metadata's sha256; null if either is missing
        "original_width": pl.Int32,
        "original_height": pl.Int32,
        "host": pl.String,
        "url_hash": pl.UInt64,  # distinguishes urls without storing them
        "picture": pl.String,  # irregularities: deep (more than 8 bits per channel), turned (by EXIF), or both
    }
)

HTTP = re.compile(r"HTTP Error (\d{3})")

# First match wins. The texts are those of urllib, OpenCV and img2dataset 1.47.
REASONS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (reason, re.compile(pattern, re.IGNORECASE))
    for reason, pattern in (
        ("busy", r"HTTP Error (408|425|429)"),
        ("http_4xx", r"HTTP Error 4\d\d"),
        ("http_5xx", r"HTTP Error 5\d\d"),
        ("redirect", r"HTTP Error 3\d\d|infinite loop"),
        ("opted_out", r"X-Robots-Tag"),
        ("hash_mismatch", r"hash mismatch"),
        ("blocked_address", r"blocked address"),
        ("too_large", r"body too large"),
        ("dns", r"name resolution|name or service not known|nodename nor servname|getaddrinfo|no address associated"),
        ("refused", r"connection refused"),
        ("timeout", r"timed out|timeout"),
        ("tls", r"ssl|certificate|tls"),
        ("unreachable", r"no route to host|network is unreachable"),
        ("cut_off", r"reset by peer|closed connection|IncompleteRead|broken pipe|connection aborted|BadStatusLine"),
        ("bad_url", r"user name in the url|unknown url type|no host given|control characters|nonnumeric port"),
        ("bad_url", r"invalid ipv6|label empty|codec can't"),
        ("deep_picture", r"picture refused: more than 8 bits"),
        ("turned_picture", r"picture refused: turned"),
        ("too_many_pixels", r"image area too large|MAX_IMAGE_|too many pixels"),
        ("too_small", r"image too small"),
        ("too_long", r"aspect ratio too large"),
        ("decode", r"image decoding error in [A-Z]"),
        ("not_an_image", r"image decoding error|buf\.empty|imdecode"),
        ("internal", r"^$"),
    )
)
TRANSIENT = frozenset({"dns", "refused", "timeout", "unreachable", "cut_off", "busy", "http_5xx", "internal"})
"""Temporary reasons, which a retry may resolve."""
BLOCKED = "blocked_address"
"""A private address: passes if the network is opened."""
BUSY = (408, 425, 429)


def is_transient(*also: str) -> pl.Expr:
    """Return whether a retry may change the outcome of a row (`also`: for further reasons).

    Ledgers of earlier versions call a busy server `http_4xx`.
    """
    was_busy = (pl.col("reason") == "http_4xx") & pl.col("http_status").is_in(BUSY)
    return (pl.col("reason").is_in([*TRANSIENT, *also]) | was_busy).fill_null(value=False)


def reason_of(message: str) -> str:
    """The reason behind an error message of img2dataset; `other` if it is a new one."""
    return next((reason for reason, pattern in REASONS if pattern.search(message)), "other")


def http_status_of(message: str) -> int | None:
    found = HTTP.search(message)
    return int(found.group(1)) if found else None


def host_of(url: str) -> str | None:
    """The host that a url names, or null."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def url_hash(url: str) -> int:
    """Return a 64-bit hash of a url."""
    return int.from_bytes(hashlib.blake2b(url.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def tally(ledger: pl.DataFrame) -> dict[str, int]:
    """Count arrivals, and losses by reason."""
    counted = ledger.get_column("reason").fill_null("arrived").value_counts(sort=True)
    return {str(reason): int(count) for reason, count in counted.iter_rows()}


def pictures(ledger: pl.DataFrame) -> dict[str, int]:
    """Count arrived images with more than 8 bits per channel, or rotated by EXIF; only non-zero counts."""
    if "picture" not in ledger.columns:
        return {}
    here = ledger.filter(pl.col("reason").is_null())["picture"].fill_null("")
    counts = {f"{kind}_pictures": int(here.str.contains(kind).sum()) for kind in ("deep", "turned")}
    return {name: count for name, count in counts.items() if count}
