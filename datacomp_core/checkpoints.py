"""Reads weights from checkpoint files in every plain form, and removes the wrappers of training codes and libraries. No code
in a file is executed: files are safetensors, or torch files read with `weights_only`. A file that can be read only by executing
its content (TorchScript, pickled objects) is rejected with advice. open_clip's own code converts weights for its models (older
names, another grid of positions, a missing bias), as in its `load_checkpoint`.
"""

from __future__ import annotations

import re
import textwrap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from datacomp_core.errors import DataError
from datacomp_core.torch_files import why_unreadable
from datacomp_core.untrusted_documents import read_json

if TYPE_CHECKING:
    import torch

DEEPEST = 4
NESTS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training codes keep the weights, next to optimizer, epoch and so on."""
PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "model.")
"""Prefixes of DDP, torch.compile, FSDP, activation checkpointing and Lightning."""
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Prefixes that may also occur inside a name."""
NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "n_averaged")
"""Numbers that OpenAI's files and torch's `AveragedModel` keep among the weights."""
INDEX = ".index.json"
CONVERT = "Convert it with `datacomp convert-checkpoint FILE OUT.safetensors`, or give a safetensors file."

Weights = dict[str, Any]
SHAPES = re.compile(r"size mismatch for (\S+): copying .*?Size\((\[.*?\])\) from checkpoint, .*?Size\((\[.*?\])\)", re.DOTALL)


def read_weights(checkpoint: Path | IO[bytes], name: str) -> Weights:
    """Return the tensors in a checkpoint by their plain names. DataError says what the file is, if it is not a plain
    checkpoint."""
    where = checkpoint_name(checkpoint)
    found = _read(checkpoint, name, where)
    tensors = unnested(found, where)
    return unprefixed({key: value for key, value in tensors.items() if key.rpartition(".")[2] not in NO_WEIGHTS})


def fit(model: torch.nn.Module, weights: Weights, name: str, where: str) -> None:
    """Load weights into an open_clip model, as its `load_checkpoint` does. DataError says what does not fit."""
    try:
        found = _as_open_clip(cast("Any", model), weights)
        _require_floats(model, found, where)
        model.load_state_dict(found)
    except (RuntimeError, AssertionError, KeyError, ValueError) as problem:
        met = _strange_prefix(model, weights)
        if met in PREFIXES:
            other = next(key for key in weights if not key.startswith(met))
            raise DataError(
                f"{where} does not fit the model {name}: some of its names begin with {met!r} and others, such as {other}, "
                "do not. Save only the weights of the model."
            ) from problem
        if met:
            raise DataError(
                f"{where} does not fit the model {name}: its weights have the prefix {met!r}, and only the prefixes "
                f"{', '.join(PREFIXES)} are removed. Save it without that prefix."
            ) from problem
        raise DataError(f"{where} does not fit the model {name}: {_misfit(problem)}") from problem
    require_finite(model, where)


def _misfit(problem: BaseException) -> str:
    """Return torch's message about weights that do not fit the model, shortened; of several shapes it names the first."""
    shapes = SHAPES.findall(str(problem))
    if shapes:
        weight, given, wanted = shapes[0]
        return f"{len(shapes)} of its weights have another shape, such as {weight}: {given} in the file, {wanted} in the model."
    return textwrap.shorten(str(problem), 300, placeholder=" ...")


def _require_floats(model: torch.nn.Module, weights: Weights, where: str) -> None:
    """DataError names a weight that is stored as integers: copied into the model, it would be meaningless."""
    for name, value in model.state_dict().items():
        given = weights.get(name)
        if value.is_floating_point() and given is not None and not given.is_floating_point():
            raise DataError(
                f"{where} cannot be used: the weight {name} is stored as {given.dtype} and not as floating point numbers. "
                "Quantised weights are not supported; save it as float32, float16 or bfloat16."
            )


def require_finite(model: torch.nn.Module, where: str) -> None:
    """DataError names the first weight that has NaN or infinity."""
    import torch

    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise DataError(
                f"{where} cannot be used: the weight {name} has NaN or infinity in {bad:,} of {value.numel():,} values. Its "
                "training diverged or the file is damaged; take an earlier checkpoint."
            )


def unprefixed(tensors: Weights) -> Weights:
    """Remove the prefixes of DDP, torch.compile, FSDP and Lightning, in any order."""
    found = dict(tensors)
    for wrapper in WRAPPERS:
        found = {key.replace(wrapper, ""): value for key, value in found.items()}
    while found:
        prefix = next((one for one in PREFIXES if all(key.startswith(one) for key in found)), None)
        if prefix is None:
            break
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def checkpoint_name(checkpoint: Path | IO[bytes]) -> str:
    """Return the name of a checkpoint for messages."""
    return str(checkpoint if isinstance(checkpoint, Path) else getattr(checkpoint, "name", "the checkpoint"))


def shards_of(index: Path) -> list[Path]:
    """Return the files in an index of sharded weights (`*.index.json`), in order. DataError if the index or a file is invalid."""
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as problem:
        raise DataError(f"{index} is not an index of sharded weights ({problem!r}).") from problem
    for name in names:
        if "/" in str(name) or not (index.parent / str(name)).is_file():
            raise DataError(f"{index} names {name}, which is not in the same folder: fetch all shards of the weights.")
    return [index.parent / name for name in names]


