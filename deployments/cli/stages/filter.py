"""`datacomp filter`: chooses a subset of a pool, or of plain metadata parquets without a store, a server or a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datacomp_core.caption_sets import RAW
from datacomp_core.engines import using
from datacomp_core.errors import DataError, SpecError
from datacomp_core.settings import settings
from datacomp_core.store import Folder, scratch
from deployments.cli import options, terminal
from deployments.cli.stages import run_to_stage
from deployments.cli.sweeps import captions_of, encoders_of

if TYPE_CHECKING:
    from datacomp_core.driver_files import Exchange
    from datacomp_core.filters import Filter
    from datacomp_core.pool_source import PoolSource
    from datacomp_core.progress import LogProgress
    from datacomp_core.selection.report import Explanation, ListAccount
    from datacomp_core.selection.select import Selection
    from flows.parameters import ExperimentSpec


def add_to(app: typer.Typer) -> None:
    app.command("filter", rich_help_panel="Stages")(filter_)


def filter_(
    recipe: run_to_stage.Recipe = run_to_stage.DEFAULT_RECIPE,
    scale: options.Scale = "tiny",
    pool_seed: run_to_stage.PoolSeed = 0,
    pool: options.Pool = "",
    embed: options.Embed = None,
    captions: options.Captions = "",
    metadata: Annotated[str | None, typer.Option(help="A folder or bucket of metadata parquets, instead of a pool.")] = None,
    scores: Annotated[
        list[str] | None, typer.Option(help="Folders of score parquets for --metadata; repeat for several.")
    ] = None,
    features: Annotated[
        list[str] | None, typer.Option(help="Folders of npz files, if the embeddings are not next to --metadata.")
    ] = None,
    by_position: Annotated[
        bool, typer.Option("--by-position", help="Scores without a uid column are in the order of the metadata's rows.")
    ] = False,
    shards: Annotated[str | None, typer.Option(help="A folder or bucket of tars with the images of --metadata.")] = None,
    model: Annotated[str, typer.Option(help="With --checkpoint: a CLIP model for scores that encode images.")] = "",
    checkpoint: Annotated[str, typer.Option(help="The checkpoint file of --model.")] = "",
    keep_scores: Annotated[
        str | None, typer.Option(help="A folder or bucket that keeps computed scores for later recipes.")
    ] = None,
    trust_times: options.TrustTimes = False,
    against: Annotated[
        list[str] | None, typer.Option(help="Lists of uids, in any form, to compare the overlap with; repeat for several.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="With --metadata: the subset file to write.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Write nothing; only show what would be kept.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes, filters and scores.")] = False,
    json: options.Json = False,
) -> None:
    """Choose a subset of a pool or of a folder of metadata parquets, and show what was dropped and why.

    Examples:

      datacomp filter --list

      datacomp filter --recipe clip_score_tiny

      datacomp filter --pool pools/byod/mine--0123456789ab --recipe basic_filter --explain

      datacomp filter --metadata small/metadata --recipe clip_score:score=l14,fraction=0.3 --out subset.npy

      datacomp filter --metadata s3://bucket/metadata --recipe basic_filter --explain --against mine.npy

      datacomp filter --scale tiny --recipe listed:uids=my.npy --explain

      datacomp filter --metadata small/metadata --recipe neg_clip_loss --keep-scores scores --out subset.npy
    """
    given = {**encoders_of(embed), **captions_of(captions)}
    if list_:
        _list_recipes(json=json)
    elif metadata is None and explain:
        _explain_stored(run_to_stage.spec_of(scale, recipe, pool_seed=pool_seed, pool=pool, **given), against or [], json=json)
    elif metadata is None:
        run_to_stage.run_to("filter", run_to_stage.spec_of(scale, recipe, pool_seed=pool_seed, pool=pool, **given), json=json)
    elif out is None and not explain:
        raise SpecError("The output is missing: give the subset file with --out, or ask for a dry run with --explain.")
    else:
        places = PoolFolders(
            metadata, scores or [], features or [], shards, (model, checkpoint), keep_scores, trust_times, by_position, captions
        )
        _filter_folder(places, recipe, None if explain else out, against or [], json=json)


def _list_recipes(*, json: bool) -> None:
    """List recipes, and the filters and scores for custom recipes, including those of other packages."""
    from datacomp_core.kind_registration import first_line
    from datacomp_core.registry import FILTERS, RECIPES, SCORES

    kinds = (("Filters", "filter", FILTERS), ("Scores to compute", "score", SCORES))
    if json:
        rows = [{"sort": "recipe", "name": r.name, "description": r.description, "source": r.source} for r in RECIPES.values()]
        for _, sort, registry in kinds:
            rows += [
                {"sort": sort, "name": kind, "description": first_line(model), "parameters": list(model.parameters())}
                for kind, model in registry.items()
            ]
        terminal.print_json(rows)
        return
    recipes = [(row.name, row.description, row.source) for row in RECIPES.values()]
    terminal.table("Recipes", ("name", "what it keeps", "source"), recipes)
    for title, _, registry in kinds:
        cells = [(kind, ", ".join(model.parameters()), first_line(model)) for kind, model in registry.items()]
        terminal.table(title, ("kind", "parameters", "what"), cells)


@dataclass(frozen=True)
class PoolFolders:
    """Locations of the files of a pool that is not an artifact."""

    metadata: str
    scores: list[str]
    features: list[str]
    shards: str | None
    model: tuple[str, str]
    keep_scores: str | None
    trust_times: bool
    by_position: bool = False
    captions: str = ""

    def source(self) -> PoolSource:
        from datacomp_core.pool_source import PoolSource

        shards = Folder(self.shards) if self.shards else None
        return PoolSource(Folder(self.metadata), _folders(self.scores), _folders(self.features), shards)


def _folders(urls: list[str]) -> tuple[Folder, ...]:
    return tuple(Folder(url) for url in urls)


def _explain_stored(spec: ExperimentSpec, against: list[str], *, json: bool) -> None:
    """Show what a recipe would keep of a pool of the store. SpecError if something it reads is not there yet."""
    from datacomp_core.parts import FEATURES, METADATA, SCORES
    from datacomp_core.pool_source import PoolSource
    from datacomp_core.selection.select import select
    from datacomp_core.selection.select_by_captions import by_captions
    from flows.explained_filter import filter_inputs
    from tasks.run_step import store

    with scratch() as local, using(settings().engine), terminal.shown_progress("filter", quiet=json) as progress:
        found, subset = filter_inputs(spec), spec.subset()
        beside = [(one, store().folder(one)) for one in found.beside if one.kind != "captioned"]
        own = PoolSource(
            store().folder(found.pool) / METADATA,
            tuple(folder / SCORES for _, folder in beside),
            tuple(folder / FEATURES for one, folder in beside if one.kind == "embeddings"),
        )
        named, scores = ([store().folder(one) for one in some] for some in (found.named, found.scores_of_named))
        others = _lists(against, local)
        chosen = select(
            subset,
            own.metadata,
            own.scores,
            features=own.features,
            captioned=store().folder(found.captioned) if found.captioned and not spec.captions.policy.draws else None,
            named=by_captions(subset, own, named, scores),
            shards=store().folder(found.shards) if found.shards else None,
            out=Folder(local) if against else None,
            write="subset_of_some",
            beside="as_made",
            workers=settings().num_workers,
            progress=progress,
        )
        overlaps = _overlaps(f"{local}/subset.npy", others) if chosen.num_samples else []
    _report(chosen, overlaps, None, json=json)


def _filter_folder(places: PoolFolders, recipe: str, out: str | None, against: list[str], *, json: bool) -> None:
    """Write a subset file from a folder or bucket of metadata parquets; without `out` do a dry run."""
    from datacomp_core.driver_files import exchange
    from datacomp_core.selection.report import keeps_none

    with scratch() as local, using(settings().engine), terminal.shown_progress("filter", quiet=json) as progress:
        others = _lists(against, local)
        folder, name = run_to_stage.target(out) if out else (Folder(local) if against else None, "subset.npy")
        with exchange(Folder(places.keep_scores) if places.keep_scores else folder if out else None) as shared:
            chosen = _chosen(places, recipe, local, shared, (folder, name), progress)
        overlaps = _overlaps(f"{folder}/{name}", others) if chosen.num_samples else []
    _report(chosen, overlaps, out, json=json)
    if out and not chosen.num_samples:
        raise DataError(f"{keeps_none(recipe, chosen.explanation, places.metadata)} {out} is not written.")


def _report(chosen: Selection, overlaps: list[dict[str, Any]], out: str | None, *, json: bool) -> None:
    told = chosen.explanation
    if json:
        counts = {"num_samples": chosen.num_samples, "num_unique": chosen.num_unique, "overlaps": overlaps}
        terminal.print_json({"out": out if chosen.num_samples else None, **counts, **told.model_dump()})
        return
    _tell(told)
    if overlaps:
        rows = [(o["against"], f"{o['shared']:,}", f"{o['jaccard']:.4f}", f"{o['weighted_jaccard']:.4f}") for o in overlaps]
        columns = ("subset", "in both", "Jaccard", "repeats counted")
        terminal.table("Overlap", columns, rows, right=columns[1:])
    written = "" if out and not chosen.num_samples else f": [bold]{out}[/]" if out else " (dry run)"
    terminal.out.print(f"{chosen.num_samples:,} samples, {chosen.num_unique:,} unique{written}")


def _chosen(
    places: PoolFolders, recipe: str, local: Path, shared: Exchange, target: tuple[Folder | None, str], progress: LogProgress
) -> Selection:
    """Run the selection, with the scores that its recipe computes. `shared` contains what its workers read."""
    from datacomp_core.scores.compute import computed
    from datacomp_core.selection.aligned import aligned
    from datacomp_core.selection.select import load_recipe, require_columns, scores_of, select
    from datacomp_core.selection.subset_spec import named_captions, scores_of_named

    wanted, workers = load_recipe(recipe), settings().num_workers
    kept = Folder(places.keep_scores) if places.keep_scores else shared.folder / "scores"
    model = places.model if all(places.model) else None
    given, joins = aligned(places.source(), local / "aligned", shared.folder / "aligned", by_position=places.by_position)
    for url, counts in joins:
        terminal.notes.print(f"joined by uid: {url}: {', '.join(f'{name} {number:,}' for name, number in vars(counts).items())}")
    named = {RAW: given}
    if places.captions:
        named = _named(given, places.captions, wanted.filter, shared.folder / "named", workers, progress)
        given = _captioned(given, places.captions, shared.folder / "captioned", workers, progress)
    require_columns(wanted.filter, given)
    for name, some in named_captions(wanted.filter).items():
        for each in some if name in named else ():
            require_columns(each, named[name])
    trust = "times" if places.trust_times else "content"
    scored = partial(computed, kept=kept, workers=workers, model=model, trust=trust, progress=progress)
    named = {name: scored(scores_of_named(wanted.filter, name), one) for name, one in named.items()}
    source = scored(scores_of(wanted.filter), given)
    _tell_joins(source)
    texts = source.captioned
    return select(
        wanted,
        source.metadata,
        source.scores,
        features=source.features,
        captioned=texts,
        named=named,
        shards=_indexed(source.shards),
        out=target[0],
        name=target[1],
        write="subset_of_some",
        beside="by_position" if places.by_position else "by_uid",
        workers=workers,
        progress=progress,
    )


def _captioned(source: PoolSource, policy: str, out: Folder, workers: int, progress: LogProgress) -> PoolSource:
    """Return the source with the captions of a policy over folders of captions."""
    from datacomp_core.captions.choose_captions import not_used
    from datacomp_core.selection.with_captions import captions_in
    from deployments.cli.stages.captions import choice_of, chosen

    choice = choice_of(policy, source)
    if choice.spec.kind == RAW:
        return source
    made = chosen(choice, out, workers, progress)
    if made.draws:
        terminal.notes.print("A draw is made while training: the filter reads the pool's own captions and their scores.")
    for sentence in not_used(made.counts):
        terminal.notes.print(sentence, markup=False)
    return captions_in(source, out)


def _named(
    source: PoolSource, policy: str, wanted: Filter, out: Folder, workers: int, progress: LogProgress
) -> dict[str, PoolSource]:
    """Return the pool with the captions of each source that a filter names, by its name, and the pool itself as `raw`."""
    from datacomp_core.caption_policy import CaptionPolicy
    from datacomp_core.captions.choose_captions import choose_folder
    from datacomp_core.selection.subset_spec import named_captions
    from datacomp_core.selection.with_captions import captions_in
    from deployments.cli.stages.captions import choice_of

    given, found = choice_of(policy, source), {RAW: source}
    for name in (name for name in named_captions(wanted) if name != RAW):
        choice = replace(given, spec=CaptionPolicy(kind="replace", sources=(name,)))
        choose_folder(choice, out / name, workers=workers, progress=progress)
        found[name] = captions_in(source, out / name)
    return found


def _tell_joins(source: PoolSource) -> None:
    """Show what happened to the rows of external tables."""
    for folder in source.scores:
        home = Folder(folder.url.rpartition("/")[0])
        if home.exists("join.json"):
            counts = ", ".join(f"{name} {number:,}" for name, number in home.read_json("join.json").items())
            terminal.notes.print(f"joined: {counts}")


def _indexed(shards: Folder | None) -> Folder | None:
    """Return the shards whose index says which uids arrived."""
    from datacomp_core.shards import index_names

    return shards if shards is not None and index_names(shards) else None


def _lists(places: list[str], local: Path) -> dict[str, Path]:
    """Lists of uids of any form, as sorted files of this machine."""
    from datacomp_core import external_files, uid_lists

    sorted_files: dict[str, Path] = {}
    for number, place in enumerate(places):
        name = external_files.pin_place(place, uid_lists.SUFFIXES, "a list of uids")
        sorted_files[place] = local / f"against{number}.npy"
        uid_lists.sort_to(uid_lists.read(external_files.local(name, uid_lists.SUFFIXES)), sorted_files[place])
    return sorted_files


def _overlaps(mine: str, against: dict[str, Path]) -> list[dict[str, Any]]:
    from datacomp_core.subset_files import overlap
    from deployments.cli.stages.subset import numbers, subset_file

    own = subset_file(mine)
    return [{"against": place, **numbers(overlap(own, subset_file(str(file))))} for place, file in against.items()]


def _tell(told: Explanation) -> None:
    """Show what each step of a filter kept, and the first reason for dropping each row."""
    rows = [
        (step.title, "" if step.alone is None else f"{step.alone:,}", f"{step.asked:,}", f"{step.kept:,}") for step in told.steps
    ]
    columns = ("filter", "keeps alone", "asked", "kept")
    terminal.table(f"{told.recipe}: {told.kept:,} of {told.rows:,} rows kept", columns, rows, right=columns[1:])
    for one in told.lists:
        _tell_list(one)
    dropped = [(reason, f"{count:,}") for reason, count in told.dropped.items()]
    terminal.table("Dropped, by first reason", ("reason", "rows"), dropped, right=("rows",))


def _tell_list(account: ListAccount) -> None:
    """Show how a list of uids matches the pool."""
    rows = [("listed", account.listed), ("unique", account.unique), ("in the pool", account.in_pool)]
    rows += [("arrived in this download", account.arrived)] if account.arrived is not None else []
    rows.append(("not in the pool", account.not_in_pool))
    title = f"List {account.uids}{' (its uids are dropped)' if account.excluded else ''}"
    terminal.table(title, ("what", "uids"), [(what, f"{n:,}") for what, n in rows], right=("uids",))
    if account.examples:
        terminal.out.print(f"Not in the pool, for example: {', '.join(account.examples)}")
