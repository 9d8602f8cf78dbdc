"""What would keep a submission from running on a Ray cluster, as its job API and nodes show it."""

from gmml_cluster.errors import Fault
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.ray.client import connected


def faults_of(submission: Submission) -> list[Fault]:
    """All that is wrong.

    Raises:
        LaunchError: the cluster is out of reach.
    """
    if submission.profile.ray is None:
        return [Fault("ray", "has no address", "write ray: http://HEAD:8265 into the profile")]
    with connected(submission.profile.ray.address):
        return []
