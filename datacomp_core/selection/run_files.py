"""Brings the sorted runs of uids that workers wrote, one per part, to the driver's disk, where they are merged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datacomp_core.parallel import concurrently
from datacomp_core.selection.select_part import found_name
from datacomp_core.store import Folder


@dataclass(frozen=True)
class RunFiles:
    """Runs in `folder`, which are fetched into `local` where they are in a bucket."""

    folder: Folder
    names: tuple[str, ...]
    local: Path

    def chosen(self) -> list[Path]:
        """The chosen uids of each part."""
        return self._files([f"{part}.npy" for part in self.names])

    def found(self, path: str) -> list[Path]:
        """Those uids of each part that are on the list at `path`."""
        return self._files([found_name(part, path) for part in self.names])

    def _files(self, names: list[str]) -> list[Path]:
        if self.folder.is_local:
            return [self.folder.path / name for name in names]
        self.local.mkdir(exist_ok=True)
        return list(concurrently(self._fetch, names))

    def _fetch(self, name: str) -> Path:
        path = self.local / name
        path.write_bytes(self.folder.read(name))
        return path
