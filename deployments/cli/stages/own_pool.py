"""`datacomp pool byod`, `folder` and `adopt`: make a pool from your own data in its three common forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from deployments.cli import options, terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from datacomp_core.artifacts import ShardSet
    from datacomp_core.pool.adopt import AdoptedPoolSpec
    from datacomp_core.pool.tables import TableFormat
    from datacomp_core.store import Store


Encoding = Annotated[str, typer.Option(help="Encoding of csv, tsv and jsonl: utf-8, latin-1, cp1252 or utf-16.")]
Delimiter = Annotated[str, typer.Option(help="Separator of csv. Default: a comma, in .tsv files a tab.")]
Quoting = Annotated[str, typer.Option(help='Quoting: checked, trusted, or none (a " has no special meaning).')]
Header = Annotated[str, typer.Option(help="Names of the columns, separated by commas, if csv files have no header.")]


def byod(
    source: Annotated[str, typer.Argument(help="Folder or bucket of parquet, csv, tsv or jsonl files.")],
    name: Annotated[str, typer.Option(help="Name of the pool.")] = "mine",
    url: Annotated[str, typer.Option(help="Column of urls.")] = "url",
    text: Annotated[str, typer.Option(help="Column of captions.")] = "text",
    uid: Annotated[str, typer.Option(help="Column of 128-bit uids, if there is one.")] = "",
    sha256: Annotated[str, typer.Option(help="Column of hashes, if there is one.")] = "",
    original_width: Annotated[str, typer.Option(help="Column of image widths, if there is one.")] = "",
    original_height: Annotated[str, typer.Option(help="Column of image heights, if there is one.")] = "",
    face_bboxes: Annotated[str, typer.Option(help="Column of face boxes, if there is one.")] = "",
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = "",
    quoting: Quoting = "checked",
    header: Header = "",
    edition: Annotated[int, typer.Option(min=1, help="Raise this number when the files have changed, to read them again.")] = 1,
    refresh: options.Refresh = False,
    open_networks: options.OpenNetworks = "",
    json: options.Json = False,
) -> None:
    """Make a pool from your own tables and download its images.

    Example: datacomp pool byod s3://bucket/tables --url link --text caption --name birds
    """
    from datacomp_core.pool.byod import ByodPoolSpec, Columns, import_pool
    from datacomp_core.pool.download_images import images_of

    columns = Columns(
        url=url,
        text=text,
        uid=uid,
        sha256=sha256,
        original_width=original_width,
        original_height=original_height,
        face_bboxes=face_bboxes,
    )
    how = _format(encoding, delimiter, quoting, header)
    spec = ByodPoolSpec(source=source, name=name, edition=edition, columns=columns, tables=how)
    prepare(_refreshed(spec, _step_fits(import_pool)) if refresh else spec, images_of("byod"), open_networks, json=json)


def folder(
    source: Annotated[str, typer.Argument(help="Folder or bucket of images, at any depth.")],
    name: Annotated[str, typer.Option(help="Name of the pool.")] = "pictures",
    captions: Annotated[
        str, typer.Option(help="Table with one row per image. Default: text files next to the images, or class folders.")
    ] = "",
    file_column: Annotated[str, typer.Option(help="Column of paths, relative to SOURCE.")] = "file_name",
    text_column: Annotated[str, typer.Option(help="Column of captions.")] = "text",
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = "",
    quoting: Quoting = "checked",
    header: Header = "",
    class_names: Annotated[
        str, typer.Option(help="File with the class of each folder: JSON, or lines like `n01440764 tench`.")
    ] = "",
    template: Annotated[
        list[str] | None, typer.Option(help="Caption template of a class, such as `a photo of a {}.`; repeat for several.")
    ] = None,
    edition: Annotated[int, typer.Option(min=1, help="Raise this number when the files have changed, to read them again.")] = 1,
    refresh: options.Refresh = False,
    json: options.Json = False,
) -> None:
    """Make a pool and shards from a folder of images. No web server is needed, and each image is copied once.

    Examples:

      datacomp pool folder drawings --captions drawings/captions.csv

      datacomp pool folder imagenet/train --class-names classes.json --template "a photo of a {}."
    """
    from datacomp_core.pool.download_images import images_of
    from datacomp_core.pool.image_folder import FolderPoolSpec, import_folder

    how: dict[str, Any] = {"captions": captions, "file_column": file_column, "text_column": text_column}
    how |= {"class_names": class_names, "tables": _format(encoding, delimiter, quoting, header)}
    spec = FolderPoolSpec.model_validate({"source": source, "name": name, "edition": edition, "templates": template or (), **how})
    prepare(_refreshed(spec, _step_fits(import_folder)) if refresh else spec, images_of("custom"), json=json)


def _format(encoding: str, delimiter: str, quoting: str, header: str) -> TableFormat:
    """Build the text table format from the options."""
    from datacomp_core.pool.tables import TableFormat

    names = [name.strip() for name in header.split(",")] if header else []
    given = {"encoding": encoding, "delimiter": "\t" if delimiter == "\\t" else delimiter, "quoting": quoting, "header": names}
    return TableFormat.model_validate(given)


def _refreshed(spec: Any, fits: Callable[[Any], bool]) -> Any:
    """Return the spec of the edition to read: the first one from this edition on that matches the source as it is now, or that
    was not read yet."""
    while not fits(spec):
        spec = spec.model_copy(update={"edition": spec.edition + 1})
    return spec


def _step_fits(step: Any) -> Callable[[Any], bool]:
    """Return whether a step's result for the source, if there is one, matches the source as it is now."""
    from datacomp_core.errors import DataError

    def fits(spec: Any) -> bool:
        try:
            step.plan(spec, store=open_store())
        except DataError:
            return False
        return True

    return fits


