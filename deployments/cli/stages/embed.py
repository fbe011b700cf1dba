"""`datacomp embed`: computes features and scores of an experiment's pool, or of any folder of metadata and shards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from deployments.cli import options, terminal
from deployments.cli.stages import run_to_stage
from deployments.cli.sweeps import captions_of, encoders_of, flip_of

if TYPE_CHECKING:
    from datacomp_core.artifacts import Captions
    from datacomp_core.clip_sources import ModelSource
    from datacomp_core.embedding.spec import Encoder
    from datacomp_core.store.content_marks import Trust
    from flows.parameters import ExperimentSpec

ENCODER = re.compile(r"(?P<name>[a-z0-9_]+)=(?P<model>[^@:]+)(:(?P<tag>[^@]+))?@(?P<file>.+)")
WHOLE = re.compile(r"(?P<name>[a-z0-9_]+)=(?P<model>.+)")


def add_to(app: typer.Typer) -> None:
    app.command("embed", rich_help_panel="Stages")(embed)


def embed(
    scale: options.Scale = "tiny",
    recipe: Annotated[
        str,
        typer.Option("--recipe", "-r", help="Compute the scores that this filter reads. Default: clip_score_tiny or clip_score."),
    ] = "",
    pool_seed: run_to_stage.PoolSeed = 0,
    pool: options.Pool = "",
    model: options.Embed = None,
    captions: Annotated[
        str,
        typer.Option("--captions", help="Embed the captions of a policy's sets; with --metadata, of a folder of captions."),
    ] = "",
    metadata: Annotated[str | None, typer.Option(help="Folder or bucket of metadata parquets, instead of an experiment.")] = None,
    features: Annotated[
        str | None, typer.Option(help="With --captions: folder of the pool's npz, if not next to --metadata.")
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(help="With --metadata: folder or bucket of shards; with --pool: address of its images in the store."),
    ] = None,
    out: Annotated[str | None, typer.Option(help="With --metadata: folder or bucket for scores/ and features/.")] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="With --metadata: NAME=MODEL[:TAG]@WEIGHTS or NAME=FOLDER [,flip=averaged]; repeat for several."),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="With --metadata: precision of the autocast.")
    ] = "fp32",
    batch_size: Annotated[int, typer.Option(min=1, help="With --metadata: rows per batch.")] = 256,
    decoding: Annotated[
        Literal["full", "fast"], typer.Option(help="With --metadata: fast resizes with torch; results are equal up to rounding.")
    ] = "full",
    recompute: Annotated[
        bool, typer.Option(help="With --metadata: also recompute scores that the metadata already contains.")
    ] = False,
    device: Annotated[str, typer.Option(help="With --metadata: torch device; separate several with commas.")] = "",
    trust_times: options.TrustTimes = False,
    json: options.Json = False,
) -> None:
    """Score a pool: compute image and text features and their cosine, with the scale's scorer or your own models.

    Examples:

      datacomp embed --json

      datacomp embed --pool pools/byod/mine--0123456789ab --scale small --recipe clip_score_b32

      datacomp embed --pool pools/byod/mine--0123456789ab --scale small --embed mine=checkpoints/ADDRESS

      datacomp embed --metadata small/metadata --shards small/shards --out small/embeddings --encoder b32=ViT-B-32@epoch_5.pt
    """
    if metadata is None:
        run_to_stage.run_to(
            "embed",
            _experiment(scale, recipe, model, pool_seed=pool_seed, pool=pool, shards=shards or "", **captions_of(captions)),
            json=json,
        )
    elif captions:
        if out is None or not encoder:
            raise SpecError("Embedding a folder of captions needs --captions, --metadata, --out and --encoder together.")
        _embed_captions(captions, metadata, features, out, encoder, precision, batch_size, device, json=json)
    elif shards is None or out is None or not encoder:
        raise SpecError("Embedding a folder needs --metadata, --shards, --out and --encoder together.")
    else:
        trust = "times" if trust_times else "content"
        how: dict[str, Any] = {"precision": precision, "batch_size": batch_size, "decoding": decoding}
        how["released"] = "recompute" if recompute else "keep"
        _embed_folder(metadata, shards, out, encoder, how, device, trust, json=json)


def _experiment(scale: str, recipe: str, model: list[str] | None, **given: Any) -> ExperimentSpec:
    """Return the experiment to score: with the recipe's models, the named models, or the scale's default."""
    default = "no_filter" if model else run_to_stage.DEFAULT_RECIPE if scale == "tiny" else "clip_score"
    return run_to_stage.spec_of(scale, recipe or default, **given, **encoders_of(model))


def parsed(text: str) -> tuple[Encoder, ModelSource]:
    """`NAME=MODEL[:TAG]@WEIGHTS`, `NAME=FOLDER`, or `NAME=hf-hub:OWNER/NAME@REVISION`, each with or without `,flip=averaged`.
    SpecError for any other form.
    """
    text, flip = flip_of(text)
    made, model = _parsed(text)
    return made.model_copy(update=flip), model


def _parsed(text: str) -> tuple[Encoder, ModelSource]:
    from datacomp_core import clip, clip_hub
    from datacomp_core.clip_sources import ON_HUB, FileModel, in_folder
    from datacomp_core.embedding.spec import Encoder

    whole, found = WHOLE.fullmatch(text), ENCODER.fullmatch(text)
    if whole is not None and whole["model"].startswith(ON_HUB):
        return _named(Encoder, whole["name"]), clip_hub.source(*clip_hub.pin(whole["model"]))
    if whole is not None and Path(whole["model"]).is_dir():
        return _named(Encoder, whole["name"]), in_folder(Path(whole["model"]).resolve())
    if found is not None and found["model"].endswith(".json"):
        from datacomp_core.clip_sources import model_from_configuration

        return _named(Encoder, found["name"]), model_from_configuration(Path(found["model"]), _weights(found["file"]))
    if found is None:
        raise SpecError(
            f"{text!r} is not an encoder: give NAME=MODEL@WEIGHTS, such as b32=ViT-B-32@epoch_5.pt, NAME=FOLDER of a model, or "
            "NAME=hf-hub:OWNER/NAME; `,flip=averaged` may follow."
        )
    name, weights = clip.check_model(found["model"]), _weights(found["file"])
    return _named(Encoder, found["name"]), FileModel(name, name, weights, tag=found["tag"] or "")


def _weights(text: str) -> Path:
    if not Path(text).is_file():
        raise SpecError(f"No weights were found at {text}: give the path of a checkpoint file.")
    return Path(text)


def _named(kind: type[Encoder], name: str) -> Encoder:
    return kind(column=f"clip_{name}_similarity_score", prefix=name)


def _embed_captions(
    captions: str,
    metadata: str,
    features: str | None,
    out: str,
    encoders: list[str],
    precision: Literal["fp32", "bf16", "fp16"],
    batch_size: int,
    device: str,
    *,
    json: bool,
) -> None:
    from datacomp_core.embedding.captions import CaptionEmbedSpec, embed_folder_captions
    from datacomp_core.pool_source import PoolSource
    from datacomp_core.selection.aligned import aligned
    from datacomp_core.store import Folder, scratch
    from deployments.cli.stages.captions import found, in_folder

    pairs = [parsed(text) for text in encoders]
    spec = CaptionEmbedSpec(encoders=tuple(own for own, _ in pairs), precision=precision, batch_size=batch_size)
    made, folder = found(captions)
    source = PoolSource(Folder(metadata), (), (Folder(features),) if features else ())

    def work(target: Folder, progress: Any) -> Captions:
        models = tuple(model for _, model in pairs)
        chosen = device or settings().device
        with scratch() as local:
            ordered, _ = aligned(source, local, by_position=True)  # by uid, wherever the features have one
            return embed_folder_captions(spec, models, made, folder, ordered, target, device=chosen, progress=progress)

    asked = {"weights": [model.fingerprint() for _, model in pairs], "captions": folder.url}
    in_folder(spec, metadata, out, work, asked, json=json)


def _embed_folder(
    metadata: str,
    shards: str,
    out: str,
    encoders: list[str],
    how: dict[str, Any],
    device: str,
    trust: Trust,
    *,
    json: bool,
) -> None:
    from datacomp_core.embedding import embed as embedding
    from datacomp_core.embedding.spec import EmbedSpec

    pairs = [parsed(text) for text in encoders]
    spec = EmbedSpec(encoders=tuple(own for own, _ in pairs), **how)
    with terminal.shown_progress("embed", quiet=json) as progress:
        counts = embedding.embed_folder(
            spec,
            tuple(model for _, model in pairs),
            metadata,
            shards,
            out,
            workers=settings().num_workers,
            device=device or settings().device,
            trust=trust,
            progress=progress,
        )
    if json:
        terminal.print_json(dict(counts))
        return
    terminal.table("Counts", ("what", "number"), [(name, f"{count:,}") for name, count in counts.items()], right=("number",))
    terminal.out.print(f"Files: {terminal.bold(out)}")
