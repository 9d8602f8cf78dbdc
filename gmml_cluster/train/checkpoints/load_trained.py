"""What others may use of training: a run's trained method, ready to evaluate or to export."""

from dataclasses import dataclass

import torch

from gmml_cluster.errors import CheckpointError
from gmml_cluster.methods.build import build
from gmml_cluster.methods.protocol import Method
from gmml_cluster.run.root import RunRoot, commit_of, run_root
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.train.checkpoints.read import CheckpointReader


@dataclass(frozen=True)
class Trained:
    """A method with the weights of a commit.

    Attributes:
        step: the commit's step; -1 for initial weights.
    """

    job: JobSpec
    method: Method
    step: int


def load_trained(root: str, name: str, *, step: int | None = None, untrained: bool = False) -> Trained:
    """The method of a run, on the CPU, in evaluation mode.

    Args:
        root: folder or URL under which the run lies.
        name: the run's name.
        step: which commit; the youngest by default, of a run that goes on too.
        untrained: take the initial weights instead.

    Raises:
        CheckpointError: there is no such commit, or it is damaged.
    """
    run = run_root(root, name)
    job = run.job({})
    method = build(job)
    method.module.eval()
    if untrained:
        return Trained(job, method, -1)
    return Trained(job, method, _fill(method, run, step))


def _fill(method: Method, run: RunRoot, step: int | None) -> int:
    """Give the method the weights of a commit; its step.

    A run that goes on drops its oldest commits. Where no step was asked for, and the commit has gone so while it was
    read, the youngest of now is read instead.
    """
    commit = commit_of(run, step)
    try:
        reader = CheckpointReader(run.store, commit.folder, commit.manifest)
        weights = {key: reader.tensor(key) for key in method.module.state_dict()}
    except CheckpointError:
        if step is not None or commit in run.log.refresh().commits:
            raise
        return _fill(method, run, None)
    method.module.load_state_dict(weights)
    return commit.step


def full_precision() -> None:
    """Let fp32 on GPUs be fp32: torch computes convolutions in TF32 unless it is told not to."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


__all__ = ["Trained", "full_precision", "load_trained"]
