"""`datacomp pool`: builds the pool and its images; each operation on a download is a subcommand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datacomp_core import scales
from datacomp_core.errors import SpecError
from datacomp_core.scales import SCALES
from datacomp_core.settings import settings
from deployments.cli import options, terminal
from deployments.cli.stages import run_to_stage
from deployments.cli.stages.own_pool import adopt, byod, folder, open_store, prepare, tell_of_retry
from deployments.cli.stages.takedown import takedown

if TYPE_CHECKING:
    from datacomp_core.artifacts import ShardSet
    from datacomp_core.store import Store

EMBEDDED = "tiny"
COMMON = (*(name for name, row in SCALES.items() if row.hub is not None), "datacomp_1b")
Where = Annotated[str, typer.Argument(help="A download: its address, or the first digits of its fingerprint.")]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True, help=pool.__doc__, callback=pool)
    for command in (adopt, byod, folder, retry, stats, intersect, decontaminate, takedown):
        group.command()(command)
    app.add_typer(group, name="pool", rich_help_panel="Stages")


def pool(
    context: typer.Context,
    scale: options.Scale = "tiny",
    pool_seed: run_to_stage.PoolSeed = 0,
    metadata_only: Annotated[
        bool, typer.Option("--metadata-only", help="Fetch only a CommonPool's metadata, no images.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Build the pool and download its images, with a ledger and an index.

    Examples:

      datacomp pool --pool-seed 1

      datacomp pool --scale small

      datacomp pool stats ADDRESS
    """
    if context.invoked_subcommand is not None:
        return
    if metadata_only:
        _metadata(scale, pool_seed, json=json)
        return
    if scale not in COMMON:
        run_to_stage.run_to("pool", run_to_stage.spec_of(scale, pool_seed=pool_seed), json=json)
        return
    from datacomp_core.pool.commonpool import HubPoolSpec
    from datacomp_core.pool.download_images import images_of
    from datacomp_core.pool.estimate import estimate
    from datacomp_core.scales import SCALES

    candidates = SCALES[scale].train_num_samples if scale in SCALES else 1_400_000_000
    terminal.notes.print(estimate(candidates, images_of(scale), settings().num_workers).sentence())
    prepare(HubPoolSpec.model_validate({"scale": scale}), images_of(scale), json=json)


def _metadata(scale: str, pool_seed: int, *, json: bool) -> None:
    from datacomp_core.pool.commonpool import HubPoolSpec, fetch_metadata
    from datacomp_core.pool.tiny import TinyPoolSpec, build_tiny_pool

    if scale != EMBEDDED and scale not in COMMON:
        known = scales.scale(scale).name
        raise SpecError(
            f"Scale {known} has no built-in pool: make one from your data with `datacomp pool byod`, `folder` or `adopt`."
        )
    if scale in COMMON:
        made = fetch_metadata(HubPoolSpec.model_validate({"scale": scale}), store=open_store())
    else:
        made = build_tiny_pool(TinyPoolSpec.model_validate({"scale": scale, "seed": pool_seed}), store=open_store())
    if json:
        terminal.print_json(made.model_dump(mode="json"))
    else:
        terminal.out.print(f"{made.num_samples:,} rows of metadata: [bold]{made.address}[/]")


def retry(where: Where, open_networks: options.OpenNetworks = "", json: options.Json = False) -> None:
    """Fetch again only what failed for a temporary reason (dns, timeout, 5xx, ...).

    Example: datacomp pool retry shards/small/small-512px-jpg--0123456789ab
    """
    from datacomp_core.artifacts import Pool
    from datacomp_core.pool.adopt import AdoptedPoolSpec
    from datacomp_core.pool.download_images import ImageSpec, images_of
    from datacomp_core.pool.retry import retry_images
    from datacomp_core.pool.tiny import serve

    store, address = open_store(), _address(where)
    record = _record(store, address)
    made = record.inputs.get("pool")
    if not made or "spec" not in record.spec or (pooled := store.record(made[0]["address"])) is None:
        raise SpecError(f"{address} is not a download in this store: there is nothing to fetch again.")
    of, given = store.artifact(Pool, pooled), record.spec["spec"]
    adopted = AdoptedPoolSpec.model_validate(given) if given.get("scale") == "adopted" else None
    spec = images_of("custom") if adopted else ImageSpec.model_validate(given)
    with terminal.shown_progress("retry", quiet=json) as progress:
        how: dict[str, Any] = {"store": store, "workers": settings().num_workers, "progress": progress}
        how |= {"distributor": settings().distributor, "open_networks": open_networks}
        how |= {"tables": adopted.columns} if adopted else {}
        if of.scale == "tiny" and not adopted:
            with serve(store.folder(of)) as proxy:
                told = retry_images(spec, of, address, http_proxy=proxy, **how)
        else:
            told = retry_images(spec, of, address, **how)
    if json:
        terminal.print_json({"tried": told.tried, "arrived": told.arrived, "shards": told.shards.model_dump(mode="json")})
    else:
        terminal.out.print(f"{told.tried:,} retried, {told.arrived:,} arrived; {told.shards.num_samples:,} samples in total")
        tell_of_retry(told.shards, was_retried=True)


