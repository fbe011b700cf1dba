"""Lists, fetches and checks files of a Hugging Face hub, or of any compatible server (`HF_ENDPOINT`); never executes them.
`huggingface_hub` does the requests; we decide what is kept. A repository is pinned to a commit before anything is fetched. A
file is written atomically to a folder or bucket, and only with the hash that the hub states for it (sha256 of a large file,
git's sha1 of a small one); `hub.json` with all hashes is written last. Authentication is huggingface_hub's (`HF_TOKEN`, or its
login); servers that the hub redirects to do not receive it.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from datacomp_core.errors import DataError, StoreError
from datacomp_core.redaction import redact
from datacomp_core.store.folder import Folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

T = TypeVar("T")
HUB = "https://huggingface.co"
RECORD = "hub.json"
BLOCK = 1 << 20
TIMEOUT_SECONDS = 60
ATTEMPTS = 4
BUSY = (408, 429, 500, 502, 503, 504)

Kind = Literal["dataset", "model"]


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it: `sha256` for large files, `sha1` (of the git blob) for the others."""

    path: str
    size: int
    sha256: str = ""
    sha1: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit."""

    kind: Kind
    repository: str
    commit: str
    files: tuple[HubFile, ...]

    def file(self, path: str) -> HubFile:
        """One file. DataError if the repository has no such file."""
        found = next((file for file in self.files if file.path == path), None)
        if found is None:
            raise DataError(f"The hub's {self.kind} {self.repository} has no file {path}.")
        return found

    def url(self, path: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repository, path, repo_type=self.kind, revision=self.commit, endpoint=endpoint())


def endpoint() -> str:
    """Return the hub, or the mirror in `HF_ENDPOINT`."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def snapshot(kind: Kind, repository: str, revision: str = "main") -> Snapshot:
    """List the files of a repository at the current commit of `revision`. DataError if there is no such repository."""
    from huggingface_hub import RepoFile

    api, where = _api(), f"{endpoint()}/{kind}s/{repository}"
    commit = str(_tried(where, lambda: api.repo_info(repository, repo_type=kind, revision=revision).sha, first=True))
    listed = _tried(where, lambda: list(api.list_repo_tree(repository, repo_type=kind, revision=commit, recursive=True)))
    files = [_listed(entry) for entry in listed if isinstance(entry, RepoFile)]
    return Snapshot(kind, repository, commit, tuple(sorted(files, key=lambda file: file.path)))


def fetch(
    found: Snapshot,
    out: Folder,
    *,
    only: Callable[[str], bool] = lambda path: True,
    threads: int = 4,
    fetched: Callable[[int], None] = lambda size: None,
    place: Callable[[str], str] = lambda path: path,
) -> dict[str, str]:
    """Fetch the files that `only` selects into `out` (local or a bucket) and write `hub.json` last; return each sha256. Files
    that an earlier try fetched at the same commit are kept. Large files come first, so that what is read first comes last.
    `fetched` is called with the size of each existing file. `place` gives a file's path in `out`, which is also its key in the
    result.
    """
    wanted = sorted((file for file in found.files if only(file.path)), key=lambda file: (-file.size, file.path))
    kept = recorded(out)
    if kept is not None and kept["commit"] == found.commit and set(kept["files"]) == {place(file.path) for file in wanted}:
        fetched(sum(file.size for file in wanted))
        return {path: str(file["sha256"]) for path, file in kept["files"].items()}
    sizes = out.files()

    def bring(file: HubFile) -> str:
        at = place(file.path)
        sha256 = (_right(out, at, file) if sizes.get(at) == file.size else "") or _brought(found, file, out, at)
        fetched(file.size)
        return sha256

    large = [file for file in wanted if file.size > BLOCK]
    with ThreadPoolExecutor(threads) as pool:
        hashes = [*pool.map(bring, large), *map(bring, wanted[len(large) :])]
    brought = {place(file.path): (file.size, sha256) for file, sha256 in zip(wanted, hashes, strict=True)}
    stats = {path: {"size": size, "sha256": sha256} for path, (size, sha256) in sorted(brought.items())}
    record = {
        "endpoint": redact(endpoint()),
        "kind": found.kind,
        "repository": found.repository,
        "commit": found.commit,
        "files": stats,
    }
    out.write_json(RECORD, record)
    return {path: str(stat["sha256"]) for path, stat in stats.items()}


