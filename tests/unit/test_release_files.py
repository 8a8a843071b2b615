"""The files of a release agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_the_image_has_the_ray_of_the_constraints() -> None:
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M)
    images = re.findall(
        r"rayproject/ray:(\S+?)-py311", (ROOT / "configs/clusters/Dockerfile").read_text()
    )
    assert set(images) == {pinned}


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda p: p.stem
)
def test_a_workflow_runs_scripts_that_exist_with_rights_to_read(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    scripts = {s for step in steps for s in re.findall(r"\.ci/\w+", step.get("run", ""))}
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)


def test_all_versions_of_python_are_tried_that_a_release_names() -> None:
    tests = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    tried = ["3.11", *tests["jobs"]["newer"]["strategy"]["matrix"]["python"]]
    named = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), flags=re.M)
    assert named == tried
