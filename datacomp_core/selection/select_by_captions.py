"""`select_subset_by_captions`: `select_subset` by a filter that names sources of captions (`captions_of`). Each source is read
as a pool of its own: its captions (by the policy `replace`), and the scores of the pairs with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from datacomp_core.artifacts import Captioned, Embeddings, Pool, Scores, Subset
from datacomp_core.caption_sets import RAW
from datacomp_core.parts import FEATURES, METADATA, SCORES
from datacomp_core.pool_source import PoolSource
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.selection.select import Beside, SubsetSpec, subset_of
from datacomp_core.selection.with_captions import captions_in
from datacomp_core.store import Folder, Store, step


@step("subsets", version=1, name=lambda spec, pool, *_: f"{spec.label()}-{pool.name}")
def select_subset_by_captions(
    spec: SubsetSpec,
    pool: Pool,
    embeddings: Beside,
    named: tuple[Captioned, ...],
    scores: tuple[Scores, ...],
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Subset:
    """The files of `select_subset`.

    `named`: the captions of each source of `spec.captions()`, in this order, without the pool's own; `scores`: of the pairs with
    them, in the order of `spec.scores_of_captions` for one source after the other.
    """
    beside = [each for each in (embeddings if isinstance(embeddings, tuple) else (embeddings,)) if each is not None]
    plain = [each for each in beside if not isinstance(each, Captioned)]
    features = tuple(store.folder(each) / FEATURES for each in plain if isinstance(each, Embeddings))
    own = PoolSource(store.folder(pool) / METADATA, tuple(store.folder(each) / SCORES for each in plain), features)
    read = by_captions(spec, own, [store.folder(each) for each in named], [store.folder(each) for each in scores])
    return subset_of(spec, pool, embeddings, read, out=out, store=store, workers=workers, progress=progress)


def by_captions(spec: SubsetSpec, own: PoolSource, named: Sequence[Folder], scores: Sequence[Folder]) -> dict[str, PoolSource]:
    """The pool with the captions of each source that a filter names, by its name."""
    captioned, computed, read = iter(named), iter(scores), dict[str, PoolSource]()
    for name in spec.captions():
        texts = captions_in(own, None if name == RAW else next(captioned))
        mine = tuple(next(computed) / SCORES for _ in spec.scores_of_captions(name))
        read[name] = replace(texts, scores=(*texts.scores, *mine))
    return read
