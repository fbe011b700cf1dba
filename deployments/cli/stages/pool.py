"""`datacomp pool`: the candidates and their images; what is done with a download has a subcommand each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from deployments.cli import options, terminal
from deployments.cli.stages import until

if TYPE_CHECKING:
    from datacomp_core.artifacts import ShardSet
    from datacomp_core.pool.adopt import AdoptedPoolSpec
    from datacomp_core.store import Store

COMMON = ("small", "medium", "large", "xlarge", "datacomp_1b")
Where = Annotated[str, typer.Argument(help="A download: its address, or the first digits of its fingerprint.")]
List = Annotated[Path, typer.Argument(help="A file with one uid or url a line.")]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True, help=pool.__doc__, callback=pool)
    for command in (adopt, byod, folder, retry, stats, intersect, decontaminate, takedown):
        group.command()(command)
    app.add_typer(group, name="pool", rich_help_panel="Stages")


def pool(
    context: typer.Context,
    scale: options.Scale = "tiny",
    pool_seed: until.PoolSeed = 0,
    metadata_only: Annotated[bool, typer.Option("--metadata-only", help="Fetch a CommonPool's metadata, no images.")] = False,
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
        until.run_to("pool", until.spec_of(scale, pool_seed=pool_seed), json=json)
        return
    from datacomp_core.pool.commonpool import HubPoolSpec
    from datacomp_core.pool.estimate import estimate
    from datacomp_core.pool.images import images_of
    from datacomp_core.scales import SCALES

    candidates = SCALES[scale].train_num_samples if scale in SCALES else 1_400_000_000
    terminal.notes.print(estimate(candidates, images_of(scale), settings().num_workers).sentence())
    _prepare(HubPoolSpec.model_validate({"scale": scale}), images_of(scale), json=json)


def _metadata(scale: str, pool_seed: int, *, json: bool) -> None:
    from datacomp_core.pool.commonpool import HubPoolSpec, fetch_metadata
    from datacomp_core.pool.tiny import TinyPoolSpec, build_tiny_pool

    if scale in COMMON:
        made = fetch_metadata(HubPoolSpec.model_validate({"scale": scale}), store=_opened())
    else:
        made = build_tiny_pool(TinyPoolSpec.model_validate({"scale": scale, "seed": pool_seed}), store=_opened())
    if json:
        terminal.print_json(made.model_dump(mode="json"))
    else:
        terminal.out.print(f"{made.num_samples:,} rows of metadata: [bold]{made.address}[/]")


def byod(
    source: Annotated[str, typer.Argument(help="Folder or bucket of parquet, csv, tsv or jsonl files.")],
    name: Annotated[str, typer.Option(help="What to call the pool.")] = "mine",
    url: Annotated[str, typer.Option(help="Its column of urls.")] = "url",
    text: Annotated[str, typer.Option(help="Its column of captions.")] = "text",
    uid: Annotated[str, typer.Option(help="Its column of 128-bit uids, if it has one.")] = "",
    sha256: Annotated[str, typer.Option(help="Its column of hashes, if it has one.")] = "",
    original_width: Annotated[str, typer.Option(help="Its column of image widths, if it has one.")] = "",
    original_height: Annotated[str, typer.Option(help="Its column of image heights, if it has one.")] = "",
    face_bboxes: Annotated[str, typer.Option(help="Its column of boxes of faces, if it has one.")] = "",
    encoding: Annotated[str, typer.Option(help="Of csv, tsv and jsonl: utf-8, latin-1, cp1252 or utf-16.")] = "utf-8",
    delimiter: Annotated[str, typer.Option(help="Of csv; left out: a comma, in .tsv files a tab.")] = "",
    quoting: Annotated[str, typer.Option(help='checked, trusted, or none: " is a character like any other.')] = "checked",
    header: Annotated[str, typer.Option(help="Names of the columns, with commas between, where csv files have none.")] = "",
    edition: Annotated[int, typer.Option(min=1, help="Raise it when the files have changed, to read them again.")] = 1,
    refresh: options.Refresh = False,
    open_networks: options.OpenNetworks = "",
    json: options.Json = False,
) -> None:
    """Make a pool of your own tables and download its images.

    Example: datacomp pool byod s3://bucket/tables --url link --text caption --name birds
    """
    from datacomp_core.pool.byod import ByodPoolSpec, Columns, import_pool
    from datacomp_core.pool.images import images_of
    from datacomp_core.pool.tables import TableFormat

    columns = Columns(
        url=url,
        text=text,
        uid=uid,
        sha256=sha256,
        original_width=original_width,
        original_height=original_height,
        face_bboxes=face_bboxes,
    )
    names = [name.strip() for name in header.split(",")] if header else []
    given = {"encoding": encoding, "delimiter": "\t" if delimiter == "\\t" else delimiter, "quoting": quoting, "header": names}
    how = TableFormat.model_validate(given)
    spec = ByodPoolSpec(source=source, name=name, edition=edition, columns=columns, tables=how)
    _prepare(_refreshed(import_pool, spec) if refresh else spec, images_of("byod"), open_networks, json=json)


def folder(
    source: Annotated[str, typer.Argument(help="Folder or bucket of pictures, in any depth.")],
    name: Annotated[str, typer.Option(help="What to call the pool.")] = "pictures",
    captions: Annotated[
        str, typer.Option(help="Table with a row a picture; left out: texts beside them, or class folders.")
    ] = "",
    file_column: Annotated[str, typer.Option(help="Its column of paths, relative to SOURCE.")] = "file_name",
    text_column: Annotated[str, typer.Option(help="Its column of captions.")] = "text",
    class_names: Annotated[str, typer.Option(help="File with the class of each folder: JSON, or lines `n01440764 tench`.")] = "",
    template: Annotated[
        list[str] | None, typer.Option(help="Caption of a class, `a photo of a {}.`; repeat for several.")
    ] = None,
    edition: Annotated[int, typer.Option(min=1, help="Raise it when the files have changed, to read them again.")] = 1,
    refresh: options.Refresh = False,
    json: options.Json = False,
) -> None:
    """Make a pool and shards of a folder of pictures: no web server, and each picture is copied once.

    Examples:

      datacomp pool folder drawings --captions drawings/captions.csv

      datacomp pool folder imagenet/train --class-names classes.json --template "a photo of a {}."
    """
    from datacomp_core.pool.image_folder import FolderPoolSpec, import_folder
    from datacomp_core.pool.images import images_of

    how = {"captions": captions, "file_column": file_column, "text_column": text_column, "class_names": class_names}
    spec = FolderPoolSpec.model_validate({"source": source, "name": name, "edition": edition, "templates": template or (), **how})
    _prepare(_refreshed(import_folder, spec) if refresh else spec, images_of("custom"), json=json)


def _refreshed(step: Any, spec: Any) -> Any:
    """The spec in the edition that is to be read: the newest one that fits the source as it is, or the next."""
    from datacomp_core.errors import DataError

    while True:
        try:
            if not step.plan(spec, store=_opened()).is_built:
                return spec
        except DataError:
            spec = spec.model_copy(update={"edition": spec.edition + 1})
            continue
        return spec


def adopt(
    source: Annotated[str, typer.Argument(help="Folder or bucket with metadata/ and shards/, or with tars.")],
    of: Annotated[
        str, typer.Option(help="Which pool it is: tiny, small, medium, large, xlarge, datacomp_1b or custom.")
    ] = "custom",
    name: Annotated[str, typer.Option(help="What to call it.")] = "adopted",
    edition: Annotated[int, typer.Option(min=1, help="Raise it when what lies there has changed: all is indexed anew.")] = 1,
    picture: Annotated[str, typer.Option(help="Extension of the pictures, such as input.jpg; usual ones need no word.")] = "",
    caption: Annotated[str, typer.Option(help="Extension of the captions, or json:FIELD; txt needs no word.")] = "",
    keys: Annotated[
        Literal["first_dot", "last_dot"],
        typer.Option(help="Where a name is cut into key and extension; last_dot for keys with dots."),
    ] = "first_dot",
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="OURS=THEIRS: a column of the parquets beside the tars (key, uid, url, status, error_message); repeat."
        ),
    ] = None,
    tolerate: Annotated[
        bool, typer.Option("--tolerate", help="Leave damaged tars out, counted, in place of adopting nothing.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Take in an existing download of the original tooling, or any webdataset, without copying it.

    Examples:

      datacomp pool adopt s3://bucket/datacomp_small --of small

      datacomp pool adopt mine --picture input.jpg --caption json:caption
    """
    from datacomp_core.members import MemberNames
    from datacomp_core.pool.adopt import AdoptedPoolSpec
    from datacomp_core.pool.images import images_of
    from datacomp_core.pool.intake import TableColumns

    columns = TableColumns.model_validate(_pairs(column or []))
    members = MemberNames(picture=picture, caption=caption, keys=keys)
    damaged = "leave_out" if tolerate else "refuse"
    how = {"edition": edition, "members": members, "columns": columns, "damaged": damaged}
    spec = AdoptedPoolSpec.model_validate({"source": source, "of": of, "name": name, **how})
    _prepare(spec, images_of("custom"), json=json)
    _see_indexes(spec)