def recorded(folder: Folder) -> dict[str, Any] | None:
    """Return what `fetch` wrote about a folder, if it finished and all files still have their sizes."""
    if not folder.exists(RECORD):
        return None
    record = folder.read_json(RECORD)
    sizes = folder.files()
    whole = all(sizes.get(path) == file["size"] for path, file in record["files"].items())
    return record if whole else None


# ---------------------------------------------------------------------------------------------------------------------


def _brought(found: Snapshot, file: HubFile, out: Folder, at: str) -> str:
    """Write one file with the right hash atomically to `at` in `out`. Returns its sha256."""
    with out.writing(at) as temporary:
        _download(found.url(file.path), temporary, file)
        with temporary.open("rb") as data:
            sha256, sha1 = _hashes(data, file.size)
        if (file.sha256 and sha256 != file.sha256) or (file.sha1 and sha1 != file.sha1):
            raise DataError(
                f"{found.url(file.path)} has another hash than the hub states ({file.sha256 or file.sha1}): try again; if "
                "this persists, contact its owner."
            )
    return sha256


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="datacomp")


def _listed(entry: RepoFile) -> HubFile:
    if ".." in entry.path.split("/") or entry.path.startswith("/"):
        raise DataError(f"The hub lists the file {entry.path!r}, which would be outside its folder: do not use this repository.")
    if entry.lfs is not None:
        return HubFile(entry.path, int(entry.lfs.size), sha256=str(entry.lfs.sha256).removeprefix("sha256:"))
    return HubFile(entry.path, int(entry.size), sha1=str(entry.blob_id or ""))


def _right(out: Folder, at: str, file: HubFile) -> str:
    """Return the sha256 of the existing file, or nothing if it is not the hub's."""
    with out.open(at) as data:
        sha256, sha1 = _hashes(data, file.size)
    return sha256 if sha256 == (file.sha256 or sha256) and sha1 == (file.sha1 or sha1) else ""


def _hashes(file: Any, size: int) -> tuple[str, str]:
    """sha256, and the sha1 that git gives a blob of `size` bytes."""
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while block := file.read(BLOCK):
        sha256.update(block)
        sha1.update(block)
    return sha256.hexdigest(), sha1.hexdigest()


def _download(url: str, target: Path, file: HubFile) -> None:
    """Fill `target`; resume after a broken connection."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    target.touch()
    headers = build_hf_headers(library_name="datacomp")
    headers["Accept-Encoding"] = "identity"  # a range of compressed bytes could not be resumed

    def ask() -> None:
        start = target.stat().st_size
        if start >= file.size > 0:
            return
        asked = headers | ({"Range": f"bytes={start}-"} if start else {})
        with get_session().stream("GET", url, headers=asked, timeout=TIMEOUT_SECONDS) as answer:
            hf_raise_for_status(answer)
            with target.open("ab" if answer.status_code == 206 else "wb") as data:
                for block in answer.iter_raw():  # unbuffered: bytes collected in larger blocks would be lost with the connection
                    data.write(block)
        if target.stat().st_size < file.size:
            raise OSError(f"it ended after {target.stat().st_size} of {file.size} bytes")

    _tried(url, ask)


def _tried(url: str, ask: Callable[[], T], *, first: bool = False) -> T:
    """Call `ask`, and retry after temporary failures. DataError for what does not exist, StoreError for what cannot be
    reached. A `first` request without a connection is not retried: this machine has no network, or cannot reach this hub.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    problem: Exception | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(0.5 * 4 ** (attempt - 1))
        try:
            return ask()
        except HFValidationError as error:
            raise DataError(f"The hub has no {url}: {error}") from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            # The hub also answers 401 for what does not exist.
            if status in (401, 403):
                raise StoreError(f"The hub refuses {url} ({status}): set HF_TOKEN to one that may read it.") from error
            if status not in BUSY:
                raise DataError(f"The hub has no {url} ({status}).") from error
            problem = error
        except (_network_error(), OSError, ValueError) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            problem = error
            if first and isinstance(error, _no_connection()):
                break
    raise StoreError(
        f"Cannot read {url} ({problem}): check the network, or name a mirror in HF_ENDPOINT; what was fetched is kept."
    ) from problem


def _network_error() -> type[Exception]:
    """Exceptions of the HTTP library under huggingface_hub."""
    return _http().HTTPError


def _no_connection() -> tuple[type[Exception], ...]:
    """Exceptions for an unresolved name, or an address without an answer."""
    return _http().ConnectError, _http().ConnectTimeout


def _http() -> Any:
    """Return the HTTP library under huggingface_hub, which depends on its version."""
    from huggingface_hub import get_session

    return importlib.import_module(type(get_session()).__module__.partition(".")[0])
