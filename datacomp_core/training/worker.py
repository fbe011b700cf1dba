"""The process of one rank: open_clip_train's own main, with its data source replaced by ours and its run made resumable.

Model, loss, optimizer, schedule and step stay open_clip's. Replaced are: the data (see `data`), DDP's wrapper on a CPU
(open_clip passes it `device_ids`, which only a GPU takes), and the point an epoch starts at after a crash.
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

from datacomp_core.clip import config
from datacomp_core.errors import DatacompError
from datacomp_core.imports import imports_told
from datacomp_core.parallel import die_with_parent
from datacomp_core.training.elastic import end_with_launcher
from datacomp_core.training.job import JOB, Job, write_failure


def main(folder: str) -> None:
    """Run one rank. Whatever ends it is left as a file for the launcher, which tells the user."""
    die_with_parent() if "TORCHELASTIC_RUN_ID" in os.environ else end_with_launcher()
    job = Job.model_validate_json((Path(folder) / JOB).read_bytes())
    rank = int(os.environ.get("RANK", "0"))
    try:
        with imports_told():
            run(job)
    except SystemExit as problem:
        if problem.code not in (0, None):
            write_failure(Path(folder), rank, DatacompError(f"open_clip_train ended with status {problem.code}; see its log."))
        raise
    except BaseException as problem:
        write_failure(Path(folder), rank, problem)
        raise


def run(job: Job) -> None:
    """Call `open_clip_train.main.main` and believe its return value, which the exit status does not tell."""
    leave_out(job)
    from datacomp_core import clip
    from datacomp_core.training.arguments import arguments
    from datacomp_core.training.session import Session

    trainer = _open_clip_train()
    clip.register()
    session = Session(job, trainer)
    session.install()
    argv = arguments(
        job.spec,
        job.machine,
        data="::".join(source.url for source in job.sources),
        logs=job.folder,
        name=job.name,
        num_sources=len(job.sources),
    )
    if trainer.main(argv) == -1:
        raise DatacompError(f"open_clip_train refused to start in {job.folder}: see its log.")
    session.finish()


def leave_out(job: Job) -> None:
    """Keep libraries that this run has no use for from being imported: they cost as much time as a tiny training."""
    absent = []
    if not _wants_other_libraries(job.spec.recipe.model):
        absent += ["timm", "transformers"]
    absent += ["wandb"] if "wandb" not in job.machine.report_to else []
    absent += ["torch.utils.tensorboard"] if "tensorboard" not in job.machine.report_to else []
    for name in absent:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]


def _wants_other_libraries(model: str) -> bool:
    """Whether a model's configuration names towers or tokenizers of timm or transformers."""
    text = json.dumps(config(model) or "timm_")
    return '"timm_' in text or '"hf_' in text


def _open_clip_train() -> Any:
    """`open_clip_train.main` without its data module: what that imports (pandas, webdataset) has no part in our data."""
    stand_in = types.ModuleType("open_clip_train.data")
    stand_in.get_data = None  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules["open_clip_train.data"] = stand_in
    import open_clip_train.main as trainer

    return trainer


if __name__ == "__main__":
    main(sys.argv[1])
