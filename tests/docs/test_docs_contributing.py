"""CONTRIBUTING.md, step by step, in a copy of the tree: filter, score, ranking, recipe, scale, evaluation task, deployment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("datacomp_core", "tasks", "flows", "deployments")
CHECKS = """
import json, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from datacomp_core.registry import FILTERS, RECIPES, SCORES
from datacomp_core.recipes.load import load_recipe
from datacomp_core.scores.compute import computed
from datacomp_core.selection.select import SubsetSpec, scores_of, select
from datacomp_core.pool_source import PoolSource
from datacomp_core.store import Folder

metadata, out = Folder("metadata"), Folder("out")
assert {"shouting", "balanced"} <= set(FILTERS) and "unusual" in SCORES and "not_shouting" in RECIPES
assert not hasattr(load_recipe("not_shouting").filter, "code"), "what lies in this tree is known by its version, not by its code"
found = {}
for text in ("not_shouting:capitals_at_most=0.4", "balanced:fraction=0.5", "top_count:score=unusual,count=3"):
    wanted = load_recipe(text)
    source = computed(scores_of(wanted.filter), PoolSource(metadata), Folder("scores"))
    told = select(wanted, metadata, source.scores, out=out)
    found[text.partition(":")[0]] = [int(low) for _, low in np.load("out/subset.npy").tolist()]
schema = json.dumps(SubsetSpec.model_json_schema())
assert "capitals_at_most" in schema, "the form"

from datacomp_core.scales import SCALES
from flows.parameters import ExperimentSpec
from deployments.apply import chosen_rows, deployment
from deployments.catalog import checked, machines_of
assert ExperimentSpec(scale="mini", recipe="basic_filter").scoring().train.recipe.train_num_samples == 1_280_000
assert {row.deployment for row in chosen_rows(["mini"])} >= {"experiment-mini", "sweep-mini", "gpu-step-mini"}
assert machines_of("mini").gpus == 1

from datacomp_core.evaluation import golden_scores, report
from datacomp_core.evaluation.catalog import suite
from datacomp_core.evaluation.zero_shot_model import EXACT
from datacomp_core.evaluation.report import TaskResult
whole = suite("datacomp")
birds = whole.task("birds")
assert (birds.folder, len(whole.tasks)) == ("wds_birds_test", 41)
expected = golden_scores.golden("ViT-L-14/datacomp_xl_s13b_b90k")
results = [
    TaskResult(key=task.key, name=task.name, protocol=task.protocol, protocol_version=1, main_metric=task.metric, count=60,
               value=expected.scores.get(task.name, 0.5))
    for task in (birds, whole.task("cifar10"))
]
made = report.make(whole, results, model="m", weights="0" * 64, exactness=EXACT, batch_size=1, device="cpu")
assert [(row.task.key, row.holds) for row in golden_scores.compare(expected, made)] == [("cifar10", True)]

[own] = [row for row in chosen_rows(["small"]) if row.variant]
assert own.name == "curate/curate-small-basic" and deployment(own).name == "curate-small-basic"
try:
    checked((own, own))
except ValueError as problem:
    assert "give one of them a `variant`" in str(problem)
else:
    raise AssertionError
