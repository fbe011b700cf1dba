"""Opens the fsspec file system of a url, with the current credentials of the environment and without cached listings."""

from __future__ import annotations

import os
import threading
from typing import Any

import fsspec

CLIENT_VARIABLES = ("AWS_", "GOOGLE_", "GCLOUD_", "STORAGE_EMULATOR_HOST", "AZURE_")
"""Prefixes of environment variables that the clients of buckets read."""
_clients = threading.Lock()
_environments: dict[Any, dict[str, str]] = {}


def filesystem(url: str) -> Any:
    """Return the filesystem of a url. `url_to_fs` would treat `::` in a path as a chain of filesystems."""
    protocol = url.partition("://")[0]
    if "::" in protocol:
        return fsspec.core.url_to_fs(url)[0]
    kind = fsspec.get_filesystem_class(protocol)
    _forget_other_environments(kind)
    return kind(**kind._get_kwargs_from_urls(url), use_listings_cache=False)


def _forget_other_environments(kind: Any) -> None:
    """Drop fsspec's cached clients if the environment names another endpoint or other credentials than for the last one.

    fsspec returns one client for equal arguments, and what a client reads from the environment is not among them. Folders that
    are in use keep their client.
    """
    found = {name: value for name, value in os.environ.items() if name.startswith(CLIENT_VARIABLES)}
    with _clients:
        if _environments.get(kind) != found:
            kind.clear_instance_cache()
            _environments[kind] = found