def _adoption_fits(spec: AdoptedPoolSpec) -> bool:
    from datacomp_core.errors import DataError
    from datacomp_core.pool.adopt import adopt_metadata, adopt_shards

    try:
        adopt_shards.plan(spec, adopt_metadata.plan(spec, store=open_store()), store=open_store())
    except DataError:
        return False
    return True


def adopt(
    source: Annotated[str, typer.Argument(help="Folder or bucket with metadata/ and shards/, or with tars.")],
    of: Annotated[
        str, typer.Option(help="Which pool this is: tiny, small, medium, large, xlarge, datacomp_1b or custom.")
    ] = "custom",
    name: Annotated[str, typer.Option(help="Name of the pool.")] = "adopted",
    edition: Annotated[
        int, typer.Option(min=1, help="Raise this number when the files have changed: everything is indexed again.")
    ] = 1,
    refresh: options.Refresh = False,
    picture: Annotated[str, typer.Option(help="Extension of the images, such as input.jpg; common ones are recognised.")] = "",
    caption: Annotated[str, typer.Option(help="Extension of the captions, or json:FIELD; txt is recognised.")] = "",
    keys: Annotated[
        Literal["first_dot", "last_dot"],
        typer.Option(help="Where a name is split into key and extension; last_dot for keys with dots."),
    ] = "first_dot",
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="OURS=THEIRS: a column of the parquets next to the tars (key, uid, url, status, error_message); repeat for "
            "several."
        ),
    ] = None,
    tolerate: Annotated[
        bool, typer.Option("--tolerate", help="Skip and count damaged tars, instead of adopting nothing.")
    ] = False,
    regroup_to: Annotated[
        str,
        typer.Option(
            help="Folder or bucket for repacked tars, if the members of a sample are not contiguous; the new tars are adopted."
        ),
    ] = "",
    json: options.Json = False,
) -> None:
    """Register an existing download of the original tooling, or any webdataset, without copying it.

    Examples:

      datacomp pool adopt s3://bucket/datacomp_small --of small

      datacomp pool adopt mine --picture input.jpg --caption json:caption
    """
    from datacomp_core.pool.adopt import AdoptedPoolSpec
    from datacomp_core.pool.adopted_shard import TableColumns
    from datacomp_core.pool.download_images import images_of
    from datacomp_core.sample_members import MemberNames

    columns = TableColumns.model_validate(_pairs(column or []))
    members = MemberNames(picture=picture, caption=caption, cut=keys)
    damaged = "leave_out" if tolerate else "refuse"
    how = {"edition": edition, "members": members, "columns": columns, "damaged": damaged}
    spec = AdoptedPoolSpec.model_validate({"source": source, "of": of, "name": name, **how})
    if regroup_to:
        spec = _regrouped(spec, regroup_to)
    if refresh:
        spec = _refreshed(spec, _adoption_fits)
    prepare(spec, images_of("custom"), json=json)


