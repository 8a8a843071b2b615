"""The files in ``configs/clusters`` are what those they are for will take."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

import simfl
from simfl.scenario import shipped_scenarios

CLUSTERS = Path(__file__).parents[2] / "configs" / "clusters"

TEXT, WHOLE, YES_OR_NO = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


POD_TEMPLATE = closed(["spec"], metadata={"type": "object"}, spec={"type": "object"})
WORKERS = closed(
    ["groupName", "minReplicas", "maxReplicas", "template"],
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    rayStartParams=TEXTS,
    template=POD_TEMPLATE,
)
RAY_CLUSTER = closed(
    ["headGroupSpec"],
    rayVersion=TEXT,
    authOptions=closed([], mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    enableInTreeAutoscaling=YES_OR_NO,
    headGroupSpec=closed(["template"], rayStartParams=TEXTS, template=POD_TEMPLATE),
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
RAY_JOB = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata={"type": "object"},
    spec=closed(
        [],
        entrypoint=TEXT,
        backoffLimit=WHOLE,
        shutdownAfterJobFinishes=YES_OR_NO,
        ttlSecondsAfterFinished=WHOLE,
        runtimeEnvYAML=TEXT,
        rayClusterSpec=RAY_CLUSTER,
    ),
)
"""Some of the fields of a RayJob, as in https://docs.ray.io/en/master/kuberay/references/api.html
(v1.7.1); the definition itself is in no package. Pods are checked by Kubernetes' own schema."""


def documents() -> list[Any]:
    return list(yaml.safe_load_all((CLUSTERS / "rayjob.yaml").read_text()))


def ray_job() -> Any:
    return documents()[-1]


def test_the_launchers_file_fits_rays_own_schema() -> None:
    spec = importlib.util.find_spec("ray")
    assert spec
    assert spec.submodule_search_locations
    schema = Path(spec.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json"
    launcher = yaml.safe_load((CLUSTERS / "ray-cluster.yaml").read_text())
    jsonschema.validate(launcher, json.loads(schema.read_text()))
    assert launcher["head_node_type"] in launcher["available_node_types"]


def test_the_ray_job_has_only_fields_that_a_ray_job_has() -> None:
    jsonschema.validate(ray_job(), RAY_JOB)
    wrong = ray_job()
    wrong["spec"]["rayClusterSpec"]["authOption"] = {"mode": "token"}
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        jsonschema.validate(wrong, RAY_JOB)


def pods() -> list[dict[str, Any]]:
    cluster = ray_job()["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        for group in groups
    ]


@pytest.mark.filterwarnings("ignore")
def test_its_pods_volume_and_config_map_fit_kubernetes_own_schemas() -> None:
    for resource in [*documents()[:-1], *pods()]:
        kubernetes_validate.validate(resource, "1.30", strict=True)
    (head, *_) = pods()
    head["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(head, "1.30", strict=True)


def test_its_scenario_is_one_and_the_volumes_are_there() -> None:
    claim, config, job = documents()
    scenario = simfl.load_scenario(yaml.safe_load(config["data"]["scenario.yaml"]))
    assert scenario.checkpoint.every > 0
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    names = {
        volume.get("persistentVolumeClaim", {}).get("claimName") or volume["configMap"]["name"]
        for volume in head["volumes"]
    }
    assert names == {claim["metadata"]["name"], config["metadata"]["name"]}


def test_token_authentication_is_on_everywhere() -> None:
    launcher = yaml.safe_load((CLUSTERS / "ray-cluster.yaml").read_text())
    assert any("RAY_AUTH_MODE=token" in line for line in launcher["initialization_commands"])
    assert any(path.endswith(".ray/auth_token") for path in launcher["file_mounts"])
    assert ray_job()["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "RAY_AUTH_MODE=token" in (CLUSTERS / "slurm.sbatch").read_text()
    assert not [path for path in CLUSTERS.iterdir() if "0.0.0.0" in path.read_text()]


def test_shellcheck_finds_nothing_in_the_batch_script() -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert shellcheck
    found = subprocess.run([shellcheck, CLUSTERS / "slurm.sbatch"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_none_of_them_is_taken_for_a_scenario_and_each_begins_with_what_it_is() -> None:
    assert not {path.stem for path in CLUSTERS.iterdir()} & set(shipped_scenarios())
    for path in CLUSTERS.iterdir():
        lines = path.read_text().removeprefix("#!/usr/bin/env bash\n").splitlines()
        assert lines[0].startswith("# "), path
