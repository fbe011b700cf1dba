"""`template_captions`: captions from columns and other captions, such as `{text}. {category}`. No model is needed."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import polars as pl
from pydantic import Field, field_validator

from datacomp_core import caption_sets, parts
from datacomp_core.artifacts import Captions, Pool, Spec
from datacomp_core.columns import plain
from datacomp_core.errors import DataError, SpecError, unknown
from datacomp_core.parts import METADATA
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.store import Folder, Store, step


class TemplateSpec(Spec):
    """A caption of fixed words and fields."""

    kind: Literal["template"] = Field(
        default="template", json_schema_extra={"enum": ["template"]}, description="Captions of columns and other captions."
    )
    template: str = Field(
        min_length=1,
        max_length=4000,
        description="Text with fields in braces: columns of the metadata, or sources of other caption sets. "
        "{{ stands for a brace.",
    )
    name: str = Field(default="template", pattern=caption_sets.SOURCE_PATTERN, description="Name of the source.")

    @field_validator("template")
    @classmethod
    def _plain(cls, template: str) -> str:
        if not fields_of(template):
            raise SpecError(
                f"The template {template!r} has no field such as {{text}}, so every caption would be the same: use a field."
            )
        return template

    @field_validator("name")
    @classmethod
    def _not_raw(cls, name: str) -> str:
        return caption_sets.own_name(name)

    def label(self) -> str:
        return self.name


def fields_of(template: str) -> list[str]:
    """The names in braces. SpecError if a brace is not closed or a field is more than a name."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as problem:
        raise SpecError(f"The template {template!r} is malformed ({problem}): write {{{{ for a brace.") from problem
    for _, name, form, conversion in pieces:
        if name is not None and (not name or form or conversion or not name.replace(".", "_").replace("-", "_").isidentifier()):
            raise SpecError(f"The field {{{name or ''}}} of the template {template!r} is not a name: write a column in braces.")
    return list(dict.fromkeys(name for _, name, _, _ in pieces if name))


@step("captions", version=1, name=lambda spec, pool, sets: f"{spec.label()}-{pool.name}")
def template_captions(
    spec: TemplateSpec,
    pool: Pool,
    sets: tuple[Captions, ...],
    *,
    out: Folder,
    store: Store,
    progress: Progress = NO_PROGRESS,
) -> Captions:
    """Return a caption for every row that has all fields. DataError for a field that is neither a column nor a source."""
    given = [(one, store.folder(one)) for one in sets]
    return template_folder(spec, store.folder(pool) / METADATA, given, out, progress=progress)


def template_folder(
    spec: TemplateSpec,
    metadata: Folder,
    sets: Sequence[tuple[Captions, Folder]],
    out: Folder,
    *,
    progress: Progress = NO_PROGRESS,
) -> Captions:
    """`template_captions` for plain folders."""
    caption_sets.require_sources((), [one for one, _ in sets])
    names, counts = parts.part_names(metadata), Counter[str]()
    for _, folder in sets:
        caption_sets.require_parts(folder, names, metadata)
    progress.start(len(names), "parts")
    for part in names:
        rows = _columns(spec, metadata, part, sets)
        made = rows.with_row_index("row").select("row", "uid", source=pl.lit(spec.name), text=filled(spec.template))
        kept = made.filter(pl.col("text").str.strip_chars() != "")
        counts.update(rows=rows.height, captioned=kept.height)
        if kept.height:
            caption_sets.write_captions(out, part, kept)
        progress.advance()
    if not counts["captioned"]:
        raise DataError(f"No row of {metadata} has a value in all fields of {spec.template!r}.")
    counts["uncaptioned"] = counts["rows"] - counts["captioned"]
    return Captions(
        sources=(spec.name,),
        num_samples=counts["rows"],
        num_captions=counts["captioned"],
        num_captioned=counts["captioned"],
        counts=dict(counts),
    )


def filled(template: str) -> pl.Expr:
    """The template over columns; null where one of them is."""
    pieces: list[pl.Expr] = []
    for literal, name, _, _ in string.Formatter().parse(template):
        pieces += [pl.lit(literal)] if literal else []
        pieces += [pl.col(name).cast(pl.String)] if name else []
    return pl.concat_str(pieces, ignore_nulls=False)


def _columns(spec: TemplateSpec, metadata: Folder, part: str, sets: Sequence[tuple[Captions, Folder]]) -> pl.DataFrame:
    """uid and the fields of the template, a row each of the part; of a source its first caption."""
    frame = parts.scan(metadata, part)
    there = frame.collect_schema().names()
    sources = {source: folder for one, folder in sets for source in one.sources}
    wanted = fields_of(spec.template)
    for name in wanted:
        if name not in sources and name not in there:
            raise unknown(f"field of the template {spec.template!r}", name, [*there, *sources])
    own = [name for name in wanted if name not in sources]
    rows = plain(frame.select(list(dict.fromkeys(["uid", *own]))).collect(), metadata.at(part))
    for name in own:
        if rows[name].dtype.is_nested() or rows[name].dtype == pl.Binary:
            raise DataError(
                f"{metadata.at(part)}.parquet: the column {name!r} of the template {spec.template!r} is {rows[name].dtype}, "
                "but must be text or a number: use another column."
            )
    for name in wanted:
        if name in sources:
            found = caption_sets.captions_for(sources[name], part, rows["uid"])
            first = found.filter(pl.col("source") == name).unique("row", keep="first")
            texts = pl.Series([None], dtype=pl.String).new_from_index(0, rows.height).scatter(first["row"], first["text"])
            rows = rows.with_columns(texts.alias(name))
    return rows
