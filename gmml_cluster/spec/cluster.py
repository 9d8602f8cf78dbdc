"""The cluster profile: where runs go. What is trained is in the job (`job.py`)."""

import json
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from gmml_cluster.spec.base import Refused, SpecModel
from gmml_cluster.spec.scalars import Duration, Location, Price, Size, write_seconds

NODE_CACHE_VARIABLE = "GMML_NODE_CACHE"
"""Tells the ranks of `node_cache`, as JSON."""

RanksPerNode = Annotated[int, Field(gt=0)] | Literal["auto"]


class ContainerSection(SpecModel):
    """The image in which the ranks of a SLURM job run; the script around them stays on the node itself."""

    runtime: Literal["apptainer", "pyxis"] = Field(examples=["apptainer"])
    """What starts the image on a node: apptainer's command, or pyxis, the plugin of srun."""
    image: str = Field(min_length=1, examples=["/shared/gmml.sif"])
    """A file that all nodes see, or any other name of an image that the runtime takes."""
    mounts: tuple[str, ...] = ()
    """Folders of the node that ranks need, such as those of corpora, as `/data` or `/data:/inside:ro`. The root and
    `slurm.folder` are mounted without being named."""
    python: str = Field("python3", min_length=1)
    """Command that starts Python within the image."""

    @field_validator("mounts")
    @classmethod
    def _are_absolute(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for mount in given:
            if not re.fullmatch(r"/[^:,]*(:/[^:,]*(:[^:,]+)?)?", mount):
                raise Refused(f"{mount!r} is no mount", "write /folder, or /folder:/inside, or /folder:/inside:ro")
        return given


class SlurmSection(SpecModel):
    """What sbatch and srun are asked for."""

    partition: str | None = None
    """Partition; null takes the site's default."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features the nodes must have."""
    exclude: str | None = None
    """Nodes not to use."""
    reservation: str | None = None
    """Reservation whose nodes to use."""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs asked for on each node; 0 trains on CPUs."""
    gpu_memory: Size | None = None
    """Memory of one GPU, such as `80 GiB`, for the plan alone; null where it is not known."""
    cpus_per_rank: int = Field(1, gt=0)
    """CPU cores of each rank, which has a thread that decodes images for each but one of them."""
    memory_per_node: Size | None = None
    """Memory asked for on each node; null takes the site's default."""
    time: Duration = 86400.0
    """Time limit of one job, such as `24 h`."""
    notice: Duration = 120.0
    """How long before the time limit the ranks are asked to save."""
    folder: Location | None = None
    """Folder on a shared file system for job scripts and logs, `%j` the job's number; null takes `<root>/.slurm`."""
    python: str | None = None
    """Command that starts Python on a node; null takes the submitting interpreter. With `container` it only runs the
    script's own lines, for which the launcher without extras is enough."""
    container: ContainerSection | None = None
    """Image in which the ranks run; null runs them as the node is."""
    modules: tuple[str, ...] = ()
    """Environment modules that are loaded on the node before `setup`; one that cannot be loaded ends the job."""
    setup: tuple[str, ...] = ()
    """Shell lines that run before the ranks start; one that fails ends the job (`LINE || true` may fail)."""
    sbatch_args: dict[str, str | bool] = {}
    """Further options of sbatch by name; true for one without a value."""
    srun_args: tuple[str, ...] = ()
    """Further arguments of srun."""

    @model_validator(mode="after")
    def _notice_within_time(self) -> Self:
        if self.notice < self.time:
            return self
        problem = f"notice {write_seconds(self.notice)} is not less than time {write_seconds(self.time)}"
        raise Refused(f"{problem}; ranks would be asked to save as they start", "shorten notice or lengthen time")


class RaySection(SpecModel):
    """The Ray cluster that runs are sent to."""

    bare: ClassVar[tuple[str, ...]] = ("address",)

    address: str = Field(examples=["http://head:8265"])
    """Address of the job API, such as `http://head:8265`. `auto`: of the cluster that RAY_ADDRESS names or that runs on
    this machine."""
    namespace: str | None = Field(None, min_length=1)
    """Ray's namespace of the run's driver; null gives each driver one of its own."""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs of each node; 0 trains on CPUs."""
    gpu_memory: Size | None = None
    """Memory of one GPU, such as `80 GiB`, for the plan alone; null where it is not known."""
    cpus_per_rank: int = Field(1, gt=0)
    """CPU cores of each rank, which has a thread that decodes images for each but one of them."""
    memory_per_node: Size | None = None
    """Memory of each node, for the plan alone; null where it is not known."""
    resources: dict[str, float] = {}
    """Custom resources that each rank takes, by name."""
    labels: dict[str, str] = {}
    """Labels that a rank's node must have, such as `{pool: spot}`."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How Ray spreads the ranks over nodes."""
    autoscales: bool = False
    """Whether the cluster adds nodes when ranks ask for them: preflight then accepts more than there are now."""
    start: Duration = 600.0
    """How long the ranks' processes may take to start, new nodes and images included."""
    runtime_env: dict[str, Any] = {}
    """Further fields of Ray's runtime environment, such as `pip`; for an image start Ray itself in it."""

    @field_validator("runtime_env")
    @classmethod
    def _leaves_ours(cls, given: dict[str, Any]) -> dict[str, Any]:
        image = "Ray takes no code beside an image, so start Ray itself in it, as the pods of docker/kuberay do"
        ours = {
            "working_dir": "the submitted code goes there",
            "env_vars": "write `environment` of the profile",
            "image_uri": image,
            "container": image,
        }
        for name in ours.keys() & given.keys():
            raise Refused(f"{name} does not fit; {ours[name]}", "leave it out")
        made: dict[str, Any] = json.loads(json.dumps(given))  # Ray takes lists, where a file's are read as tuples
        return made


class NodeCacheSection(SpecModel):
    """A folder on each node's own disk that keeps what was read of shards."""

    folder: str = Field(examples=["/scratch/gmml"])
    """Folder on the node, such as `/scratch/gmml`; variables such as `$TMPDIR` are those of the node."""
    limit: Size = Field(examples=["500 GiB"])
    """What all runs that name the folder may keep in it, such as `500 GiB`."""

    @field_validator("folder")
    @classmethod
    def _is_on_the_node(cls, given: str) -> str:
        if given.startswith(("/", "~", "$")):
            return given
        raise Refused(f"{given!r} is no absolute path", "write a folder of the nodes, such as /scratch/gmml")


class ClusterProfile(SpecModel):
    """Where runs go, and what each of them may use."""

    launcher: Literal["local", "slurm", "ray"] = Field(examples=["local"])
    """The launcher that starts the ranks."""
    root: Location = Field(examples=["runs"])
    """Folder or `s3://bucket/prefix` under which runs lie."""
    ranks_per_node: RanksPerNode = "auto"
    """Ranks of a node. `auto`: one for each GPU, else min(2, cores)."""
    environment: dict[str, str] = {}
    """Variables set for every rank."""
    secrets: tuple[str, ...] = ()
    """Names of variables that ranks get from the submitting shell, on Ray from nodes; values are written nowhere."""
    price_per_gpu_hour: Price | None = None
    """Price of one GPU for an hour, such as `2.50 EUR`, for the plan's cost alone; null where none is known."""
    node_cache: NodeCacheSection | None = None
    """Where nodes keep what was read of shards, for all their ranks and later epochs; null keeps nothing."""
    slurm: SlurmSection = SlurmSection()
    """Options of SLURM, for `launcher: slurm`."""
    ray: RaySection | None = None
    """Options of Ray, for `launcher: ray`."""

    @field_validator("environment", "secrets")
    @classmethod
    def _are_names(cls, given: dict[str, str] | tuple[str, ...]) -> dict[str, str] | tuple[str, ...]:
        for name in given:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise Refused(f"{name!r} is no name of a variable", "use letters, digits and _")
        return given

    @property
    def variables(self) -> dict[str, str]:
        """What is set for every rank: `environment`, and what ranks read of other fields."""
        cache = {} if self.node_cache is None else {NODE_CACHE_VARIABLE: self.node_cache.model_dump_json()}
        return {**cache, **self.environment}
