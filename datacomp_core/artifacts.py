"""Defines the vocabulary of the system: a request (`Spec`) and a result (`Artifact`). Both are frozen pydantic models that
reject unknown fields, so a typo is an error at once, in Python, in YAML and in a Prefect form. Only these cross a task
boundary; tables, images and tensors stay in the store, under `Artifact.data`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class HoldoutCount(StrEnum):
    """Names of counts that say that a step compared images with the test sets (rule "no evaluation images" of the board)."""

    LIKE_A_TEST_IMAGE = "like_a_test_image"
    TEST_IMAGES = "test_images"
    DROPPED = "dropped_like_test_images"


class Spec(BaseModel):
    """A request. Its meaning is hashed into the address of its result (store/fingerprint.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: ClassVar[int] = 1
    """Raised by hand when the meaning of this spec changes, or the default of a field of it."""
    names_for_people: ClassVar[frozenset[str]] = frozenset()
    """Fields that are not part of the identity."""

    def label(self) -> str:
        """A short readable name for addresses and run names; not part of the identity."""
        return ""


class Artifact(BaseModel):
    """A small description of something in the store. `@step` fills the base fields; a step fills its own.

    `data` is the folder of its files, relative to the store's root (or an absolute url if it was adopted).
    `fingerprint` is 64 hex digits: the identity of the step that made it and, if the inputs do not determine the result (a
    download), also of the actual result, which the step gives in `content`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]

    scale: str = Field(default="", description="Its scale, or the name of its pool.")
    name: str = Field(default="", description="Readable name; not part of the identity.")
    address: str = Field(default="", description="Folder of its record, relative to the store.")
    data: str = Field(default="", description="Folder of its files, relative to the store; absolute if adopted.")
    fingerprint: str = Field(default="", description="64 hex digits that identify it as an input.")
    content: str = Field(default="", description="Hash of the result, if the inputs do not determine it.")
    counts: dict[str, int] = Field(default_factory=dict, description="Counts by outcome and reason.")


class Pool(Artifact):
    """Candidate pairs. Files: `metadata/<part>.parquet` in DataComp's schema, optionally `<part>.npz` next to it."""

    kind = "pools"
    num_samples: int
    num_parts: int


class ShardSet(Artifact):
    """Webdataset tars `<8 digits>.tar` with `index/<shard>.parquet`: downloaded, resharded or adopted.

    A download also has `ledger/<shard>.parquet`, one row per candidate, and its `content` is the hash of the uids that
    arrived: the realised pool. A view has no tars: its index points into those of another folder, so that a
    chosen set can be trained on without a copy.
    """

    kind = "shards"
    tars: str = Field(default="", description="For a view: folder of the tars, relative to the store. Empty: next to the index.")
    num_samples: int
    num_unique: int
    num_shards: int


class Embeddings(Artifact):
    """Features of a pool's rows. Files: `scores/<part>.parquet` (uid and one column per score), `features/<part>.npz`.

    Rows are aligned one to one with the pool's metadata part of the same name; a sample whose image never arrived has a
    null score and NaN features, so nothing is shifted.
    """

    kind = "embeddings"
    model: str
    columns: tuple[str, ...]
    num_samples: int
    num_embedded: int


class Scores(Artifact):
    """One computed score of a pool's rows. Files: `scores/<part>.parquet` (uid and `column`), aligned with the metadata."""

    kind = "scores"
    column: str
    num_samples: int
    num_scored: int


class Captions(Artifact):
    """Captions of a pool's rows from one or several sources, with any number per row. Files: `captions/<part>.parquet`, for each
    part of the metadata: `row` (in that part), `uid`, `source`, `text`, and a column for each of `scores` (float32, null where
    there is no score), in the order of the rows. An embedded set also has `features/<part>.npz`: `<prefix>_txt`, one row per
    caption.
    """

    kind = "captions"
    sources: tuple[str, ...] = Field(description="Names of the sources, as in the column `source`.")
    model: str = Field(default="", description="The model that wrote the captions, if any.")
    scores: tuple[str, ...] = Field(default=(), description="Columns of scores, such as clip_l14_similarity_score.")
    num_samples: int = Field(description="Rows of the pool.")
    num_captions: int
    num_captioned: int = Field(description="Rows of the pool that have a caption.")


class Captioned(Artifact):
    """The caption of each row of a pool by a policy. Files: `scores/<part>.parquet`, aligned with the metadata: `uid`, `text`,
    `caption_source` (null: the policy leaves the row out), `caption_changed`, and every CLIP score, null where it belongs to
    another caption. For a policy that draws, `draws/<part>.parquet` has the captions to draw from, and `scores/` has the pool's
    own text.
    """

    kind = "captioned"
    policy: str
    sources: tuple[str, ...]
    models: tuple[str, ...] = Field(default=(), description="Models that wrote captions of the sources.")
    draws: bool = Field(default=False, description="Whether the caption is drawn again each time a sample is seen.")
    num_samples: int
    num_changed: int


class Subset(Artifact):
    """The chosen uids: `subset.npy`, dtype `u8,u8`, lexicographically sorted, a multiset."""

    kind = "subsets"
    recipe: str
    num_samples: int
    num_unique: int


class Checkpoint(Artifact):
    """A trained CLIP. Files: `checkpoint.pt` (open_clip's form), `training.json`, `history.jsonl`."""

    kind = "checkpoints"
    model: str
    seed: int
    samples_seen: int
    steps: int


OWN_SUITE = "custom"
"""The suite of test sets and reports that contain only the user's own tasks."""


class EvalSets(Artifact):
    """Test sets in the layout of the hub repositories `djghosh/wds_*_test`, one folder per set."""

    kind = "evalsets"
    suite: str
    num_tasks: int


class EvalReport(Artifact):
    """Zero-shot results. Files: `report.json`, `eval_results.jsonl` (the original's form), `predictions/<task>.npz`."""

    kind = "reports"
    suite: str
    suite_version: int
    num_tasks: int
    average: float | None = Field(description="Mean of the main metrics, or null if a task is missing.")


class BoardEntry(Artifact):
    """One row of the leaderboard: `entry.json`, plain and self-contained."""

    kind = "entries"
    recipe: str
    seed: int
    average: float | None
