import pytest
from pydantic import ValidationError

from gmml_cluster.spec.cluster import ClusterProfile


def profile(**sections):
    return ClusterProfile.model_validate({"launcher": "slurm", "root": "r", **sections})


def test_a_notice_as_long_as_the_job_is_refused():
    with pytest.raises(ValidationError, match=r"notice 120 s is not less than time 60 s.*shorten notice"):
        profile(slurm={"time": "1 min"})
    assert profile(slurm={"time": "1 min", "notice": "30 s"}).slurm.notice == 30


@pytest.mark.parametrize("sections", [{"environment": {"A B": "x"}}, {"secrets": ["1A"]}])
def test_what_no_shell_can_export_is_refused(sections):
    with pytest.raises(ValidationError, match="is no name of a variable"):
        profile(**sections)