def _pairs(given: list[str]) -> dict[str, str]:
    """OURS=THEIRS, as a mapping."""
    for pair in given:
        if not all(pair.partition("=")):
            raise SpecError(f"--column takes OURS=THEIRS, such as key=id, not {pair!r}.")
    return {ours: theirs for ours, _, theirs in (pair.partition("=") for pair in given)}


def _see_indexes(spec: AdoptedPoolSpec) -> None:
    """An adoption that was found done is of the tars that lie there now. DataError if one was changed meanwhile."""
    from datacomp_core.shards import check_indexes, shard_names

    check_indexes(spec.shards(), shard_names(spec.shards()))


def retry(where: Where, open_networks: options.OpenNetworks = "", json: options.Json = False) -> None:
    """Fetch again what failed for a passing reason (dns, timeout, 5xx, ...), and nothing else.

    Example: datacomp pool retry shards/small/small-512px-jpg--0123456789ab
    """
    from datacomp_core.artifacts import Pool
    from datacomp_core.pool.images import ImageSpec
    from datacomp_core.pool.retry import retry_images
    from datacomp_core.pool.tiny import serve

    store, address = _opened(), _address(where)
    record = _record(store, address)
    made = record.inputs.get("pool")
    if not made or "spec" not in record.spec or (pooled := store.record(made[0]["address"])) is None:
        raise SpecError(f"{address} is no download of this store, so there is nothing to fetch again.")
    spec, of = ImageSpec.model_validate(record.spec["spec"]), store.artifact(Pool, pooled)
    with terminal.shown_progress("retry", quiet=json) as progress:
        how: dict[str, Any] = {"store": store, "workers": settings().num_workers, "progress": progress}
        how |= {"distributor": settings().distributor, "open_networks": open_networks}
        if of.scale == "tiny":
            with serve(store.folder(of)) as proxy:
                told = retry_images(spec, of, address, http_proxy=proxy, **how)
        else:
            told = retry_images(spec, of, address, **how)
    if json:
        terminal.print_json({"tried": told.tried, "arrived": told.arrived, "shards": told.shards.model_dump(mode="json")})
    else:
        terminal.out.print(f"{told.tried:,} tried again, {told.arrived:,} arrived; {told.shards.num_samples:,} samples in all")


