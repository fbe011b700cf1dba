"""What the images are: users, tools and size of the one for CPUs, our tests inside it, and that the one for GPUs can be made."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from docker_engine import GPU_IMAGE, MARKS, ROOT, Engine

pytestmark = MARKS
OURS = "datacomp:latest"
TESTED = "datacomp:tested"
GB_AT_MOST = 5.6
TESTS = ("tests/core/embedding", "tests/core/training", "tests/core/evaluation", "tests/core/explore")
"""Those that load torch, faiss and S3 clients in all their ways."""


def test_the_image_runs_as_a_user_that_owns_its_volume_and_has_no_build_tools(docker: Engine) -> None:
    assert docker.inside("worker-cpu", "id -un; stat -c %U /var/lib/datacomp").split() == ["datacomp", "datacomp"]
    assert docker.inside("worker-cpu", "command -v gcc cc ld make git cmake ninja || true") == ""
    [image] = json.loads(docker.docker("image", "inspect", OURS))
    assert image["Config"]["User"] == "datacomp"
    assert image["Size"] < GB_AT_MOST * 1e9


@pytest.fixture
def tested(docker: Engine, tmp_path: Path) -> Iterator[str]:
    """The image with our tests and the packages that only they need on top."""
    tree = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=tree, check=True)
    shutil.copyfile(ROOT / "tests/stack/images/tested.Dockerfile", tmp_path / "tested.Dockerfile")
    docker.docker("build", "--tag", TESTED, "--file", str(tmp_path / "tested.Dockerfile"), str(tmp_path))
    yield TESTED
    docker.docker("rmi", TESTED)


def test_our_tests_pass_in_the_image(docker: Engine, tested: str) -> None:
    suite = ["python", "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "not slow and not gpu", *TESTS]
    ran = docker.docker("run", "--rm", "--init", "--shm-size", "2g", tested, *suite)
    assert "passed" in ran


def test_the_image_for_gpus_can_be_made(docker: Engine, gpu_image: Future[None]) -> None:
    gpu_image.result()
    code = "import faiss, torch; print(hasattr(faiss, 'GpuIndexFlatIP'), torch.version.cuda)"
    found, cuda = docker.docker("run", "--rm", GPU_IMAGE, "python", "-c", code).split()
    assert found == "True"
    assert cuda[0].isdigit()
