"""Removes from a CPU image what torch never loads there: the GPU compiler and the engines that CUDA opens by name. torch's own
index has CPU-only builds (build argument TORCH_INDEX), which do not need this. The registry's build is linked with CUDA: this
script reads from the ELF headers what `import torch` needs, keeps it, and removes NVIDIA's other files.
`python without_cuda.py SITE_PACKAGES`
"""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

COMPILER = "triton"
RUNS_IN_TORCH = "torch/lib"
NOT_LOADED = ("torch/lib/libtorch_cuda_linalg.so", "torch/include")
"""Linear algebra on GPUs, which torch opens by name at the first call; headers for who compiles against torch."""


def needed(library: Path) -> list[str]:
    """Return the names that an ELF library requests from the loader (DT_NEEDED)."""
    data = library.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
        return []
    offset, entry, count = struct.unpack_from("<Q", data, 0x28)[0], *struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, offset + number * entry) for number in range(count)]
    names: list[str] = []
    for _, kind, _, _, start, size, link, *_ in sections:
        if kind != 6:  # SHT_DYNAMIC
            continue
        strings = sections[link][4]
        for at in range(start, start + size, 16):
            tag, value = struct.unpack_from("<QQ", data, at)
            if tag == 1:  # DT_NEEDED
                begin = strings + value
                names.append(data[begin : data.index(b"\0", begin)].decode())
    return names


def kept(site: Path) -> set[Path]:
    """Return NVIDIA's libraries that the loader opens with torch's, directly or indirectly."""
    ours = {path.name: path for path in (site / "nvidia").rglob("*.so*") if path.is_file()}
    found: set[Path] = set()
    wanted = [name for library in (site / RUNS_IN_TORCH).glob("*.so*") for name in needed(library)]
    while wanted:
        library = ours.get(wanted.pop())
        if library is not None and library not in found:
            found.add(library)
            wanted += needed(library)
    return found


def prune(site: Path) -> int:
    """Remove the rest; return the number of freed bytes."""
    if not (site / "nvidia").is_dir():
        return 0
    freed = sum(_remove(site / name) for name in (*NOT_LOADED, COMPILER))
    keep = kept(site)
    rest = [path for path in (site / "nvidia").rglob("*") if path.is_file() and path.suffix != ".py" and path not in keep]
    for folder in site.glob(f"{COMPILER}-*.dist-info"):
        shutil.rmtree(folder)
    return freed + sum(map(_remove, rest))


def _remove(path: Path) -> int:
    """Remove a file or a folder, if it exists; return its bytes."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    size = sum(file.stat().st_size for file in files)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return size


if __name__ == "__main__":
    print(f"removed {prune(Path(sys.argv[1])) / 1e9:.1f} GB that a CPU never loads")  # noqa: T201
