"""`datacomp captions generate` and `translate`: captions that a model writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from deployments.cli import options
from deployments.cli.stages import run_to_stage
from deployments.cli.stages.captions import Images, Metadata, Out, Plan, found, in_folder, make, require_store

if TYPE_CHECKING:
    from datacomp_core.artifacts import Captions

Library = Annotated[Literal["transformers", "open_clip", "server"], typer.Option(help="Library or server that runs the model.")]
Weights = Annotated[str, typer.Option(help="open_clip: the tag of the weights.")]
Revision = Annotated[str, typer.Option(help="transformers: the commit of the model on the hub, 40 hex digits.")]
Sha256 = Annotated[
    str, typer.Option(help="sha256 of the weights file; for several files, sha256 of the output of `sha256sum *.safetensors`.")
]
Prompt = Annotated[str, typer.Option(help="Prompt for the model, or the beginning of its text.")]
Several = Annotated[int, typer.Option("--num-captions", min=1, help="Texts per row.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest text, in the model's tokens.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token; otherwise tokens are sampled.")]
TopP = Annotated[float, typer.Option(min=0, max=1, help="Sample from the likeliest tokens with this total probability.")]
Precision = Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="Precision of the model.")]
WriterSeed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the sampling.")]
Batch = Annotated[int, typer.Option(min=1, help="Rows per batch.")]


def generate(
    model: Annotated[
        str, typer.Argument(help="OWNER/NAME on the hub, open_clip's name of a CoCa model, or the model's name on a server.")
    ],
    name: Annotated[str, typer.Option(help="Name of the source of these captions.")],
    library: Library = "transformers",
    weights: Weights = "",
    revision: Revision = "",
    sha256: Sha256 = "",
    prompt: Prompt = "",
    num_captions: Several = 1,
    max_tokens: MaxTokens = 40,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    precision: Precision = "fp32",
    seed: WriterSeed = 0,
    batch_size: Batch = 32,
    scale: options.Scale = "tiny",
    pool_seed: run_to_stage.PoolSeed = 0,
    pool: options.Pool = "",
    shards: Images = "",
    metadata: Metadata = None,
    out: Out = None,
    plan: Plan = False,
    json: options.Json = False,
) -> None:
    """Let a model write captions for a pool's images, on every GPU. Run the command again to resume.

    Example: datacomp captions generate OWNER/NAME --name blip --revision COMMIT --sha256 HASH --pool pools/ADDRESS
    """
    from datacomp_core.embedding.generate import GenerateSpec, WriteWork, generate_folder

    how = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "precision": precision, "seed": seed}
    pinned = {"library": library, "model": model, "weights": weights, "revision": revision, "sha256": sha256}
    asked = {"prompt": prompt, "num_captions": num_captions, "batch_size": batch_size}
    spec = GenerateSpec.model_validate({"name": name, **pinned, **asked, **how})
    require_store(plan, metadata)
    if metadata is None:
        make(spec, (), scale, pool_seed, pool, shards, out, plan=plan, json=json)
        return
    if not shards:
        raise SpecError("Captions for the images of a folder need --metadata, --shards and --out together.")

    def work(target: Folder, progress: Any) -> Captions:
        own = settings()
        told = WriteWork(spec, Folder(metadata), Folder(shards), target, own.caption_server)
        return generate_folder(told, device=own.device, progress=progress)

    in_folder(spec, metadata, out, work, {"shards": Folder(shards).url}, json=json)


def translate(
    model: Annotated[str, typer.Argument(help="OWNER/NAME of a text-to-text model on the hub, or the model's name on a server.")],
    name: Annotated[str, typer.Option(help="Name of the source of the translations.")],
    only: Annotated[str, typer.Option(help="all, foreign (not English), or a language such as de.")] = "foreign",
    of: Annotated[str, typer.Option(help="Source to translate: raw, or one of --captions.")] = "raw",
    captions: Annotated[str, typer.Option("--captions", help="Caption set to translate: address or folder.")] = "",
    library: Annotated[
        Literal["transformers", "server"], typer.Option(help="Library or server that runs the model.")
    ] = "transformers",
    revision: Revision = "",
    sha256: Sha256 = "",
    prompt: Prompt = "",
    num_captions: Several = 1,
    source_language: Annotated[
        str, typer.Option(help="For multilingual models: the tokenizer's code of the source language.")
    ] = "",
    target_language: Annotated[str, typer.Option(help="For multilingual models: the code of the target language.")] = "",
    max_tokens: MaxTokens = 77,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    precision: Precision = "fp32",
    seed: WriterSeed = 0,
    batch_size: Batch = 32,
    scale: options.Scale = "tiny",
    pool_seed: run_to_stage.PoolSeed = 0,
    pool: options.Pool = "",
    metadata: Metadata = None,
    out: Out = None,
    plan: Plan = False,
    json: options.Json = False,
) -> None:
    """Translate the captions of a pool with a text-to-text model.

    Example: datacomp captions translate OWNER/NAME --name english --revision COMMIT --sha256 HASH --pool pools/ADDRESS
    """
    from datacomp_core.captions.translate import TranslateSpec, TranslateWork, translate_folder

    pinned = {"library": library, "model": model, "revision": revision, "sha256": sha256, "prompt": prompt, "name": name}
    asked = {"only": only, "of": of, "source_language": source_language, "target_language": target_language}
    asked |= {"num_captions": num_captions, "max_tokens": max_tokens, "batch_size": batch_size}
    how = {"temperature": temperature, "top_p": top_p, "precision": precision, "seed": seed}
    spec = TranslateSpec.model_validate({**pinned, **asked, **how})
    require_store(plan, metadata)
    if metadata is None:
        make(spec, (captions,) if captions else (), scale, pool_seed, pool, "", out, plan=plan, json=json)
        return
    from datacomp_core.caption_sets import require_sources

    given = found(captions) if captions else None
    require_sources((of,), [given[0]] if given else [])

    def work(target: Folder, progress: Any) -> Captions:
        own = settings()
        told = TranslateWork(spec, Folder(metadata), given[1] if given and of != "raw" else None, target, own.caption_server)
        return translate_folder(told, device=own.device, progress=progress)

    in_folder(spec, metadata, out, work, {"of_set": given[1].url if given else ""}, json=json)
