"""Where a job's `init` leads: the run and step, or the file and digest; fixed when the job is first submitted."""

from gmml_cluster.errors import CheckpointError, Fault, SpecError
from gmml_cluster.launch.checks.encoders import encoder_misfits
from gmml_cluster.run.finding.discovery import run_at
from gmml_cluster.run.root import RunRoot, commit_of, run_root
from gmml_cluster.spec.job import Init, JobSpec
from gmml_cluster.spec.methods.encoder_kind import kind_of
from gmml_cluster.spec.rules import view_size
from gmml_cluster.store.file import sha256_of
from gmml_cluster.store.open import open_store
from gmml_cluster.store.protocol import NotFound

_ENCODER = ("width", "depth", "heads", "patch_size", "mlp_ratio")
_SUFFIXES = (".safetensors", ".pth", ".pt")


def with_source(job: JobSpec, root: str) -> JobSpec:
    """The job with the run of its `init` as a folder or URL and the step as a number, or the file and its SHA-256.

    A null step is the latest commit at the first submission, a null digest what the file has then. From then on it is
    what this run was submitted with: what becomes of the other run or the file must not change this one's identity, so
    neither is read again.

    Args:
        root: folder or URL under which the job's run lies.

    Raises:
        SpecError: there is no such run, commit or file, or this job cannot begin from it.
    """
    if job.init is None:
        return job
    asked, run = _located(job.init, root), run_root(root, job.name)
    if run.log.refresh().run:
        init = _as_submitted(asked, run)
    else:
        init = _found(asked, job) if asked.url is None else _file_found(asked)
    return job.model_copy(update={"init": init})


def _located(init: Init, root: str) -> Init:
    """The same with its run or file as an absolute path or a URL."""
    if init.url is not None:
        return init.model_copy(update={"url": open_store(init.url).url})
    assert init.run is not None
    return init.model_copy(update={"run": open_store(init.run if "/" in init.run else f"{root}/{init.run}").url})


def _as_submitted(asked: Init, run: RunRoot) -> Init:
    """What the run was submitted with, where that is what is asked for."""
    known = run.job({}).init
    if known is None:
        return asked
    left_open = {name: getattr(known, name) for name in ("step", "sha256") if getattr(asked, name) is None}
    if known.url is not None and asked.url == known.url.rpartition("/")[0]:
        left_open["url"] = known.url  # a folder was submitted, and this is its file
    filled = asked.model_copy(update=left_open)
    return known if known == filled else asked


def _file_found(asked: Init) -> Init:
    """The file with its digest, which is computed here: that takes as long as reading it."""
    assert asked.url is not None
    url = asked.url if asked.url.endswith(_SUFFIXES) else _only_file(asked.url)
    try:
        found = sha256_of(url)
    except NotFound as error:
        raise SpecError(Fault("init.url", f"{url} does not exist", "write the path or URL of the file")) from error
    if asked.sha256 not in (None, found):
        raise SpecError(Fault("init.sha256", f"{asked.sha256}, but {url} has {found}", "fetch the file again"))
    return asked.model_copy(update={"url": url, "sha256": found})


def _only_file(folder: str) -> str:
    names = [found.name for found in open_store(folder).list_objects()]
    files = [name for name in names if "/" not in name and name.endswith(_SUFFIXES)]
    if len(files) != 1:
        problem = f"{folder} holds {len(files)} files that end in {', '.join(_SUFFIXES)}"
        raise SpecError(Fault("init.url", f"{problem}; one is needed", "write the path or URL of the file"))
    return f"{folder}/{files[0]}"


def _found(asked: Init, job: JobSpec) -> Init:
    assert asked.run is not None
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
    faults += encoder_misfits(job, other, str(asked.run))
    if asked.what == "all" and job.method.name != other.method.name:
        problem = (
            f"'all' from a run of the method {other.method.name!r}, while this one has {job.method.name!r}; "
            "moments go with the method's own tensors"
        )
        faults.append(Fault("init.what", problem, "write weights"))
    elif asked.what == "all" and _trains_positions(job) and len({_grid(job), _grid(other)}) == 2:
        problem = f"'all' from a grid of {_grid(other)} patches a side to one of {_grid(job)}"
        rule = "positions are brought to another grid, and their moments are not"
        faults.append(Fault("init.what", f"{problem}; {rule}", "write weights"))
    return faults


def _trains_positions(job: JobSpec) -> bool:
    kind = kind_of(job.method)
    return kind is None or (kind.rotary is None and kind.positions in ("learned", "relative"))


def _grid(job: JobSpec) -> int:
    """Patches of a side."""
    return view_size(job) // job.model.patch_size
