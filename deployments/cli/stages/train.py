"""`datacomp train`: trains CLIP with the fixed recipe of a scale, on an experiment's subset or on any folder of shards."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from deployments.cli import options, terminal
from deployments.cli.stages import run_to_stage
from deployments.cli.sweeps import captions_of, encoders_of, mix_of


def add_to(app: typer.Typer) -> None:
    app.command("train", rich_help_panel="Stages")(train)


def train(
    recipe: run_to_stage.Recipe = run_to_stage.DEFAULT_RECIPE,
    scale: options.Scale = "tiny",
    seed: run_to_stage.Seed = 0,
    pool_seed: run_to_stage.PoolSeed = 0,
    pool: options.Pool = "",
    embed: options.Embed = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Folder or bucket of shards, instead of an experiment; repeat for several.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="With --data: folder or bucket for the checkpoint.")] = None,
    weight: Annotated[list[float] | None, typer.Option(help="With --data: relative sampling weight of each folder.")] = None,
    tolerated: Annotated[float, typer.Option(help="With --data: tolerated share of unreadable samples.")] = 0.0,
    accumulation: Annotated[int, typer.Option(min=0, help="With --data: micro-batches per step; 0: as memory requires.")] = 0,
    checkpoint_minutes: Annotated[float, typer.Option(help="With --data: how often to write a checkpoint for resuming.")] = 10.0,
    processes: Annotated[
        int, typer.Option(min=0, help="With --data: processes on this node, one per GPU; 0: use the setting.")
    ] = 0,
    nodes: Annotated[int, typer.Option(min=1, help="With --data: number of nodes that train together.")] = 1,
    node: Annotated[int, typer.Option(min=0, help="With --nodes: number of this node; node 0 runs the training.")] = 0,
    rendezvous: Annotated[str, typer.Option(help="With --nodes: host:port of node 0.")] = "",
    run_id: Annotated[str, typer.Option(help="With --nodes: the run's name, the same on all nodes.")] = "datacomp",
    restarts: Annotated[int, typer.Option(min=0, help="With --data: how often lost ranks are replaced.")] = 0,
    trust_times: options.TrustTimes = False,
    captions: options.Captions = "",
    mix: options.Mix = None,
    decoding: options.Decoding = "full",
    json: options.Json = False,
) -> None:
    """Train CLIP with the scale's fixed recipe (open_clip under torchrun).

    Examples:

      datacomp train --recipe no_filter --seed 1

      datacomp train --scale small --data small/basic --out small/checkpoint --processes 8
    """
    if not data:
        given = {"pool": pool, "decoding": decoding, **encoders_of(embed), **captions_of(captions), **mix_of(mix)}
        run_to_stage.run_to("train", run_to_stage.spec_of(scale, recipe, seed=seed, pool_seed=pool_seed, **given), json=json)
        return
    if captions:
        raise SpecError(
            "--captions works only with an experiment: a folder of --data already contains its captions (`datacomp reshard`)."
        )
    if mix:
        raise SpecError("--mix works only with an experiment: to mix folders, give several --data with one --weight each.")
    if out is None:
        raise SpecError("Training on a folder needs --data and --out together.")
    from datacomp_core.scales import scale as known_scale
    from datacomp_core.scales import with_decoding
    from datacomp_core.training.launch import TorchrunLayout
    from datacomp_core.training.spec import TrainSpec

    own = settings()
    layout = TorchrunLayout(
        processes=processes or own.processes, nodes=nodes, node=node, rendezvous=rendezvous, run_id=run_id, restarts=restarts
    )
    spec = TrainSpec(
        recipe=with_decoding(known_scale(scale), decoding),
        seed=seed,
        data_weights=tuple(weight or ()),
        tolerated_corrupt=tolerated,
    )
    given = {"accumulation": accumulation, "checkpoint_seconds": 60 * checkpoint_minutes, "device": own.device}
    given["trust"] = "times" if trust_times else "content"
    _train_folder(spec, tuple(data), out, layout, given, json=json)


def _train_folder(spec: Any, data: tuple[str, ...], out: str, layout: Any, given: dict[str, Any], *, json: bool) -> None:
    from datacomp_core.store import Folder, Store
    from datacomp_core.training import train as training
    from datacomp_core.training.nodes import join

    if layout.node:
        join(Store(Folder(out)), layout)
        return
    with terminal.shown_progress("train", quiet=json) as progress:
        made = training.train_folder(spec, data, out, layout=layout, progress=progress, **given)
    if json:
        terminal.print_json(Folder(out).read_json(training.RECORD))
        return
    rows = [("model", made.model), ("steps", f"{made.steps:,}"), ("samples seen", f"{made.samples_seen:,}")]
    rows += [(name, f"{count:,}") for name, count in made.counts.items()]
    terminal.table(f"checkpoint of {spec.label()}", ("what", "value"), rows)
    terminal.out.print(f"Files: {terminal.bold(out)}")
