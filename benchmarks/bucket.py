"""What does a request to a bucket cost this process: s3fs beside obstore (Rust)?

`Folder` takes obstore where it is three times cheaper.

Both read the same small ranges, whole small files and one large file, and upload one, from an S3 server (SeaweedFS) on loopback.
CPU is this process's own, all its threads together; the server has its own. `python benchmarks/bucket.py [--requests 2000]`.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from s3_servers import make_bucket, s3_server

BUCKET = "bucket-benchmark"
RANGE_BYTES = 24_000
LARGE_BYTES = 128 << 20
AT_ONCE = 256


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measured(what: str, name: str, work: Callable[[], Any], requests: int, num_bytes: int) -> None:
    began, before = time.monotonic(), cpu()
    work()
    seconds, used = time.monotonic() - began, cpu() - before
    rate = num_bytes / seconds / 1e6
    print(
        f"{what:<24} {name:<8} {1e3 * used / requests:8.3f} ms CPU a request {requests / seconds:8.0f}/s {rate:8.0f} MB/s",
        flush=True,
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--requests", type=int, default=2000)
    number = asked.parse_args().requests
    import obstore
    import s3fs
    from obstore.store import S3Store

    with s3_server() as environment, tempfile.TemporaryDirectory() as scratch:
        os.environ |= environment | {"AWS_ALLOW_HTTP": "true"}
        endpoint = environment["AWS_ENDPOINT_URL"]
        make_bucket(BUCKET)
        old = s3fs.S3FileSystem(use_listings_cache=False)
        new = S3Store(BUCKET, endpoint=endpoint, client_options={"allow_http": True}, virtual_hosted_style_request=False)
        large = Path(scratch, "large")
        large.write_bytes(os.urandom(LARGE_BYTES))
        starts = [(i * 7_919_117) % (LARGE_BYTES - RANGE_BYTES) for i in range(number)]
        ends = [start + RANGE_BYTES for start in starts]
        groups = [slice(begin, begin + AT_ONCE) for begin in range(0, number, AT_ONCE)]
        measured(
            "upload, 8 MB parts", "s3fs", lambda: old.put_file(str(large), f"{BUCKET}/large", chunksize=8 << 20), 16, LARGE_BYTES
        )
        measured("upload, 8 MB parts", "obstore", lambda: obstore.put(new, "large2", large, chunk_size=8 << 20), 16, LARGE_BYTES)
        names, piece = [f"small/{i}" for i in range(number // 4)], b"x" * 2000
        writes = ("writes of 2 kB", len(names), len(names) * len(piece))
        measured(writes[0], "s3fs", lambda: [old.pipe_file(f"{BUCKET}/{n}", piece) for n in names], *writes[1:])
        measured(writes[0], "obstore", lambda: [obstore.put(new, n, piece) for n in names], *writes[1:])

        def ranges_old() -> None:
            for some in groups:
                paths = [f"{BUCKET}/large"] * len(starts[some])
                assert all(len(d) == RANGE_BYTES for d in old.cat_ranges(paths, starts[some], ends[some], on_error="raise"))

        def ranges_new() -> None:
            for some in groups:
                found = obstore.get_ranges(new, "large", starts=starts[some], ends=ends[some], coalesce=0)
                assert all(len(d) == RANGE_BYTES for d in found)

        def coalesced_new() -> None:
            for some in groups:
                obstore.get_ranges(new, "large", starts=sorted(starts[some]), ends=sorted(ends[some]))

        measured("ranges of 24 kB", "s3fs", ranges_old, number, number * RANGE_BYTES)
        measured("ranges of 24 kB", "obstore", ranges_new, number, number * RANGE_BYTES)
        measured("the same, coalesced", "obstore", coalesced_new, number, number * RANGE_BYTES)
        measured(
            "whole files of 2 kB", "s3fs", lambda: [old.cat_file(f"{BUCKET}/{n}") for n in names], len(names), 2000 * len(names)
        )
        measured(
            "whole files of 2 kB",
            "obstore",
            lambda: [bytes(obstore.get(new, n).bytes()) for n in names],
            len(names),
            2000 * len(names),
        )
        measured("one file of 128 MB", "s3fs", lambda: old.cat_file(f"{BUCKET}/large"), 16, LARGE_BYTES)
        measured("one file of 128 MB", "obstore", lambda: bytes(obstore.get(new, "large").bytes()), 16, LARGE_BYTES)


if __name__ == "__main__":
    main()
