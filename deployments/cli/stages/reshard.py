"""`datacomp reshard`: writes the chosen samples of a pool or of a plain folder of tars into new shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from datacomp_core.store import Folder, scratch
from deployments.cli import options, terminal
from deployments.cli.stages import run_to_stage
from deployments.cli.sweeps import captions_of, encoders_of, mix_of

if TYPE_CHECKING:
    from datacomp_core.driver_files import Exchange
    from datacomp_core.resharding.captions import CaptionSource
    from datacomp_core.resharding.shard_scan import ShardFolders


def add_to(app: typer.Typer) -> None:
    app.command("reshard", rich_help_panel="Stages")(reshard)


Treatment = Literal["blur", "inject", "blur_and_inject"]


def reshard(
    recipe: run_to_stage.Recipe = run_to_stage.DEFAULT_RECIPE,
    scale: options.Scale = "tiny",
    pool_seed: run_to_stage.PoolSeed = 0,
    pool: options.Pool = "",
    embed: options.Embed = None,
    shards: Annotated[
        list[str] | None,
        typer.Option(help="A folder or bucket of webdataset tars, instead of a pool's images; repeat for several."),
    ] = None,
    subset: Annotated[str | None, typer.Option(help="With --shards: the subset file.")] = None,
    out: Annotated[str | None, typer.Option(help="With --shards: folder or bucket for the new shards.")] = None,
    samples_per_shard: Annotated[
        int, typer.Option(min=1, help="With --shards: maximum number of samples per new shard.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="With --shards: seed of the global shuffle.")] = 0,
    shuffle: Annotated[
        Literal["global", "none"], typer.Option(help="With --shards: none keeps the order of the input.")
    ] = "global",
    tolerated_missing: Annotated[
        float, typer.Option(min=0, max=1, help="With --shards: share of samples that may be missing.")
    ] = 0.0,
    first_shard: Annotated[
        int, typer.Option(min=0, help="With --shards: position of the first shard to read, by name, from 0.")
    ] = 0,
    num_shards: Annotated[int | None, typer.Option(min=1, help="With --shards: number of shards to read.")] = None,
    faces: Annotated[Treatment | None, typer.Option(help="With --metadata: blur faces, add boxes to the json, or both.")] = None,
    metadata: Annotated[str | None, typer.Option(help="With --faces or --captions: the pool's metadata folder.")] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="With --faces: webp quality of a blurred image.")] = 100,
    captions: options.Captions = "",
    scores: Annotated[
        list[str] | None, typer.Option(help="With --captions: folders of the scores that the policy compares; repeat.")
    ] = None,
    mix: options.Mix = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="With several --shards, instead of --subset: copies of each sample; repeat, one per --shards."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --shards: report on the subset, and write nothing.")] = False,
    json: options.Json = False,
) -> None:
    """Write the chosen samples into new shards in a global random order. Only the chosen samples are read.

    Examples:

      datacomp reshard --recipe clip_score_tiny

      datacomp reshard --shards small/shards --subset subset.npy --out small/clip_score

      datacomp reshard --shards s3://bucket/shards --subset subset.npy --dry-run

      datacomp reshard --shards small/clip_score --shards cc12m --weight 1 --weight 2 --out small/mixed
    """
    if shards is None:
        given: dict[str, Any] = {"pool": pool, **encoders_of(embed), **captions_of(captions), **mix_of(mix)}
        run_to_stage.run_to("reshard", run_to_stage.spec_of(scale, recipe, pool_seed=pool_seed, **given), json=json)
        return
    if mix:
        raise SpecError("--mix works only in the store: to mix folders, give several --shards with one --weight each.")
    if weight and (subset is not None or first_shard or num_shards is not None or captions or faces):
        raise SpecError("--weight mixes whole folders: use it only with --shards, --out, --seed and --samples-per-shard.")
    if (subset is None and not weight) or (out is None and not dry_run):
        raise SpecError("Resharding a folder needs --shards, --subset (or --weight) and --out together.")
    if faces is not None and metadata is None:
        raise SpecError("Faces need --faces (what to do) and --metadata (where the boxes are) together.")
    if captions and metadata is None:
        raise SpecError("Captions need --captions (the policy) and --metadata (the pool's folder) together.")
    if metadata is not None and faces is None and not captions:
        raise SpecError("--metadata needs --faces (what to do with faces) or --captions (which captions): add one of them.")
    if scores and not captions:
        raise SpecError("--scores goes with --captions: a policy may compare scores.")
    from datacomp_core.driver_files import exchange
    from datacomp_core.resharding import reshard as core

    spec = core.ReshardSpec(samples_per_shard=samples_per_shard, seed=seed, shuffle=shuffle, tolerated_missing=tolerated_missing)
    inputs = core.ShardFolders(tuple(Folder(url) for url in shards), first_shard, num_shards)
    workers = settings().num_workers
    with scratch() as mixed, terminal.shown_progress("reshard", quiet=json) as progress:
        if weight:
            subset, inputs = _mixed(weight, seed, inputs, Folder(mixed), workers, progress)
        assert subset is not None
        if out is None or dry_run:
            account, num_bytes = core.account_folders(inputs, subset, spec, workers=workers, progress=progress)
            _show(f"Would be written from {subset}", "", {**account.counts(), "bytes": num_bytes}, json=json)
            account.check(spec, str(inputs))
            return
        faced = (
            core.FaceTreatment(core.FaceSpec(treatment=faces, quality=quality), Folder(metadata)) if faces and metadata else None
        )
        with scratch() as local, exchange(Folder(out)) as shared:
            texts = (
                _captions(captions, metadata, scores or [], local, shared, workers, progress) if captions and metadata else None
            )
            how: dict[str, Any] = {"faced": faced, "captions": texts, "workers": workers, "progress": progress}
            account = core.reshard_folders(inputs, subset, Folder(out), spec, **how)
    _show(f"Resharded into {out}", out, account.counts(), json=json)


def _mixed(
    weights: list[float], seed: int, inputs: ShardFolders, made: Folder, workers: int, progress: Any
) -> tuple[str, ShardFolders]:
    """Return the subset of a mix of folders, and the source of each sample."""
    from datacomp_core.resharding.mix import MixSpec, mix_folders
    from datacomp_core.resharding.plan_inputs import PLACES, SUBSET

    mix_folders(MixSpec(weights=tuple(weights), seed=seed), inputs.folders, made, workers=workers, progress=progress)
    return f"{made}/{SUBSET}", replace(inputs, places=f"{made}/{PLACES}")


def _captions(
    policy: str, metadata: str, scores: list[str], local: Path, shared: Exchange, workers: int, progress: Any
) -> CaptionSource:
    """Apply a policy to the captions of a folder of metadata. `shared` contains what the workers write and read."""
    from datacomp_core.pool_source import PoolSource
    from datacomp_core.resharding.captions import CaptionSource
    from datacomp_core.selection.aligned import aligned
    from deployments.cli.stages.captions import choice_of, chosen

    given, _ = aligned(
        PoolSource(Folder(metadata), tuple(Folder(url) for url in scores)), local / "joins", shared.folder / "aligned"
    )
    choice, out = choice_of(policy, given, trains=True), shared.folder / "captioned"
    return CaptionSource(chosen(choice, out, workers, progress), out, choice.spec.weights)


def _show(title: str, out: str, counts: dict[str, int], *, json: bool) -> None:
    if json:
        terminal.print_json({"out": out, **counts})
        return
    terminal.table(title, ("what", "number"), [(name, f"{n:,}") for name, n in counts.items()], right=("number",))
