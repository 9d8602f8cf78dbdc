"""Where a job's `init` leads: the run and the step that are meant, fixed when the job is first submitted."""

from gmml_cluster.errors import CheckpointError, Fault, SpecError
from gmml_cluster.run.discovery import run_at
from gmml_cluster.run.root import RunRoot, commit_of, run_root
from gmml_cluster.spec.job import Init, JobSpec
from gmml_cluster.store.open import open_store

_ENCODER = ("width", "depth", "patch_size", "mlp_ratio")


def with_source(job: JobSpec, root: str) -> JobSpec:
    """The job with the run of its `init` as a folder or URL and the step as a number.

    A null step is the latest commit at the first submission. From then on it is what this run was submitted with: a
    later commit of the other run must not change this one's identity, so the other run is not read again.

    Args:
        root: folder or URL under which the job's run lies.

    Raises:
        SpecError: there is no such run or commit, or this job cannot begin from it.
    """
    if job.init is None:
        return job
    url = open_store(job.init.run if "/" in job.init.run else f"{root}/{job.init.run}").url
    asked = job.init.model_copy(update={"run": url})
    run = run_root(root, job.name)
    init = _as_submitted(asked, run) if run.log.refresh().run else _found(asked, job)
    return job.model_copy(update={"init": init})


def _as_submitted(asked: Init, run: RunRoot) -> Init:
    """What the run was submitted with, where that is what is asked for."""
    known = run.job({}).init
    return known if known and known.model_copy(update={"step": asked.step}) == asked and asked.step is None else asked


def _found(asked: Init, job: JobSpec) -> Init:
    try:
        source = run_at(asked.run)
        step = commit_of(source, asked.step).step
    except SpecError as error:
        raise SpecError(Fault("init.run", str(error))) from error
    except CheckpointError as error:
        raise SpecError(Fault("init.step", str(error))) from error
    faults = _misfits(asked, job, source.job({}))
    if faults:
        raise SpecError(faults)
    return asked.model_copy(update={"step": step})


def _misfits(asked: Init, job: JobSpec, other: JobSpec) -> list[Fault]:
    """What keeps the job from beginning there, by the specs alone; the ranks compare the tensors."""
    pairs = [(name, getattr(job.model, name), getattr(other.model, name)) for name in _ENCODER]
    faults = [
        Fault(
            f"model.{name}", f"{new}, but {asked.run} has {old}; init takes whole tensors", f"write {old}, or drop init"
        )
        for name, new, old in pairs
        if new != old
    ]
    if asked.what == "all" and job.method.name != other.method.name:
        problem = (
            f"'all' from a run of the method {other.method.name!r}, while this one has {job.method.name!r}; "
            "moments go with the method's own tensors"
        )
        faults.append(Fault("init.what", problem, "write weights"))
    return faults
