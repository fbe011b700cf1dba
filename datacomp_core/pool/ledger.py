"""The ledger: what became of each candidate, one row each, in `ledger/<8 digits>.parquet` beside the shards.

Every candidate of a shard has a row, whatever happened; `reason` is null exactly for those whose image arrived.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit

import polars as pl

from datacomp_core import uid

DIGEST_MODULUS, digest = uid.DIGEST_MODULUS, uid.digest
"""Of the uids that arrived: the hash of a realised pool."""

SCHEMA = pl.Schema(
    {
        "uid": pl.String,
        "shard": pl.String,
        "key": pl.String,
        "status": pl.String,  # img2dataset's: success, failed_to_download, failed_to_resize; ours: refused
        "reason": pl.String,
        "message": pl.String,  # as img2dataset gave it
        "http_status": pl.Int16,
        "bytes": pl.Int64,  # of the image as it lies in the shard
        "seconds": pl.Float32,  # from the first try to the last answer
        "at": pl.Datetime("ms", "UTC"),  # when it was done
        "sha256": pl.String,  # of the body as it came
        "hash": pl.String,  # match or mismatch with the metadata's sha256; null where one of the two is missing
        "original_width": pl.Int32,
        "original_height": pl.Int32,
        "host": pl.String,
        "url_hash": pl.UInt64,  # tells urls apart without keeping them
        "picture": pl.String,  # what it was beside usual: deep (more than 8 bits a channel), turned (by EXIF), or both
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
"""Reasons that another try may mend."""
BLOCKED = "blocked_address"
"""A private address: passes where a network of one's own is opened."""
BUSY = (408, 425, 429)


def is_transient(*also: str) -> pl.Expr:
    """Whether another try may mend what became of a row (`also`: for further reasons).

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
    """64 bits that stand for a url."""
    return int.from_bytes(hashlib.blake2b(url.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def tally(ledger: pl.DataFrame) -> dict[str, int]:
    """How many arrived, and how many were lost for each reason."""
    counted = ledger.get_column("reason").fill_null("arrived").value_counts(sort=True)
    return {str(reason): int(count) for reason, count in counted.iter_rows()}


def pictures(ledger: pl.DataFrame) -> dict[str, int]:
    """How many of those that arrived have more than 8 bits a channel, or are turned by EXIF; only what there is."""
    if "picture" not in ledger.columns:
        return {}
    here = ledger.filter(pl.col("reason").is_null())["picture"].fill_null("")
    counts = {f"{kind}_pictures": int(here.str.contains(kind).sum()) for kind in ("deep", "turned")}
    return {name: count for name, count in counts.items() if count}
