"""The manifests for KubeRay: their structure, and the times and names that must fit each other.

KubeRay's own schema is in no package of pip or npm, so the fields are compared with those that are written here.
"""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "kuberay"
CLUSTER = {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
JOB = {"submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "entrypoint", "rayClusterSpec"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def manifest(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def cluster_of(name):
    spec = manifest(name)["spec"]
    return spec["rayClusterSpec"] if name == "rayjob" else spec


NAMES = ("raycluster", "rayjob")


def groups(name):
    spec = cluster_of(name)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def variables(pod):
    (container,) = pod["containers"]
    return {entry["name"]: entry["value"] for entry in container["env"]}


@pytest.mark.parametrize(("name", "kind", "fields"), [("raycluster", "RayCluster", CLUSTER), ("rayjob", "RayJob", JOB)])
def test_a_manifest_has_the_fields_of_its_kind_and_no_others(name, kind, fields):
    found = manifest(name)
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", kind)
    assert set(found) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(found["spec"]) == fields
    assert set(cluster_of(name)) == CLUSTER
    assert all(set(group) == GROUP for group in cluster_of(name)["workerGroupSpecs"])


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_ray_start_are_text(name):
    assert all(isinstance(value, str) for group in groups(name) for value in group["rayStartParams"].values())


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_is_given_more_time_than_its_drain_may_take(name):
    for group in cluster_of(name)["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        drain_s = int(variables(pod)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert pod["terminationGracePeriodSeconds"] >= drain_s + 10


@pytest.mark.parametrize("name", NAMES)
def test_no_rank_runs_on_the_head_and_no_process_is_made_to_wait_for_others(name):
    head, *_ = groups(name)
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert all(variables(group["template"]["spec"])["RAY_worker_niceness"] == "0" for group in groups(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_version_is_the_pinned_one(name):
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert cluster_of(name)["rayVersion"] == pinned
