"""The manifests for KubeRay: their schema, and the times and names that must fit each other."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from gmml_cluster.cli.resume import command as resume
from gmml_cluster.spec.loading.validate import load_profile
from tests.fixtures.kuberay import SCHEMAS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "kuberay"
PROFILE = FOLDER / "ray.yaml"


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


def faults(name, given):
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(SCHEMAS[name]).iter_errors(given)]


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_is_of_the_schema_of_its_kind(name):
    assert not faults(name, manifest(name))


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("raycluster", "kind", "RayJob"),
        ("raycluster", "apiVersion", "ray.io/v1alpha1"),
        ("raycluster", "spec.workerGroupSpec", []),
        ("raycluster", "spec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("raycluster", "spec.headGroupSpec.replicas", 1),
        ("raycluster", "spec.workerGroupSpecs.0.groupName", None),
        ("raycluster", "spec.workerGroupSpecs.0.replicas", "2"),
        ("raycluster", "spec.workerGroupSpecs.0.template.spec.terminationGracePeriod", 150),
        ("raycluster", "spec.workerGroupSpecs.0.template.spec.containers.0.resources.limits.cpu", 8),
        ("raycluster", "spec.workerGroupSpecs.0.template.spec.containers.0.env.0.value", 0),
        ("rayjob", "spec.submissionMode", "HttpMode"),
        ("rayjob", "spec.rayClusterSpec.rayVersion", 2.6),
        ("rayjob", "spec.backOffLimit", 20),
    ],
)
def test_the_schema_finds_a_misspelt_field_and_a_value_of_another_type(name, path, value):
    given = json.loads(json.dumps(manifest(name)))  # what the manifest names once and uses twice is two things then
    *above, last = [int(word) if word.isdigit() else word for word in path.split(".")]
    at = given
    for word in above:
        at = at[word]
    at[last] = value
    if value is None:
        del at[last]
    assert len(faults(name, given)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_group_begins_within_its_bounds_and_mounts_what_it_declares(name):
    for group in cluster_of(name)["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups(name):
        pod = group["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod.get("volumes", [])}


def test_the_entrypoint_of_the_job_is_a_command_of_ours_and_its_profile_is_mounted():
    program, command, _, *options = shlex.split(manifest("rayjob")["spec"]["entrypoint"])
    assert (program, command) == ("gmml", "resume")
    known = {name for parameter in resume.params for name in parameter.opts}
    assert {word for word in options if word.startswith("--")} <= known
    head, *_ = groups("rayjob")
    (mount,) = head["template"]["spec"]["containers"][0]["volumeMounts"]
    assert options[options.index("--cluster") + 1] == f"{mount['mountPath']}/{PROFILE.name}"


@pytest.mark.parametrize("name", NAMES)
def test_the_profile_beside_the_manifests_asks_for_what_their_workers_have(name):
    profile = load_profile(str(PROFILE))
    assert profile.ray is not None
    (worker,) = cluster_of(name)["workerGroupSpecs"]
    (container,) = worker["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert profile.ray.gpus_per_node == int(limits["nvidia.com/gpu"])
    assert profile.ray.gpus_per_node * profile.ray.cpus_per_rank <= int(limits["cpu"])
    assert [f"{key}={value}" for key, value in profile.ray.labels.items()] == [worker["rayStartParams"]["labels"]]
    assert profile.ray.autoscales == cluster_of(name).get("enableInTreeAutoscaling", False)


def test_the_run_that_the_job_resumes_lies_under_the_root_of_its_profile():
    _, _, run, *_ = shlex.split(manifest("rayjob")["spec"]["entrypoint"])
    assert run == f"{load_profile(str(PROFILE)).root}/RUN"


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
def test_all_pods_of_a_cluster_have_one_mode_of_authentication_by_name(name):
    (mode,) = {variables(group["template"]["spec"])["RAY_AUTH_MODE"] for group in groups(name)}
    assert mode in ("disabled", "token")


@pytest.mark.parametrize("name", NAMES)
def test_the_version_is_the_pinned_one(name):
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert cluster_of(name)["rayVersion"] == pinned
