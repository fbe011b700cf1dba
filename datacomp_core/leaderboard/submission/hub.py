"""A bundle's files in a hub repository, under `<scale>_scale/` as the original competition put them, in one commit."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from datacomp_core.errors import DataError, SpecError, StoreError
from datacomp_core.leaderboard.submission.unpack import unpack
from datacomp_core.store.folder import scratch

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def upload(bundle: Path, repo: str, *, token: str | None = None, endpoint: str | None = None, private: bool = False) -> str:
    """Upload a bundle's files to a model repository (made if there is none) and return the commit's address.

    The bundle is unpacked, and so checked against its manifest, first. It honours `HF_ENDPOINT` and `HF_TOKEN`.
    SpecError for a name that is not the name of a repository; StoreError if the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not REPO.fullmatch(repo):
        raise SpecError(f"{repo!r} is not the name of a hub repository: give owner/name.")
    with scratch() as folder:
        listing = unpack(bundle, folder)
        scale = listing.entry.split("/")[1]
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = [CommitOperationAdd(f"{scale}_scale/{name}", folder / name) for name in names]
        api = HfApi(endpoint=endpoint, token=token)
        try:
            api.create_repo(repo, exist_ok=True, private=private)
            with warnings.catch_warnings():  # one for each parquet, asking whether this should be a data set: it should not
                warnings.simplefilter("ignore", UserWarning)
                made = api.create_commit(repo, operations=files, commit_message=f"Results at {scale}: {listing.entry}")
        except HfHubHTTPError as problem:
            raise StoreError(f"The hub refused {repo}: {str(problem).splitlines()[0]}") from problem
        except OSError as problem:
            raise StoreError(f"Cannot reach the hub for {repo}: {problem}") from problem
        except ValueError as problem:
            raise DataError(f"The hub did not accept {repo}: {problem}") from problem
        except Exception as problem:  # errors of the http library that huggingface_hub uses today are not OSErrors
            if not type(problem).__module__.startswith("http"):
                raise
            raise StoreError(f"Cannot reach the hub for {repo}: {problem}") from problem
    return str(made.commit_url)