# ---------------------------------------------------------------------------------------------------------------------


def _read(checkpoint: Path | IO[bytes], name: str, where: str) -> Any:
    import torch

    if isinstance(checkpoint, Path) and checkpoint.name.endswith(INDEX):
        return {key: value for shard in shards_of(checkpoint) for key, value in _read(shard, name, str(shard)).items()}
    if isinstance(checkpoint, Path) and checkpoint.is_dir():
        raise DataError(f"{where} is a folder: give a checkpoint file, or name the folder as the model.")
    try:
        if _is_safetensors(checkpoint):
            from safetensors.torch import load, load_file

            return load_file(checkpoint) if isinstance(checkpoint, Path) else load(checkpoint.read())
        if is_torchscript(checkpoint):  # torch.load would pass it to torch.jit.load
            raise ValueError("a TorchScript archive")
        return torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError as problem:
        raise DataError(f"{where} is not there.") from problem
    except Exception as problem:  # torch, zipfile and safetensors raise a dozen exception types
        raise DataError(_why_unreadable(checkpoint, name, where, problem)) from problem


def _is_safetensors(checkpoint: Path | IO[bytes]) -> bool:
    """Decide by its ending or its first bytes: length of the header, then JSON."""
    if isinstance(checkpoint, Path):
        if checkpoint.suffix == ".safetensors":
            return True
        with checkpoint.open("rb") as file:
            start = file.read(9)
    else:
        start = checkpoint.read(9)
        checkpoint.seek(0)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 100 << 20


def _why_unreadable(checkpoint: Path | IO[bytes], name: str, where: str, problem: Exception) -> str:
    told = str(problem)
    if _is_empty(checkpoint):
        return f"{where} is empty (0 bytes): copy or download it again."
    if isinstance(problem, EOFError):
        return f"{where} ends before its weights do: copy or download it again."
    if is_torchscript(checkpoint) or "TorchScript" in told:
        return f"{where} is a TorchScript archive, which contains code besides weights and is never executed here. {CONVERT}"
    if "Unsupported global" in told or "Unsupported class" in told or "Unsupported type" in told:
        what = next(
            (word.strip(".,") for word in told.split() if "." in word and word.split(".")[0] in ("argparse", "numpy")), ""
        )
        held = f"objects of {what}" if what else "pickled objects"
        return f"{where} contains {held} besides its weights, and unpickling them could run foreign code. {CONVERT}"
    return f"{where} cannot be read as plain weights for {name}: {why_unreadable(problem)}"


def _is_empty(checkpoint: Path | IO[bytes]) -> bool:
    if isinstance(checkpoint, Path):
        return checkpoint.is_file() and not checkpoint.stat().st_size
    return not checkpoint.seek(0, 2)


def is_torchscript(checkpoint: Path | IO[bytes]) -> bool:
    """Return whether a file is a torch.jit archive."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
    finally:
        if not isinstance(checkpoint, Path):
            checkpoint.seek(0)


def unnested(found: Any, where: str) -> Weights:
    """Return the mapping of names to tensors in a file's content."""
    import torch

    for _ in range(DEEPEST + 1):
        if not isinstance(found, Mapping):
            break
        mapping = cast("Mapping[str, Any]", found)
        inner = next((mapping[key] for key in NESTS if isinstance(mapping.get(key), Mapping)), None)
        if inner is None:
            tensors = {str(key): value for key, value in mapping.items() if isinstance(value, torch.Tensor)}
            if tensors:
                return tensors
            keys = ", ".join(repr(key) for key in list(mapping)[:5]) or "nothing"
            raise DataError(f"{where} has no weights at its top or under {', '.join(NESTS)}; it has {keys}.")
        found = inner
    raise DataError(f"{where} has no weights: it contains a {type(found).__name__} instead of tensors by name.")


def _as_open_clip(model: Any, weights: Weights) -> Weights:
    """The steps of open_clip 3.3's `load_checkpoint`, which itself accepts only a path."""
    import torch
    from open_clip import factory

    state = factory.convert_state_dict(model, dict(weights))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = factory.convert_to_custom_text_state_dict(state)
    for scalar in ("logit_scale", "logit_bias"):
        own = getattr(model, scalar, None)
        if scalar in state and own is not None and own.ndim != state[scalar].ndim:
            state[scalar] = state[scalar].reshape(own.shape)
    if "logit_bias" not in state and getattr(model, "logit_bias", None) is not None:
        state["logit_bias"] = torch.zeros_like(model.logit_bias)
    wanted = model.state_dict().keys()
    state = {key: value for key, value in state.items() if not (key.endswith(".position_ids") and key not in wanted)}
    factory.resize_pos_embed(state, model)
    text: Any = getattr(model, "positional_embedding", None)
    if text is not None or getattr(getattr(model, "text", None), "positional_embedding", None) is not None:
        factory.resize_text_pos_embed(state, model)
    return state


def _strange_prefix(model: torch.nn.Module, weights: Weights) -> str:
    """Return the prefix of all the model's names in the file, if that is the only difference."""
    wanted = list(model.state_dict())
    last = next((key for key in wanted if key.count(".") >= 2), wanted[0])
    for key in weights:
        if key.endswith("." + last):
            return key.removesuffix(last)
    return ""
