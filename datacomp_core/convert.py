"""Converts a checkpoint that contains more than plain tensors to safetensors, in an isolated child process. The child has an
empty environment, no network where the kernel allows that, and limits on time and output. It builds only tensors and
containers: every other class in a pickle becomes an object without content. TorchScript is also loaded there.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from datacomp_core.errors import DataError, SpecError
from datacomp_core.store import Folder, scratch

SECONDS = 3600
OUT = "weights.safetensors"
TENSOR_PARTS = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch", "Size"),
    }
)


def convert(checkpoint: Path, out: Path) -> int:
    """Write the weights in `checkpoint` to the safetensors file `out`; return the number of tensors. DataError if there are
    none."""
    if out.suffix != ".safetensors":
        raise SpecError(f"{out} must end with .safetensors.")
    if not checkpoint.is_file():
        raise DataError(f"{checkpoint} is not there.")
    with scratch() as local:
        command = [
            *_without_network(),
            sys.executable,
            "-P",
            "-m",
            "datacomp_core.convert",
            str(checkpoint.resolve()),
            str(local),
        ]
        environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(local), "OMP_NUM_THREADS": "1"}
        try:
            ended = subprocess.run(
                command, env=environment, cwd=local, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired as problem:
            raise DataError(f"{checkpoint} could not be converted in {SECONDS // 60} minutes.") from problem
        if ended.returncode or not (local / OUT).is_file():
            told = (ended.stderr.strip().splitlines() or [f"it ended with status {ended.returncode}"])[-1]
            raise DataError(
                f"{checkpoint} cannot be converted ({told[:300]}): save its state dict as safetensors in its original "
                "environment."
            )
        from safetensors import safe_open

        with safe_open(local / OUT, "pt") as made:
            count = len(list(made.keys()))
        where = Folder(out.resolve().parent)
        where.sweep_left_behind(out.name)
        where.put(out.name, local / OUT)
    return count


def _without_network() -> list[str]:
    """Return the command that removes the network, if it works."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return []
    tried = subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False)
    return [unshare, "-rn"] if tried.returncode == 0 else []


# In the child ---------------------------------------------------------------------------------------------------------


class InertObject:
    """Replaces every foreign class in a pickle."""

    def __init__(self, *given: Any, **named: Any) -> None: ...

    def __call__(self, *given: Any, **named: Any) -> InertObject:
        return InertObject()

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


class TensorsOnly(pickle.Unpickler):
    """Builds tensors from the archive's own bytes, and containers; imports and calls nothing else."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(name)))
        self.archive, self.home = archive, name.removesuffix("data.pkl")

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        is_storage = module_name == "torch" and global_name.endswith("Storage")
        if is_storage or (module_name, global_name) in TENSOR_PARTS:
            return super().find_class(module_name, global_name)
        return type(global_name, (InertObject,), {})

    def persistent_load(self, pid: Any, /) -> Any:
        """A tensor's numbers: ("storage", type, name, device, count)."""
        import torch

        _, kind, name, _, _ = pid
        data = bytearray(self.archive.read(f"{self.home}data/{name}"))
        untyped = torch.frombuffer(data, dtype=torch.uint8).untyped_storage() if data else torch.UntypedStorage(0)
        return torch.storage.TypedStorage(wrap_storage=untyped, dtype=kind.dtype, _internal=True)


def tensors_in(checkpoint: str) -> Any:
    """Return the content of a torch file, with empty objects instead of everything foreign."""
    with zipfile.ZipFile(checkpoint) as archive:
        name = next(name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl"))
        return TensorsOnly(archive, name).load()


def main(checkpoint: str, out: str) -> None:
    import resource

    import torch
    from safetensors.torch import save_file

    from datacomp_core.checkpoints import is_torchscript, unnested, unprefixed

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = 4 * os.path.getsize(checkpoint) + (1 << 30)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    if is_torchscript(Path(checkpoint)):
        found: Any = dict(torch.jit.load(checkpoint, map_location="cpu").state_dict())
    else:
        found = tensors_in(checkpoint)
    tensors = unprefixed(unnested(found, checkpoint))
    save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, Path(out) / OUT)


if __name__ == "__main__":
    main(*sys.argv[1:])
