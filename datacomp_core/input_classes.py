"""Classifies inputs: what a filter was made from, beyond what the benchmark released with the pool.

    released   metadata, captions, pictures, released CLIP scores and embeddings, and the tools of the benchmark's own baselines
               (fastText's and CLD3's language, the names of ImageNet's classes)
    target     the same, and train images of the evaluation tasks (ImageNet-1k above all)
    public     the same, and models or data that anybody can fetch
    private    anything else

The origin of a list of uids, a table of scores or foreign code is not in a spec. It counts as private, unless its author
states what it was made from; then the class is marked as claimed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

InputClass = Literal["released", "target", "public", "private"]
Said = Literal["", "released", "target", "public", "private"]
"""A class, or no statement."""
CLASSES: tuple[InputClass, ...] = get_args(InputClass)
"""From the narrowest to the widest: a later one contains those before it."""
TITLES: dict[InputClass, str] = {
    "released": "released scores only",
    "target": "plus target train images",
    "public": "plus public models or data",
    "private": "private",
}
FETCHABLE = ("hf://", "https://", "http://")


class InputUse(NamedTuple):
    """One input of a recipe. `of` is None if the spec does not say what it was made from. `claimed`: the spec states it, but
    the records cannot prove it.
    """

    what: str
    of: InputClass | None
    claimed: bool = False


class RecipeInputs(BaseModel):
    """The class of a recipe, and its reasons."""

    model_config = ConfigDict(frozen=True)
    of: InputClass
    claimed: bool = Field(default=False, description="It relies on the author's statement.")
    why: list[str] = Field(default_factory=list[str], description="What it reads beyond the released data.")

    @property
    def title(self) -> str:
        return TITLES[self.of] + (" (claimed)" if self.claimed else "")


def widest_class(*several: InputClass) -> InputClass:
    return CLASSES[max(CLASSES.index(one) for one in several)]


def classify_inputs(uses: Iterable[InputUse], said: Said = "") -> RecipeInputs:
    """Return the widest class of some uses. `said` applies to uses of unknown origin; it never narrows known ones."""
    each = list(dict.fromkeys(uses))
    has_unknown = any(use.of is None for use in each)
    classes: list[InputClass] = ["released", *(use.of for use in each if use.of is not None)]
    if has_unknown:
        classes.append(said or "private")
    why = [f"{use.what} ({TITLES[use.of] if use.of else 'origin not recorded'})" for use in each if use.of != "released"]
    widest = CLASSES[max(CLASSES.index(one) for one in classes)]
    claimed = widest != "private" and (has_unknown or any(use.claimed for use in each))
    return RecipeInputs(of=widest, claimed=claimed, why=why)


def classify_file(name: str, what: str) -> InputUse:
    """Classify a file of a filter or score: a publicly available file is public; for others the origin is not recorded. A file
    is identified by its content; only its author can state its origin.
    """
    short = name.partition("#")[0].rstrip("/").rpartition("/")[2]
    return InputUse(f"{what} {short}", "public" if name.startswith(FETCHABLE) else None, claimed=name.startswith(FETCHABLE))
