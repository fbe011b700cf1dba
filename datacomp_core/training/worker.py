"""Runs a job's training in the process of one rank, which torchrun starts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from datacomp_core.clip import config
from datacomp_core.import_errors import explain_import_errors
from datacomp_core.library_patches import left_out
from datacomp_core.training.elastic import end_with_launcher
from datacomp_core.training.job import JOB, RankJob, write_failure


def main(folder: str) -> None:
    """Run one rank. Whatever ends it is left as a file for the launcher, which tells the user."""
    end_with_launcher()
    job = RankJob.model_validate_json((Path(folder) / JOB).read_bytes())
    rank = int(os.environ.get("RANK", "0"))
    try:
        with explain_import_errors():
            run(job)
    except BaseException as problem:
        write_failure(Path(folder), rank, problem)
        raise


def run(job: RankJob) -> None:
    """Train without libraries that the model has no use for: their import costs as much time as a tiny training."""
    unused = [] if _wants_other_libraries(job.spec.recipe.model) else ["timm", "transformers"]
    with left_out(unused):
        from datacomp_core.training import session

        session.run(job)


def _wants_other_libraries(model: str) -> bool:
    """Whether a model's configuration names towers or tokenizers of timm or transformers."""
    text = json.dumps(config(model) or "timm_")
    return '"timm_' in text or '"hf_' in text


if __name__ == "__main__":
    main(sys.argv[1])