print(json.dumps(found))
"""
TEXTS = ["a red dog", "A RED DOG", "BUY NOW cheap", None, "12345", "Ein Hund im Garten"]


def blocks(page: str, language: str = "python") -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    return [re.sub(r"^\+", "", block, flags=re.MULTILINE) if language == "diff" else block for block in found]


def put(path: Path, before: str, text: str) -> None:
    """Insert a block before a line that the file has once."""
    whole = path.read_text()
    assert whole.count(before) == 1, (path, before)
    path.write_text(whole.replace(before, text + before))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this tree with every step of the page done."""
    root = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs", root / "docs")
    (root / "tests" / "docs").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "docs" / "test_docs_tables.py", root / "tests" / "docs")
    core = root / "datacomp_core"
    tutorial = blocks("docs/filters_tutorial.md")
    kinds = ("shouting", "unusual", "balanced")
    rule, score, ranking = (next(one for one in tutorial if f'@register("{kind}")' in one) for kind in kinds)
    [recipe] = [one for one in blocks("CONTRIBUTING.md") if "@step" not in one]
    row, scale, task, deployment = blocks("CONTRIBUTING.md", "diff")
    (core / "filters" / "shouting.py").write_text(rule)
    (core / "filters" / "balanced.py").write_text(ranking)
    (core / "scores" / "unusual.py").write_text(score)
    imports = "from datacomp_core.filters.balanced import Balanced\nfrom datacomp_core.filters.shouting import Shouting\n"
    put(core / "filters" / "__init__.py", "from datacomp_core.filters.sem_dedup import SemDedup\n", imports)
    put(core / "scores" / "__init__.py", "\nKINDS = SCORES\n", "from datacomp_core.scores.unusual import Unusual\n")
    baselines = core / "recipes" / "baselines.py"
    put(baselines, "\n\ndef _score(", "from datacomp_core.filters.shouting import Shouting\n")
    put(baselines, "PAPER = ", recipe + "\n\n")
    put(baselines, '    RecipeRow("no_filter", no_filter', row)
    put(core / "scales.py", '        Scale(name="debug"', scale)
    put(core / "evaluation" / "catalog.py", '    Task("cars"', task)
    catalog = root / "deployments" / "catalog.py"
    catalog.write_text(catalog.read_text().replace("MORE: tuple[DeploymentRow, ...] = ()\n", deployment))
    return root


def run(tree: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    known = os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    env = {**os.environ, "PYTHONPATH": known, "PYTHONSAFEPATH": ""}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd or tree, env=env, capture_output=True, text=True, timeout=500, check=False
    )


def test_every_step_of_the_page(tree: Path, tmp_path: Path) -> None:
    chance, rows = np.random.default_rng(0), len(TEXTS)
    frame = pl.DataFrame(
        {
            "uid": [f"{row:032x}" for row in range(rows)],
            "text": TEXTS,
            "clip_l14_similarity_score": chance.normal(size=rows).astype(np.float32),
            "clip_b32_similarity_score": chance.normal(size=rows).astype(np.float32),
        }
    )
    images = chance.normal(size=(rows, 4)).astype(np.float32)
    (tmp_path / "metadata").mkdir()
    frame.write_parquet(tmp_path / "metadata" / "00000000.parquet")
    np.savez(tmp_path / "metadata" / "00000000.npz", l14_img=images)
    done = run(tree, "-c", CHECKS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    letters = [[c for c in text or "" if c.isalpha()] for text in TEXTS]
    quiet = [n for n, some in enumerate(letters) if TEXTS[n] is not None and sum(c.isupper() for c in some) <= 0.4 * len(some)]
    weaker = np.minimum(frame["clip_l14_similarity_score"].to_numpy(), frame["clip_b32_similarity_score"].to_numpy())
    far = np.linalg.norm(images - images.mean(0), axis=1)
    assert found == {
        "not_shouting": quiet,
        "balanced": sorted(np.argsort(-weaker)[:3].tolist()),
        "top_count": sorted(np.argsort(-far)[:3].tolist()),
    }


def test_the_tables_are_written_anew(tree: Path) -> None:
    assert "`shouting`" not in (tree / "docs" / "filters.md").read_text()
    done = run(tree, "tests/docs/test_docs_tables.py")
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tree / "docs" / "filters.md").read_text()
    assert all(f"| `{name}` |" in page for name in ("shouting", "balanced", "unusual", "not_shouting"))
    assert "| datacomp | `birds` | Birds |" in (tree / "docs" / "evaluation.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_deploy_applies_the_row_with_those_of_its_scale(tree: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    env = {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        done = run(tree, "-m", "deployments.cli", "deploy", "--scale", "small", "--json")
        refused = run(tree, "-m", "deployments.cli", "deploy", "--scale", "smal")
    assert done.returncode == 0, done.stderr[-3000:]
    applied = {row["name"] for row in json.loads(done.stdout)}
    assert {"curate-small", "curate-small-basic", "experiment-small"} <= applied
    assert not any("mini" in name or "tiny" in name for name in applied)
    with get_client(sync_client=True) as client:
        there = client.read_deployment_by_name("curate/curate-small-basic")
    assert there.parameters["spec"]["recipe"] == "basic_filter"
    assert refused.returncode == 2
    assert "Did you mean 'small'" in " ".join(refused.stderr.split())
