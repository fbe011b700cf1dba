"""Runs torchrun so that it ends whenever its launcher ends: `python -m datacomp_core.training.elastic <its arguments>`."""

from __future__ import annotations

import os
import sys

from datacomp_core.parallel import die_with_parent

PARENT = "DATACOMP_LAUNCHER"


def end_with_launcher() -> None:
    """End when the process that started this one ends, also if it already has."""
    die_with_parent()
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        sys.exit(1)


def main(arguments: list[str]) -> None:
    """Run `torch.distributed.run` in this process, which is the launcher of its ranks."""
    end_with_launcher()
    os.environ[PARENT] = str(os.getpid())
    from torch.distributed.run import main as torchrun

    torchrun(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