def _regrouped(spec: AdoptedPoolSpec, target: str) -> AdoptedPoolSpec:
    """Return the same spec for the repacked tars, in which the members of every sample are contiguous."""
    from datacomp_core.pool import sources
    from datacomp_core.pool.regroup import regroup
    from datacomp_core.store import Folder

    there = sources.absolute(target)
    shards = spec.shards()
    changed = regroup(Folder(spec.source), shards, Folder(there), spec.members, workers=settings().num_workers)
    typer.echo(
        f"{len(changed):,} tars of {shards} were repacked into {there}, with the members of each sample together. Takedowns "
        f"do not reach the old tars in {shards}: delete them when the new ones are adopted.",
        err=True,
    )
    return spec.model_copy(update={"source": there})


def _pairs(given: list[str]) -> dict[str, str]:
    """Parse OURS=THEIRS into a mapping."""
    for pair in given:
        if not all(pair.partition("=")):
            raise SpecError(f"--column {pair!r} is not of the form OURS=THEIRS, such as key=id.")
    return {ours: theirs for ours, _, theirs in (pair.partition("=") for pair in given)}


def prepare(pool_spec: Any, images: Any, open_networks: str = "", *, json: bool) -> None:
    """Run the flow `prepare-pool` for a pool other than the embedded one, and show what it made."""
    from datacomp_core.pool.folder_captions import TABLES_NOT_READ
    from deployments.cli.interrupt import exits_at_interrupt
    from deployments.local_server import prefect_api, prepare_environment

    prepare_environment()
    from flows.parameters import Preparation
    from flows.prepare_pool import prepare_pool

    with prefect_api(), terminal.shown_steps(quiet=json), exits_at_interrupt():
        candidates, shards, _ = prepare_pool(Preparation(pool=pool_spec, images=images, open_networks=open_networks))
    if json:
        terminal.print_json({"pool": candidates.model_dump(mode="json"), "shards": shards.model_dump(mode="json")})
        return
    # duplicates, repeated uids and skipped rows, each with its reason
    read = [(name, f"{count:,}") for name, count in candidates.counts.items()] or [("rows", f"{candidates.num_samples:,}")]
    terminal.table(f"{candidates.num_samples:,} candidates at {candidates.address}", ("what", "number"), read, right=("number",))
    if tables := candidates.counts.get(TABLES_NOT_READ):
        terminal.notes.print(
            f"Tables in {pool_spec.source} that were not read: {tables:,}. If one has the captions, name it with --captions.",
            markup=False,
        )
    rows = [(name, f"{count:,}") for name, count in shards.counts.items()]
    terminal.table(f"{shards.num_samples:,} samples at {shards.address}", ("what", "number"), rows, right=("number",))
    tell_of_retry(shards)


def tell_of_retry(shards: ShardSet, *, was_retried: bool = False) -> None:
    """Print the command that fetches what a download lacks, if another try may succeed."""
    from datacomp_core.pool.ledger import BLOCKED, TRANSIENT

    passing = {reason: count for reason, count in shards.counts.items() if reason in TRANSIENT and count}
    if passing and not was_retried:
        told = ", ".join(f"{reason} {count:,}" for reason, count in passing.items())
        terminal.notes.print(
            f"{sum(passing.values()):,} images failed for a temporary reason ({told}). To fetch them again: "
            f"datacomp pool retry {shards.address}"
        )
    if blocked := shards.counts.get(BLOCKED):
        from datacomp_core.pool.stats import blocked_address

        address = blocked_address(open_store().folder(shards))
        terminal.notes.print(
            f"{blocked:,} images were not fetched because their hosts have private addresses, such as {address}. If the network "
            f"is your own, allow its range: datacomp pool retry {shards.address} --open-networks 10.0.0.0/8"
        )


def open_store() -> Store:
    """The store of the settings."""
    from datacomp_core.store import Store

    return Store.open(settings().store_url)
