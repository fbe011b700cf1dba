"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.cli.terminal import JsonOutput

Scale = Annotated[str, typer.Option("--scale", help="Compute scale.")]
Track = Annotated[str, typer.Option("--track", help="filtering or byod. Default: both, in separate tables.")]
Recipes = Annotated[list[str] | None, typer.Option("--recipe", "-r", help="Filter by name; repeat for several.")]
Seeds = Annotated[list[int] | None, typer.Option("--seed", "-s", help="Training seed; repeat for several.")]
PoolSeeds = Annotated[list[int] | None, typer.Option("--pool-seed", help="Seed of the embedded pool; repeat for several.")]
Pool = Annotated[str, typer.Option("--pool", help="Address of a pool in the store. Default: the scale's own pool.")]
Images = Annotated[str, typer.Option("--shards", help="Address of that pool's images in the store. Default: download them.")]
Refresh = Annotated[bool, typer.Option("--refresh", help="Read a source again if it has changed.")]
Embed = Annotated[
    list[str] | None,
    typer.Option(
        "--embed",
        help="Model for the score clip_NAME_similarity_score: "
        "NAME=checkpoints/ADDRESS, NAME=MODEL:TAG@SHA256, NAME=MODEL@FILE, NAME=CONFIG.json@FILE or "
        "NAME=hf-hub:OWNER/NAME@REVISION.",
    ),
]
OpenNetworks = Annotated[str, typer.Option("--open-networks", help="Private networks to download from, such as 10.0.0.0/8.")]
Evalsets = Annotated[str, typer.Option("--evalsets", help="Address of test sets in the store. Default: the scale's own.")]
AddTasks = Annotated[
    list[str] | None,
    typer.Option(
        "--add-tasks",
        help="Your own tasks: a YAML file with one row per task, a Python file, or a registered task. Repeat for several.",
    ),
]
TaskData = Annotated[str, typer.Option("--task-data", help="With --add-tasks: the folder or bucket of their test sets.")]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=JsonOutput.keep,
        help="Print the result as JSON on standard output and everything else on standard error.",
    ),
]
TrustTimes = Annotated[
    bool, typer.Option("--trust-times", help="Treat files with unchanged size and time as unchanged, without reading them.")
]
Captions = Annotated[
    str,
    typer.Option(
        "--captions",
        help="Other captions: a policy in YAML (`captions:` addresses, `policy:`), or a published one by name.",
    ),
]
Mix = Annotated[
    list[str] | None,
    typer.Option(
        "--mix",
        help="Your own shards, in addition to what the filter keeps (track byod): shards/ADDRESS or shards/ADDRESS=WEIGHT "
        "(2: each sample twice), a YAML file, or a published mix by name; repeat for several.",
    ),
]
Subsets = Annotated[
    list[str] | None,
    typer.Option("--subset", help="Your own list of uids: npy, parquet, csv or txt; a path or url; repeat for several."),
]
Decoding = Annotated[
    str,
    typer.Option(
        help="How training images are decoded. full: exactly; fast: resized by torch, equal to rounding; scaled, cuda: other "
        "pixels. full and fast are ranked."
    ),
]
MadeFrom = Annotated[
    str,
    typer.Option(
        "--made-from",
        help="What your list, table or code was made from: released, target, public or private. Default: private.",
    ),
]
Name = Annotated[str, typer.Option("--name", help="Name on the leaderboard; needs exactly one --subset or --recipe.")]
