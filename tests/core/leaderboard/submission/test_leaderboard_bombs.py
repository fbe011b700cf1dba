"""Small bundles that would grow: refused by what they say of their size, or by the limit of the process that reads them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import board_world as world
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forging import Files, consistent, edit, pack, read, record_of

from datacomp_core.leaderboard.submission.bundle import write_bundle
from datacomp_core.leaderboard.submission.isolated_check import CheckLimits, verify_apart
from datacomp_core.leaderboard.submission.verify import VerificationResult, verify
from datacomp_core.store import Store

SMALL = 4 << 20


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("bombs")
    store = Store.open(str(folder / "store"))
    write_bundle(store, world.true_run(store, "clip_score", world.results(0.14, 0)).address, folder / "good.tar")
    return read(folder / "good.tar")


def check(bundle: Path, folder: Path, limits: CheckLimits | None = None) -> VerificationResult:
    """In this process, where only the bounds hold; with limits, in one of its own."""
    folder.mkdir()
    check_it = verify if limits is None else partial(verify_apart, limits=limits)
    return check_it(bundle, folder, known_only=True)


def reason(found: VerificationResult) -> str:
    assert not found.ok
    return next(finding.reason for finding in found.findings if finding.ok is False)


def zeros(num_bytes: int) -> bytes:
    """An npz of an array of zeros, made without having it."""
    header, data = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (num_bytes,)})
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open("labels.npy", "w") as file:
        file.write(header.getvalue())
        for _ in range(num_bytes >> 20):
            file.write(bytes(1 << 20))
    return data.getvalue()


def zeros_predicted(files: Files) -> None:
    files["predictions/tiny-coarse.npz"] = zeros(300 << 20)


def zeros_hit(files: Files) -> None:
    files["hits.npz"] = zeros(300 << 20)


def lying_shape(files: Files) -> None:
    """A header that names more than the file has."""
    data = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("labels.npy", header.getvalue())
    files["predictions/tiny-coarse.npz"] = data.getvalue()


def long_manifest(files: Files) -> None:
    """A manifest of 200 million equal rows, in a few kilobytes."""
    record = record_of(files, "reports")
    out = io.BytesIO()
    schema = pa.schema([("path", pa.string()), ("size", pa.int64()), ("sha256", pa.string())])
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        rows = pa.table({"path": ["x"] * 1_000_000, "size": [1] * 1_000_000, "sha256": [""] * 1_000_000}, schema)
        for _ in range(20):
            writer.write_table(rows)
    files[record.replace("_artifact.json", "_manifest.parquet")] = out.getvalue()
    edit(files, record, lambda said: said["outputs"].update(num_files=20_000_000))


def manifest_of(files: Files, out: bytes, rows: int) -> None:
    record = record_of(files, "reports")
    files[record.replace("_artifact.json", "_manifest.parquet")] = out
    edit(files, record, lambda said: said["outputs"].update(num_files=rows, manifest_sha256=hashlib.sha256(out).hexdigest()))


def repeated_text(files: Files) -> None:
    """A manifest whose every row repeats one long text of its dictionary: 900 MB out of kilobytes."""
    out, rows = io.BytesIO(), 1000
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 900_000])
    table = pa.table({"path": [str(number) for number in range(rows)], "size": [1] * rows, "sha256": text})
    pq.write_table(table, out, compression="zstd", dictionary_pagesize_limit=1 << 30)
    manifest_of(files, out.getvalue(), rows)


def nested_columns(files: Files) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"path": [[["a"] * 100]], "size": [1], "sha256": ["x"]}), out)
    manifest_of(files, out.getvalue(), 1)


def other_compression(files: Files) -> None:
    """bzip2 unfolds in one piece whatever the member says of its size."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("labels.npy", bytes(100 << 20))
    files["predictions/tiny-coarse.npz"] = data.getvalue()


def doubled_inputs(files: Files) -> None:
    """A chain of 64 records, each made from the next one twice over: 2 ** 64 ways down."""
    subset = record_of(files, "subsets")
    said, manifest = json.loads(files[subset]), files[subset.replace("_artifact.json", "_manifest.parquet")]
    places = [f"subsets/tiny/chained--{number:012x}" for number in range(64)]
    for place, below in pairwise([*places, ""]):
        used = [{"address": below, "fingerprint": "0" * 64}] * 2 if below else []
        artifact = {**said["artifact"], "address": place, "data": f"{place}/attempt-00000000"}
        files[f"records/{place}/_artifact.json"] = json.dumps(
            {**said, "address": place, "artifact": artifact, "inputs": {"pool": used}}
        ).encode()
        files[f"records/{place}/_manifest.parquet"] = manifest
    more = [{"address": places[0], "fingerprint": "0" * 64}]
    edit(files, record_of(files, "reports"), lambda said: said["inputs"].update(more=more))


