"""`datacomp cluster`: computes centroids of a pool's images for the filters image_clusters (image_based) and sem_dedup."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from datacomp_core.engines import using
from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from deployments.cli import options, terminal
from deployments.cli.stages import run_to_stage


def add_to(app: typer.Typer) -> None:
    app.command("cluster", rich_help_panel="Stages")(cluster)


def cluster(
    metadata: Annotated[str, typer.Option(help="A folder or bucket of metadata parquets.")],
    out: Annotated[str, typer.Option(help="The file of centroids to write (.npy).")],
    features: Annotated[list[str] | None, typer.Option(help="Folders of npz files, if not next to the metadata.")] = None,
    embeddings: Annotated[str, typer.Option(help="Name of the image embeddings: <name>_img in the npz.")] = "l14",
    num_clusters: Annotated[int, typer.Option(min=1, help="Centroids.")] = 100_000,
    sample_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Share of each part to use (paper: 1, 1, 0.3, 0.03 by scale).")
    ] = 1.0,
    captions: Annotated[
        Literal["english", "any"], typer.Option(help="Rows to use: those with an English caption, or all.")
    ] = "english",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample and of k-means.")] = 0,
    json: options.Json = False,
) -> None:
    """Compute the centroids of a pool's images with k-means (faiss, 20 rounds).

    Example: datacomp cluster --metadata small/metadata --num-clusters 100000 --out centroids.npy
    """
    import numpy as np

    from datacomp_core.pool_source import PoolSource
    from datacomp_core.selection.kmeans import ClusterSpec
    from datacomp_core.selection.kmeans import cluster as train

    if not out.endswith(".npy"):
        raise SpecError(f"{out!r} does not end with .npy: give a file name that does.")
    spec = ClusterSpec(num_clusters=num_clusters, features=embeddings, sample_ratio=sample_ratio, captions=captions, seed=seed)
    source = PoolSource(Folder(metadata), features=tuple(Folder(url) for url in features or []))
    folder, name = run_to_stage.target(out)
    with using(settings().engine), terminal.shown_progress("cluster", quiet=json) as progress:
        found = train(spec, source, workers=settings().num_workers, near=folder, progress=progress)
    with folder.writing(name) as path, path.open("wb") as file:
        np.save(file, found)
    if json:
        terminal.print_json({"out": out, "num_clusters": len(found), "dimensions": found.shape[1]})
    else:
        terminal.out.print(f"{len(found):,} centroids of {found.shape[1]} dimensions: {terminal.bold(out)}")
