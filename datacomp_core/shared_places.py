"""Folders and files of the driver's disk in what workers of a cluster are sent: refused where one does not see the same."""

from __future__ import annotations

import io
import os
import pickle
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datacomp_core.errors import SpecError


@dataclass(frozen=True)
class SharedPlace:
    """A folder or file of the driver's disk that workers read or write: good only if they see the same one."""

    path: str
    inode: int

    def check(self) -> None:
        """SpecError if it is another one, or none, where we are."""
        try:
            same = os.stat(self.path).st_ino == self.inode
        except OSError:
            same = False
        if not same:
            raise SpecError(
                f"The machine {socket.gethostname()} does not see {self.path}, which this step uses: machines of a cluster share "
                "a bucket, so keep the store (DATACOMP_STORE) and the folders of a command in one, or on a disk that all of them "
                "mount at the same place."
            )


def shared_places(*values: Any) -> tuple[SharedPlace, ...]:
    """The local folders and paths in what is sent to workers."""
    found: dict[str, SharedPlace] = {}

    class Finder(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            from datacomp_core.store.folder import Folder

            if isinstance(obj, Path) or (isinstance(obj, Folder) and obj.is_local):
                path = str(obj.absolute()) if isinstance(obj, Path) else obj.url
                with suppress(OSError):  # what does not exist yet is made or reported where it is used
                    if not isinstance(obj, Path):
                        os.makedirs(path, exist_ok=True)
                    found[path] = SharedPlace(path, os.stat(path).st_ino)
            return None

    with suppress(Exception):  # what cannot be pickled is reported when it is sent
        Finder(io.BytesIO()).dump(values)
    return tuple(found.values())