def deep_json(files: Files) -> None:
    files["report.json"] = b"[" * 1_000_000


def deep_record(files: Files) -> None:
    files[record_of(files, "reports")] = b'{"spec":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001


WANTED = {
    "repeated_text": "a text of more than",
    "nested_columns": "other columns",
    "other_compression": "in a way that no npz is",
}


@pytest.mark.parametrize(
    "bomb",
    [
        zeros_predicted,
        lying_shape,
        deep_json,
        repeated_text,
        nested_columns,
        other_compression,
        doubled_inputs,
        *(pytest.param(bomb, marks=pytest.mark.slow) for bomb in (zeros_hit, long_manifest, deep_record)),
    ],
)
def test_a_bundle_that_would_grow_is_refused(good: Files, tmp_path: Path, bomb: Callable[[Files], None]) -> None:
    files = dict(good)
    bomb(files)
    as_it_is = bomb in (long_manifest, deep_record, repeated_text, nested_columns, doubled_inputs)
    bundle = pack(files if as_it_is else consistent(files), tmp_path / "bomb.tar")
    assert bundle.stat().st_size < SMALL
    told = reason(check(bundle, tmp_path / "out"))
    assert str(tmp_path) not in told
    assert WANTED.get(bomb.__name__, "") in told


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def member_of(num_bytes: int, kind: bytes) -> bytes:
    """The header of a member that has so many bytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.size, info.type = num_bytes, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def record(key: str, value: bytes) -> bytes:
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    length += len(str(length)) - len(str(len(rest)))
    return str(length).encode() + rest


def test_headers_that_would_be_read_into_memory_are_refused(good: Files, tmp_path: Path) -> None:
    whole = pack(good, tmp_path / "good.tar").read_bytes()
    assert whole[:13] == b"MANIFEST.json"
    hostile = {
        "pax": member_of(300_000_000, tarfile.XHDTYPE),
        "pax-global": member_of(300_000_000, tarfile.XGLTYPE),
        "long": member_of(300_000_000, tarfile.GNUTYPE_LONGNAME),
        "sparse": member("entry.json", kind=tarfile.GNUTYPE_SPARSE),
        "sparse-pax": member("pax", record("GNU.sparse.major", b"1") + record("GNU.sparse.realsize", b"9" * 15), tarfile.XHDTYPE),
        "global": member("pax", record("path", b"entry.json"), tarfile.XGLTYPE),
        "size": member("pax", record("size", b"-5"), tarfile.XHDTYPE),
    }
    for name, header in hostile.items():
        bundle = tmp_path / f"{name}.tar"
        with bundle.open("wb") as file:
            file.write(header)
            if header[124:135] == b"%011o" % 300_000_000:
                file.seek(512 + 300_000_000 + -300_000_000 % 512)  # a hole in the file: what a header announces is there
            file.write(whole)
        tracemalloc.start()
        told = reason(check(bundle, tmp_path / name))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "header" in told or "type" in told, told
        assert most < SMALL, name


def test_the_process_that_checks_has_a_limit(good: Files, tmp_path: Path) -> None:
    """Whatever gets past the bounds ends there: with so little memory, or time, the code itself does not fit."""
    bundle = pack(good, tmp_path / "good.tar")
    assert "exceeded its limit" in reason(check(bundle, tmp_path / "little", CheckLimits(memory_bytes=16 << 20)))
    assert "exceeded its limit" in reason(check(bundle, tmp_path / "short", CheckLimits(cpu_seconds=0)))


def test_a_long_name_is_read_as_tar_writes_it(good: Files, tmp_path: Path) -> None:
    """Names of more than 100 characters stand in extended headers in honest bundles too."""
    name = f"samples/{'x' * 150}.parquet"
    assert check(pack({**good, name: b"rows"}, tmp_path / "good.tar"), tmp_path / "out").ok
    assert (tmp_path / "out" / name).read_bytes() == b"rows"