def stats(
    where: Where,
    plot: Annotated[Path | None, typer.Option(help="A png to write: by reason, over time, by host.")] = None,
    json: options.Json = False,
) -> None:
    """Tell what became of a download's candidates: by reason, by host, copies of one picture; and what looks like our own fault.

    Example: datacomp pool stats shards/small/small-512px-jpg--0123456789ab --plot losses.png
    """
    from datacomp_core.pool import error_pictures
    from datacomp_core.pool import stats as counting

    store, shards = _shards(where)
    found = counting.tally(store.folder(shards))
    if plot is not None:
        plot.write_bytes(counting.plot(found))
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
        terminal.table("Hosts that lost most", ("host", "lost", "arrived"), worst, right=("lost", "arrived"))
    if behind:
        copies = [(sha256, f"{count:,}") for sha256, count in list(behind.items())[:10]]
        title = "One picture behind many urls (error pictures? `error_pictures: drop` leaves them out)"
        terminal.table(title, ("sha256", "urls"), copies, right=("urls",))
    for line in found.warnings():
        terminal.out.print(f"[yellow]{line}[/]")


def intersect(where: Where, other: Where, json: options.Json = False) -> None:
    """Make a subset of the samples that arrived in both downloads, by which results over both can be compared.

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
    distance: Annotated[int, typer.Option(min=0, max=16, help="Bits of 64 that may differ; 0: equal hashes alone.")] = 0,
    embeddings: Annotated[
        str, typer.Option(help="Compare these embeddings of the pool instead: their address, or digits of their fingerprint.")
    ] = "",
    similarity: Annotated[float, typer.Option(help="Cosine from which two pictures count as one, with --embeddings.")] = 0.95,
    json: options.Json = False,
) -> None:
    """Find the samples that show a test image, by perceptual hash or by embedding; make a subset of all others, and a report.

    Examples:

      datacomp pool decontaminate 0123abcd 4567cdef --distance 4

      datacomp pool decontaminate 0123abcd 4567cdef --embeddings 89abef01 --similarity 0.9
    """
    from datacomp_core.artifacts import Embeddings, EvalSets
    from datacomp_core.leaderboard.provenance import find

    store, shards = _shards(where)
    sets = store.artifact(EvalSets, find(store, evalsets))
    with terminal.shown_progress("decontaminate", quiet=json) as progress:
        if embeddings:
            from datacomp_core.pool.similar import SimilaritySpec, decontaminate_by_similarity

            record = find(store, embeddings)
            if not any(given["address"] == shards.address for given in record.inputs.get("shards", [])):
                raise SpecError(f"{record.address} is not of {shards.address}: `datacomp embed` makes embeddings of a download.")
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


def takedown(names: List, json: options.Json = False) -> None:
    """Remove samples from every shard set of the store, and mark the subsets, checkpoints and results made with them.

    Example: datacomp pool takedown requests.txt
    """
    from datacomp_core.pool.takedown import take_down, uids_of_urls

    if not names.is_file():
        raise SpecError(f"{names} is no file: one uid or url a line is wanted.")
    lines = {line.strip() for line in names.read_text().splitlines() if line.strip()}
    urls = {line for line in lines if "://" in line}
    store = _opened()
    taken = take_down(store, (lines - urls) | (uids_of_urls(store, urls) if urls else set()))
    if json:
        terminal.print_json({"removed": taken.removed, "marked": taken.marked})
        return
    removed = [(address, f"{count:,}") for address, count in taken.removed.items()]
    terminal.table("Removed", ("shard set", "samples"), removed, right=("samples",))
    terminal.table("Made with them: marked with _takedown.json", ("address",), [(address,) for address in taken.marked])


def _prepare(pool_spec: Any, images: Any, open_networks: str = "", *, json: bool) -> None:
    """Run the flow `prepare-pool` for a pool other than the embedded one, and show what it made."""
    from deployments.cli.interrupt import ends_at_once
    from deployments.local_server import prefect_api, prepare_environment

    prepare_environment()
    from flows.parameters import Preparation
    from flows.prepare_pool import prepare_pool

    with prefect_api(), terminal.shown_steps(quiet=json), ends_at_once():
        candidates, shards, _ = prepare_pool(Preparation(pool=pool_spec, images=images, open_networks=open_networks))
    if json:
        terminal.print_json({"pool": candidates.model_dump(mode="json"), "shards": shards.model_dump(mode="json")})
        return
    rows = [(name, f"{count:,}") for name, count in shards.counts.items()]
    terminal.table(f"{shards.num_samples:,} samples at {shards.address}", ("what", "number"), rows, right=("number",))


def _opened() -> Store:
    from datacomp_core.store import Store

    return Store.open(settings().store_url)


def _address(where: str) -> str:
    from datacomp_core.leaderboard.provenance import find

    return where.strip("/") if "/" in where else find(_opened(), where).address


def _record(store: Store, address: str) -> Any:
    """The record at an address, also of an artifact whose change was killed."""
    found = store.record(address) or store.interrupted(address)
    if found is None or found.kind != "shards":
        raise SpecError(f"No download lies at {address!r} in {store.root}.")
    return found


def _shards(where: str) -> tuple[Store, ShardSet]:
    from datacomp_core.artifacts import ShardSet

    store, address = _opened(), _address(where)
    return store, store.artifact(ShardSet, _record(store, address))
