"""`datacomp explore` and `export`: browse a pool, or write everything known about it into one table."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from datacomp_core.store import Store, scratch
from deployments.cli import options, terminal
from deployments.local_server import require_free

if TYPE_CHECKING:
    from datacomp_core.clip_sources import ModelSource
    from datacomp_core.explore.explore_source import ExploreSource
    from deployments.explore.explorer import Explorer

PORT = 4280
SAMPLE = 100_000
MOST = 5_000_000

Targets = Annotated[
    list[str] | None,
    typer.Argument(help="A pool, subsets or entries by address, or methods by name. Default: the newest pool of the scale."),
]
Metadata = Annotated[str | None, typer.Option(help="A folder or bucket of metadata parquets, instead of the store.")]
Scores = Annotated[list[str] | None, typer.Option(help="Folders of score parquets for --metadata; repeat for several.")]
Features = Annotated[list[str] | None, typer.Option(help="Folders of npz files, if they are not next to --metadata.")]
Shards = Annotated[str | None, typer.Option(help="A folder or bucket of indexed tars with the images of --metadata.")]
Subsets = Annotated[list[str] | None, typer.Option("--subset", help="Subset files (.npy) to show; repeat for several.")]
ModelName = Annotated[str, typer.Option("--model", help="With --metadata: the CLIP of the features, to search by text.")]
Checkpoint = Annotated[Path | None, typer.Option(help="The checkpoint file of --model.")]
Prefix = Annotated[
    str, typer.Option("--encoder", help="The features that the map and the searches use, such as l14. Default: any.")
]
Rows = Annotated[int, typer.Option("--sample", min=100, max=MOST, help="Number of rows in the uniform sample.")]


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Results")(explore)
    app.command(rich_help_panel="Results")(export)


def explore(
    targets: Targets = None,
    scale: options.Scale = "tiny",
    metadata: Metadata = None,
    scores: Scores = None,
    features: Features = None,
    shards: Shards = None,
    subset: Subsets = None,
    model: ModelName = "",
    checkpoint: Checkpoint = None,
    encoder: Prefix = "",
    sample: Rows = SAMPLE,
    map_: Annotated[str, typer.Option("--map", help="pca, or umap (needs the extra `umap`).")] = "pca",
    index: Annotated[
        bool, typer.Option("--index", help="Build an index of the whole pool on disk, to search beyond the sample.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the recipes and the takedown requests that the page saves.")] = Path("."),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on 127.0.0.1.")] = PORT,
) -> None:
    """Browse a pool until Ctrl-C: search, a map, clusters, what each method keeps, and a preview of filters. No data leaves
    this machine. The sample, its map and small images are kept in DATACOMP_HOME.

        Examples:

          datacomp explore

          datacomp explore clip_score_tiny basic_tiny

          datacomp explore --scale small --sample 1000000 --map umap

          datacomp explore --metadata small/metadata --shards small/shards --subset mine.npy --model ViT-B-32 --checkpoint b32.pt
    """
    require_free(port)
    with ExitStack() as stack:
        given = (metadata, scores or [], features or [], shards, subset or [], model, checkpoint)
        explorer = _opened(stack, targets or [], scale, given, encoder, sample, map_)
        if index:
            _index(explorer)
        _serve(explorer, out, port)


def export(
    out: Annotated[str, typer.Option(help="The parquet file to write; with --format huggingface, the folder.")],
    targets: Targets = None,
    scale: options.Scale = "tiny",
    metadata: Metadata = None,
    scores: Scores = None,
    features: Features = None,
    shards: Shards = None,
    subset: Subsets = None,
    encoder: Prefix = "",
    sample: Rows = SAMPLE,
    only: Annotated[str, typer.Option("--only", help="Only what this method keeps.")] = "",
    pictures: Annotated[
        str, typer.Option("--pictures", help="bytes, references (shard, offset, length), or none.")
    ] = "references",
    format_: Annotated[str, typer.Option("--format", help="parquet (one file), or huggingface (a data set folder).")] = "parquet",
    json: options.Json = False,
) -> None:
    """Write a sample of a pool as a table: captions, scores, verdicts and reasons, cluster, map position, images. FiftyOne,
    Embedding Atlas, DuckDB, pandas and the `datasets` library can read it.

        Examples:

          datacomp export --out pool.parquet

          datacomp export clip_score_tiny --only clip_score_tiny --pictures bytes --format huggingface --out my_set
    """
    from deployments.explore.export import write_export

    with ExitStack() as stack:
        given = (metadata, scores or [], features or [], shards, subset or [], "", None)
        explorer = _opened(stack, targets or [], scale, given, encoder, sample, "pca", quiet=json)
        with terminal.shown_progress("export", quiet=json) as progress:
            made = write_export(explorer, out, only=only, pictures=pictures, form=format_, progress=progress)
    if json:
        terminal.print_json(made)
        return
    terminal.table("Exported", ("what", "value"), [(name, str(value)) for name, value in made.items()])


Given = tuple[str | None, list[str], list[str], str | None, list[str], str, Path | None]


def _opened(
    stack: ExitStack, targets: list[str], scale: str, given: Given, encoder: str, rows: int, kind: str, *, quiet: bool = False
) -> Explorer:
    """Build and prepare the explorer for the given options."""
    from deployments.explore.explorer import open_explorer

    if kind not in ("pca", "umap"):
        raise SpecError(f"--map {kind!r} is unknown: use pca or umap.")
    local = stack.enter_context(scratch())
    origin = _of_folders(targets, given, encoder, local) if given[0] else _of_store(targets, scale, given, local)
    with terminal.shown_progress("explore", quiet=quiet) as progress:
        return open_explorer(origin, rows, settings().home.resolve() / "explore", features=encoder, kind=kind, progress=progress)


def _of_store(targets: list[str], scale: str, given: Given, local: Path) -> ExploreSource:
    from datacomp_core.scales import scale as known_scale
    from deployments.explore.explore_sources import of_store

    if any(given[1:]):
        raise SpecError("--scores, --features, --shards, --subset, --model and --checkpoint need --metadata: add it.")
    known_scale(scale)
    return of_store(Store.open(settings().store_url), targets, scale, local)


def _of_folders(targets: list[str], given: Given, encoder: str, local: Path) -> ExploreSource:
    from datacomp_core.pool_source import PoolSource
    from datacomp_core.store import Folder
    from deployments.explore.explore_sources import of_folders

    metadata, scores, features, shards, subsets, model, checkpoint = given
    if targets:
        raise SpecError("Both artifacts of the store and --metadata are given: use only one of them.")
    assert metadata is not None
    models: dict[str, ModelSource] = {}
    if model or checkpoint:
        if not (model and checkpoint and checkpoint.is_file()):
            raise SpecError("--model and --checkpoint need each other, and the checkpoint must be a file: give both.")
        from datacomp_core import clip
        from datacomp_core.clip_sources import FileModel

        source = PoolSource(Folder(metadata), (), tuple(Folder(url) for url in features))
        keys = source.embedding_keys(source.parts()[0])
        if not keys:
            raise SpecError(f"{metadata} has no features (npz files) to search with --model: give their folder with --features.")
        models[encoder or keys[0].rpartition("_")[0]] = FileModel(model, clip.check_model(model), checkpoint)
    origin = of_folders(metadata, scores, features, shards, subsets, models)
    if not (scores or features):
        return origin
    from datacomp_core.selection.aligned import aligned

    joined, _ = aligned(origin.source, local / "aligned", Folder(str(local / "joined")), by_position=False)
    return replace(origin, source=joined)


def _index(explorer: Explorer) -> None:
    """Return the index of the whole pool; build it if it does not exist."""
    from datacomp_core.explore import pool_index

    key = f"{explorer.prefix}_img"
    if key not in explorer.sample.features:
        raise SpecError("This pool has no image features, so it cannot be indexed: run `datacomp embed` first.")
    with terminal.shown_progress("index") as progress:
        made = pool_index.build(
            explorer.origin.source, key, explorer.sample.vectors(key), explorer.whole_folder, progress=progress
        )
    terminal.notes.print(f"index of the whole pool: {made.num_vectors:,} images in {explorer.whole_folder}")


def _serve(explorer: Explorer, out: Path, port: int) -> None:
    import uvicorn

    from deployments.explore.app import make_app
    from deployments.explore.explorer_api import ExplorerApi

    sample = explorer.sample
    of = "the whole pool" if sample.is_whole else f"a sample of {sample.num_rows:,}"
    terminal.out.print(f"{explorer.origin.name}: {sample.num_pool:,} pairs, {of}")
    terminal.out.print(f"Explore: [bold]http://127.0.0.1:{port}/[/]   (Ctrl-C ends it)")
    threading.Thread(target=explorer.load_model, daemon=True).start()
    uvicorn.run(
        make_app(ExplorerApi(explorer, out)),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=2,
    )
