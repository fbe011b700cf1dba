"""`datacomp captions`: makes caption sets for a pool of the store or for a plain folder of metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from deployments.cli import options, terminal
from deployments.cli.interrupt import exits_at_interrupt
from deployments.cli.stages import run_to_stage
from deployments.local_server import prefect_api, prepare_environment

if TYPE_CHECKING:
    from datacomp_core.artifacts import Captioned, Captions
    from datacomp_core.captions.choose_captions import PolicyInputs
    from datacomp_core.pool_source import PoolSource

Sets = Annotated[list[str] | None, typer.Option("--captions", help="Caption set to use: address or folder; repeat for several.")]
Metadata = Annotated[str | None, typer.Option(help="Folder or bucket of metadata parquets, instead of a pool of the store.")]
Out = Annotated[str | None, typer.Option(help="With --metadata: folder or bucket for the captions.")]
Plan = Annotated[bool, typer.Option("--plan", help="Show what is built, what is missing and what it costs; run nothing.")]
Images = Annotated[str, typer.Option("--shards", help="The pool's images: an address in the store; with --metadata, a folder.")]


def add_to(app: typer.Typer) -> None:
    from deployments.cli.stages.captions_by_model import generate, translate

    group = typer.Typer(no_args_is_help=True, help="Import, make and inspect caption sets.")
    for name, command in {**COMMANDS, "generate": generate, "translate": translate}.items():
        group.command(name)(command)
    app.add_typer(group, name="captions", rich_help_panel="Stages")


def import_(
    source: Annotated[str, typer.Argument(help="File or folder of parquet, csv, tsv or jsonl: local, s3://, https:// or hf://.")],
    name: Annotated[str, typer.Option(help="Name of the source of these captions.")],
    by: Annotated[
        Literal["uid", "key", "url", "sha256"], typer.Option("--by", help="Join key between captions and pool.")
    ] = "uid",
    key_column: Annotated[str, typer.Option(help="Column of the join key. Default: the name given by --by.")] = "",
    text_column: Annotated[str, typer.Option(help="Column of captions. Default: text or caption.")] = "",
    score_column: Annotated[str, typer.Option(help="Column of scores.")] = "",
    score: Annotated[str, typer.Option(help="Name of that score, such as clip_l14_similarity_score.")] = "",
    source_column: Annotated[str, typer.Option(help="Column with the source of each caption.")] = "",
    model: Annotated[str, typer.Option(help="Model that wrote the captions, shown on the board.")] = "",
    scale: options.Scale = "tiny",
    pool_seed: run_to_stage.PoolSeed = 0,
    pool: options.Pool = "",
    shards: Images = "",
    metadata: Metadata = None,
    out: Out = None,
    plan: Plan = False,
    json: options.Json = False,
) -> None:
    """Join a table of captions, in any order, to a pool and report every row.

    Examples:

      datacomp captions import recaptions/ --name recap --by url --pool pools/ADDRESS

      datacomp captions import hf://datasets/OWNER/NAME/captions.csv --name blip2 --by key --scale medium

      datacomp captions import blip2.csv --name blip2 --metadata small/metadata --out small/blip2
    """
    from datacomp_core.captions.import_captions import CaptionImportSpec, import_folder_captions

    given: dict[str, Any] = {"key_column": key_column, "text_column": text_column, "score_column": score_column}
    given |= {"score": score, "source_column": source_column, "model": model, "key": by}
    spec = CaptionImportSpec.model_validate({"file": source, "name": name, **given})
    require_store(plan, metadata)
    if metadata is None:
        make(spec, (), scale, pool_seed, pool, shards, out, plan=plan, json=json)
        return
    images = Folder(shards) if shards else None

    def work(target: Folder, progress: Any) -> Captions:
        return import_folder_captions(spec, Folder(metadata), target, shards=images, progress=progress)

    in_folder(spec, metadata, out, work, {"shards": images.url} if images is not None else None, json=json)


def template(
    text: Annotated[str, typer.Argument(help="Text with fields in braces: columns, or sources of --captions.")],
    name: Annotated[str, typer.Option(help="Name of the source.")] = "template",
    captions: Sets = None,
    scale: options.Scale = "tiny",
    pool_seed: run_to_stage.PoolSeed = 0,
    pool: options.Pool = "",
    metadata: Metadata = None,
    out: Out = None,
    plan: Plan = False,
    json: options.Json = False,
) -> None:
    """Build captions from columns and other captions, without a model.

    Example: datacomp captions template "{text}. {category}" --captions captions/ADDRESS --name with-category
    """
    from datacomp_core.captions.template import TemplateSpec, template_folder

    spec = TemplateSpec(template=text, name=name)
    require_store(plan, metadata)
    if metadata is None:
        make(spec, captions or (), scale, pool_seed, pool, "", out, plan=plan, json=json)
        return
    from datacomp_core.caption_sets import set_in

    sets = [(set_in(Folder(place)), Folder(place)) for place in captions or ()]

    def work(target: Folder, progress: Any) -> Captions:
        return template_folder(spec, Folder(metadata), sets, target, progress=progress)

    in_folder(spec, metadata, out, work, json=json)


def stats(
    where: Annotated[str, typer.Argument(help="A caption set: its address in the store, or a folder.")],
    json: options.Json = False,
) -> None:
    """Describe the captions of a set: number, length, languages, words.

    Example: datacomp captions stats captions/tiny/blip2--0123456789ab
    """
    from datacomp_core.captions.import_captions import account
    from datacomp_core.leaderboard.board import caption_stats

    made, folder = found(where)
    told = caption_stats.stats(made, folder)
    if json:
        terminal.print_json({"counts": made.counts, "sources": [one.model_dump(mode="json") for one in told]})
        return
    head = ("source", "captions", "rows", "of the pool", "words 10/50/90 %", "languages", "words")
    terminal.table(f"captions {made.name or where}", head, caption_stats.lines(told), right=head[1:4])
    if made.counts:
        terminal.table("Account", ("what", "number"), [(n, f"{c:,}") for n, c in account(made)], right=("number",))


def choice_of(policy: str, source: PoolSource, *, trains: bool = False) -> PolicyInputs:
    """Return what a policy chooses from, for a folder of metadata whose sets are folders of captions.

    `trains`: for a training; SpecError if the policy says that the filter alone reads its captions.
    """
    from datacomp_core.caption_recipes import load_plan
    from datacomp_core.captions.choose_captions import PolicyInputs

    plan = load_plan(policy)
    if trains and plan.edits and not plan.trains:
        raise SpecError(f"By `use: filter` of {policy} the new shards keep the pool's own captions: leave --captions out here.")
    return PolicyInputs(plan.policy, source, tuple(found(where) for where in plan.sets))


def chosen(choice: PolicyInputs, out: Folder, workers: int, progress: Any) -> Captioned:
    """Apply a policy to the captions of a folder of metadata, report how many come from each source, and return the result."""
    from datacomp_core.captions.choose_captions import choose_folder

    made = choose_folder(choice, out, workers=workers, progress=progress)
    counts = {name.removeprefix("caption: "): count for name, count in made.counts.items() if name.startswith("caption: ")}
    counts["none"] = made.counts.get("without_caption", 0)
    told = ", ".join(f"{source} {count:,}" for source, count in counts.items())
    terminal.notes.print(f"captions by {made.policy}: {told}", markup=False)
    return made


def found(where: str) -> tuple[Captions, Folder]:
    """Return a caption set by its address in the store or by its folder."""
    from datacomp_core.artifacts import Captions
    from datacomp_core.caption_sets import SUMMARY, set_in
    from deployments.cli.stages.own_pool import open_store

    if Folder(where).exists(SUMMARY):
        return set_in(Folder(where)), Folder(where)
    store = open_store()
    record = store.record(where)
    if record is None or record.kind != Captions.kind:
        raise SpecError(
            f"{where} is neither the address of a caption set (captions/...) in {store.root} nor a folder of captions."
        )
    made = store.artifact(Captions, record)
    return made, store.folder(made)


def require_store(plan: bool, metadata: str | None) -> None:
    if plan and metadata is not None:
        raise SpecError("--plan is for a pool of the store: leave --metadata out.")


def in_folder(
    make: Any,
    metadata: str,
    out: str | None,
    work: Callable[[Folder, Any], Captions],
    asked: dict[str, Any] | None = None,
    *,
    json: bool,
) -> None:
    """Make captions for a plain folder of metadata; `work` receives the output folder and a progress."""
    from datacomp_core.caption_sets import SUMMARY, set_in, summary
    from datacomp_core.parts import part_names
    from datacomp_core.store.content_marks import marks
    from datacomp_core.store.folder_request import INPUTS, REQUEST, bind_folder, free_if_nothing_is_made

    if out is None:
        raise SpecError("Captions for a folder of metadata need --metadata and --out together.")
    target, source = Folder(out), Folder(metadata)
    if not target.exists(REQUEST) and target.files().keys() - {INPUTS}:
        raise SpecError(f"{out} is not empty and was not started by this command: choose an empty folder.")
    names = [f"{part}.parquet" for part in part_names(source)]
    bind_folder(
        target,
        {**make.model_dump(mode="json"), **(asked or {})},
        {"metadata": lambda known: marks(source, only=names, known=known)},
    )
    if target.exists(SUMMARY):
        terminal.notes.print(f"{out} is already built", markup=False)
        _show(set_in(target), target.url, json=json)
        return
    with terminal.shown_progress("captions", quiet=json) as progress, free_if_nothing_is_made(target):
        made = work(target, progress)
    target.write_json(SUMMARY, summary(made))
    _show(made, target.url, json=json)


def _show(made: Captions, where: str, *, json: bool) -> None:
    from datacomp_core.captions.import_captions import account

    if json:
        terminal.print_json({**made.model_dump(mode="json"), "out": where})
        return
    told = f"{made.num_captions:,} captions of {', '.join(made.sources)} for {made.num_captioned:,} of {made.num_samples:,} rows"
    terminal.table(told, ("what", "number"), [(name, f"{count:,}") for name, count in account(made)], right=("number",))
    terminal.out.print(f"Files: {terminal.bold(where)}" if not made.address else f"Address: [bold]{made.address}[/]")


def make(
    how: Any, sets: Any, scale: str, pool_seed: int, pool: str, shards: str, out: str | None, *, plan: bool = False, json: bool
) -> None:
    """Run the flow `make-captions`, and show what it made; with `plan` show what it would build and cost."""
    if out is not None:
        raise SpecError("--out needs --metadata; captions for a pool of the store are written to the store.")
    from datacomp_core.scales import scale as known_scale

    known_scale(scale)
    prepare_environment()
    from deployments.cli.planning import show_captions
    from flows.captioning import CaptioningSpec, make_captions

    given = {"scale": scale, "pool_seed": pool_seed, "pool": pool, "shards": shards, "sets": tuple(sets), "make": how}
    spec = CaptioningSpec.model_validate(given)
    assert settings().store_url
    if plan:
        show_captions(spec, json=json)
        return
    with prefect_api(), terminal.shown_steps(quiet=json), exits_at_interrupt():
        made = make_captions(spec)
    _show(made, made.address, json=json)


COMMANDS: dict[str, Callable[..., None]] = {
    "import": import_,
    "template": template,
    "stats": stats,
}
