"""`datacomp convert-checkpoint`: writes the weights of a checkpoint that contains more than plain tensors as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployments.cli import options, terminal


def add_to(app: typer.Typer) -> None:
    app.command("convert-checkpoint", rich_help_panel="Stages")(convert_checkpoint)


def convert_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(help="TorchScript file, or torch file that contains pickled objects besides the weights.")
    ],
    out: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    json: options.Json = False,
) -> None:
    """Write a checkpoint's weights as safetensors. A process without network and environment loads it and builds only tensors.

    Example: datacomp convert-checkpoint ViT-B-32.pt ViT-B-32.safetensors
    """
    from datacomp_core.convert import convert

    count = convert(checkpoint, out)
    if json:
        terminal.print_json({"out": str(out), "tensors": count})
    else:
        terminal.out.print(f"{count:,} tensors: {terminal.bold(out)}", soft_wrap=True)
