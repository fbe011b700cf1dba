"""Creates the bucket of DATACOMP_STORE if it does not exist; a fresh stack runs it once. `python -m deployments.bucket`."""

from __future__ import annotations

from datacomp_core.settings import settings
from datacomp_core.store import Store
from datacomp_core.store.bucket import BucketFiles


def make() -> None:
    """Do nothing for a folder. Then check that the store can be written and that it honours conditional writes."""
    url = settings().store_url
    if url.startswith("s3://"):
        bucket = url.removeprefix("s3://").partition("/")[0]
        files = BucketFiles(f"s3://{bucket}").fs
        if not files.exists(bucket):
            files.mkdir(bucket)
    Store.open(url)


if __name__ == "__main__":
    make()