def stats(
    where: Where,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot by reason, over time and by host.")] = None,
    json: options.Json = False,
) -> None:
    """Show what happened to a download's candidates, by reason and host, with copies of one image and likely faults on our side.

    Example: datacomp pool stats shards/small/small-512px-jpg--0123456789ab --plot losses.png
    """
    from datacomp_core.pool import error_pictures
    from datacomp_core.pool import stats as counting

    store, shards = _shards(where)
    found = counting.tally(store.folder(shards))
    if plot is not None:
        folder, name = run_to_stage.target(str(plot))
        folder.write(name, counting.plot(found))
    behind = error_pictures.find(store.folder(shards))
    if json:
        told = {
            "candidates": found.candidates,
            "reasons": dict(found.reasons.most_common()),
            "hashes": dict(found.hashes),
            "lost_from": dict(found.lost_from.most_common(20)),
            "error_pictures": behind,
            "warnings": found.warnings(),
        }
        terminal.print_json(told)
        return
    rows = [(reason, f"{count:,}", f"{count / max(found.candidates, 1):.1%}") for reason, count in found.reasons.most_common()]
    terminal.table(f"{found.candidates:,} candidates", ("reason", "number", "share"), rows, right=("number", "share"))
    worst = [(host, f"{count:,}", f"{found.arrived_from[host]:,}") for host, count in found.lost_from.most_common(10)]
    if worst:
        terminal.table("Hosts with the most losses", ("host", "lost", "arrived"), worst, right=("lost", "arrived"))
    if behind:
        copies = [(sha256, f"{count:,}") for sha256, count in list(behind.items())[:10]]
        title = "One image behind many urls (error images? `error_pictures: drop` drops them)"
        terminal.table(title, ("sha256", "urls"), copies, right=("urls",))
    for line in found.warnings():
        terminal.out.print(f"[yellow]{line}[/]")


def intersect(where: Where, other: Where, json: options.Json = False) -> None:
    """Make a subset of the samples that arrived in both downloads, so that results on both can be compared.

    Example: datacomp pool intersect 0123abcd 4567cdef
    """
    from datacomp_core.pool.overlap import OverlapSpec
    from datacomp_core.pool.overlap import intersect as common

    (store, one), (_, two) = _shards(where), _shards(other)
    made = common(OverlapSpec(), one, two, store=store)
    if json:
        terminal.print_json(made.model_dump(mode="json"))
    else:
        terminal.table("In common", ("what", "samples"), [(n, f"{c:,}") for n, c in made.counts.items()], right=("samples",))
        terminal.out.print(f"Subset: [bold]{store.folder(made).at('subset.npy')}[/]")


def decontaminate(
    where: Where,
    evalsets: Annotated[str, typer.Argument(help="Test sets: their address, or the first digits of their fingerprint.")],
    distance: Annotated[
        int, typer.Option(min=0, max=16, help="Number of the 64 bits that may differ; 0: only equal hashes.")
    ] = 0,
    embeddings: Annotated[
        str,
        typer.Option(
            help="Compare these embeddings of the pool instead: their address, or the first digits of their fingerprint."
        ),
    ] = "",
    similarity: Annotated[float, typer.Option(help="With --embeddings: cosine from which two images count as the same.")] = 0.95,
    json: options.Json = False,
) -> None:
    """Find samples that show a test image, by perceptual hash or by embedding. Write a subset of all others, and a report.

    Examples:

      datacomp pool decontaminate 0123abcd 4567cdef --distance 4

      datacomp pool decontaminate 0123abcd 4567cdef --embeddings 89abef01 --similarity 0.9
    """
    from datacomp_core.artifacts import Embeddings, EvalSets
    from datacomp_core.leaderboard.entries.provenance import find

    store, shards = _shards(where)
    sets = store.artifact(EvalSets, find(store, evalsets))
    with terminal.shown_progress("decontaminate", quiet=json) as progress:
        if embeddings:
            from datacomp_core.pool.similar import SimilaritySpec, decontaminate_by_similarity

            record = find(store, embeddings)
            if not any(given["address"] == shards.address for given in record.inputs.get("shards", [])):
                raise SpecError(
                    f"{record.address} was not made from {shards.address}: make embeddings of this download with `datacomp "
                    "embed`."
                )
            spec = SimilaritySpec(similarity=similarity)
            found = store.artifact(Embeddings, record)
            made = decontaminate_by_similarity(spec, found, sets, store=store, device=settings().device, progress=progress)
        else:
            from datacomp_core.pool import decontaminate as hashing

            by_hash, workers = hashing.DecontaminateSpec(distance=distance), settings().num_workers
            made = hashing.decontaminate(by_hash, shards, sets, store=store, workers=workers, progress=progress)
    if json:
        terminal.print_json(made.model_dump(mode="json"))
        return
    terminal.table("Decontaminated", ("what", "images"), [(n, f"{c:,}") for n, c in made.counts.items()], right=("images",))
    terminal.out.print(f"Subset and hits: [bold]{store.folder(made)}[/]")


def _address(where: str) -> str:
    from datacomp_core.leaderboard.entries.provenance import find

    return where.strip("/") if "/" in where else find(open_store(), where).address


def _record(store: Store, address: str) -> Any:
    """Return the record at an address, even if a change of the artifact was killed."""
    found = store.record(address) or store.interrupted(address)
    if found is None or found.kind != "shards":
        raise SpecError(f"{store.root} has no download at {address!r}.")
    return found


def _shards(where: str) -> tuple[Store, ShardSet]:
    from datacomp_core.artifacts import ShardSet

    store, address = open_store(), _address(where)
    return store, store.artifact(ShardSet, _record(store, address))
