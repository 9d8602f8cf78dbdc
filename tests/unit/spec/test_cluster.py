import pytest
import yaml
from pydantic import ValidationError

from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.loading.validate import load_profile


def profile(**sections):
    return ClusterProfile.model_validate({"launcher": "slurm", "root": "r", **sections})


def test_a_notice_as_long_as_the_job_is_refused():
    with pytest.raises(ValidationError, match=r"notice 120 s is not less than time 60 s.*shorten notice"):
        profile(slurm={"time": "1 min"})
    assert profile(slurm={"time": "1 min", "notice": "30 s"}).slurm.notice == 30


def test_lists_of_ray_s_runtime_environment_are_lists_however_deep_they_stand_in_the_file(tmp_path):
    path = tmp_path / "ray.yaml"
    given = {"pip": ["x==1", "y"], "conda": {"dependencies": ["z", {"pip": ["w"]}]}}
    sections = {"launcher": "ray", "root": "r", "ray": {"address": "http://head:8265", "runtime_env": given}}
    path.write_text(yaml.safe_dump(sections))
    assert load_profile(path).ray.runtime_env == given


@pytest.mark.parametrize("name", ["working_dir", "env_vars", "image_uri", "container"])
def test_a_field_of_ray_s_runtime_environment_that_cannot_stand_beside_the_code_is_refused(name):
    with pytest.raises(ValidationError, match=rf"{name} does not fit; .*leave it out"):
        ClusterProfile.model_validate(
            {"launcher": "ray", "root": "r", "ray": {"address": "auto", "runtime_env": {name: "x"}}}
        )


@pytest.mark.parametrize("sections", [{"environment": {"A B": "x"}}, {"secrets": ["1A"]}])
def test_what_no_shell_can_export_is_refused(sections):
    with pytest.raises(ValidationError, match="is no name of a variable"):
        profile(**sections)


def test_the_node_cache_reaches_the_ranks_as_a_variable_unless_the_environment_says_otherwise():
    given = {"folder": "/scratch/gmml", "limit": "1 GiB"}
    assert profile().variables == {}
    assert profile(node_cache=given).variables == {
        "GMML_NODE_CACHE": '{"folder":"/scratch/gmml","limit":"1073741824 B"}'
    }
    named = profile(node_cache=given, environment={"GMML_NODE_CACHE": "mine"})
    assert named.variables == {"GMML_NODE_CACHE": "mine"}


@pytest.mark.parametrize("folder", ["scratch", "s3://bucket/cache", "./here", ""])
def test_a_node_cache_is_a_folder_of_the_node(folder):
    with pytest.raises(ValidationError, match=r"is no absolute path.*write a folder of the nodes"):
        profile(node_cache={"folder": folder, "limit": "1 GiB"})
