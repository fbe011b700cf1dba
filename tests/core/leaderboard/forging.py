"""A forger's tools: a bundle taken apart, changed, and packed again so that every hash and count in it fits."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import polars as pl

Files = dict[str, bytes]
# Which record's file each file of a bundle is, by the kind of the record.
OF_RECORD = {
    "entry.json": ("entries", "entry.json"),
    "hits.npz": ("entries", "hits.npz"),
    "results.jsonl": ("reports", "eval_results.jsonl"),
    "report.json": ("reports", "report.json"),
    "samples/subset.npy": ("subsets", "subset.npy"),
    "training.json": ("checkpoints", "training.json"),
    "checkpoint.pt": ("checkpoints", "checkpoint.pt"),
}


def read(bundle: Path) -> Files:
    with tarfile.open(bundle) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]


def pack(files: Files, out: Path) -> Path:
    """A bundle whose manifest is right for whatever is in it."""
    listing = json.loads(files["MANIFEST.json"])
    rest = {name: data for name, data in files.items() if not name.startswith("MANIFEST.json")}
    listing["files"] = {name: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for name, d in rest.items()}
    return pack_as_it_is({"MANIFEST.json": json.dumps(listing).encode(), **rest}, out)


def pack_as_it_is(files: Files, out: Path) -> Path:
    with tarfile.open(out, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out


def record_of(files: Files, kind: str) -> str:
    """The name of the record of a kind; of several, that of the entry's own input."""
    inputs = json.loads(files["entry.json"])["inputs"]
    wanted = {"reports": "report", "checkpoints": "checkpoint", "subsets": "subset"}.get(kind)
    address = inputs[wanted] if wanted else json.loads(files["MANIFEST.json"])["entry"]
    return f"records/{address}/_artifact.json"


def consistent(files: Files) -> Files:
    """Every manifest of a record made right for the files that are there, and every record for its manifest."""
    for name in list(files):
        _listed(files, name)
    return files


def repaired(files: Files, name: str) -> Files:
    """Records made right for one file that was changed or left out, as far as what is left of them can be read."""
    try:
        if name.endswith("_manifest.parquet"):
            _counted(files, name)
        else:
            _listed(files, name)
    except (KeyError, TypeError, AttributeError, ValueError, pl.exceptions.PolarsError):
        pass  # the forger's own tools cannot follow: as it is, then
    return files


def _listed(files: Files, name: str) -> None:
    """The row of a file in the manifest of the record that it is of, if it is of any."""
    kind, path = ("reports", name) if name.startswith("predictions/") else OF_RECORD.get(name, ("", ""))
    if not kind:
        return
    manifest = record_of(files, kind).replace("_artifact.json", "_manifest.parquet")
    table = pl.read_parquet(io.BytesIO(files[manifest])).filter(pl.col("path") != path)
    if name in files:
        data = files[name]
        row = pl.DataFrame({"path": [path], "size": [len(data)], "sha256": [hashlib.sha256(data).hexdigest()]})
        table = pl.concat([table, row]).sort("path")
    out = io.BytesIO()
    table.write_parquet(out)
    files[manifest] = out.getvalue()
    _counted(files, manifest)


def _counted(files: Files, manifest: str) -> None:
    """What a record says of its manifest."""
    record = manifest.replace("_manifest.parquet", "_artifact.json")
    table = pl.read_parquet(io.BytesIO(files[manifest]))
    said = json.loads(files[record])
    said["outputs"] = {
        "num_files": len(table),
        "num_bytes": int(table["size"].sum()),
        "manifest_sha256": hashlib.sha256(files[manifest]).hexdigest(),
    }
    files[record] = json.dumps(said).encode()


def edit(files: Files, name: str, change: Any) -> None:
    """Change a JSON file in place."""
    said = json.loads(files[name])
    change(said)
    files[name] = json.dumps(said).encode()
