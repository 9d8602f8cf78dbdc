"""Methods of other packages, found by their entry points; neither pydantic nor torch is imported here.

A package offers a method by two entry points of one name: `build` in the group `gmml_cluster.methods`, and in
`gmml_cluster.method_options` the class of its options, which imports no torch.
"""

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from gmml_cluster.errors import Fault, SpecError

METHODS, OPTIONS = "gmml_cluster.methods", "gmml_cluster.method_options"
BUILT_IN = {
    "gmml": "gmml_cluster.methods.gmml",
    "mae": "gmml_cluster.methods.mae",
    "attentive": "gmml_cluster.methods.attentive",
    "finetune": "gmml_cluster.methods.finetune",
    "relvit": "gmml_cluster.methods.relvit",
    "conmim": "gmml_cluster.methods.conmim",
    "simmim": "gmml_cluster.methods.simmim",
    "linear": "gmml_cluster.methods.linear",
    "segmentation": "gmml_cluster.methods.segmentation",
    "supervised": "gmml_cluster.methods.supervised",
    "capi": "gmml_cluster.methods.capi",
    "ijepa": "gmml_cluster.methods.ijepa",
}
_OURS = "gmml-cluster"


@dataclass(frozen=True)
class PlugIn:
    """The parts of a method's package that are copied with a run.

    Attributes:
        packages: folders of its import packages, or files of modules that have none.
        metadata: what a node's Python needs to find the entry points: names in a `.dist-info` folder -> bytes.
    """

    packages: tuple[Path, ...]
    metadata: dict[str, bytes]


def claims(group: str) -> dict[str, EntryPoint]:
    """The package that offers each method that is not built in.

    Raises:
        SpecError: two claim one name, or one claims a built-in's.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        if _package(entry) == _OURS:  # an older version that is installed beside the code in use
            continue
        other = "this project itself" if entry.name in BUILT_IN else _package(found.get(entry.name))
        if other:
            problem = f"{entry.name!r} is offered by {_package(entry)} and by {other}; a name means one method"
            raise SpecError(Fault("method.name", problem, "uninstall one of them"))
        found[entry.name] = entry
    return found


def _package(entry: EntryPoint | None) -> str:
    if entry is None:
        return ""
    return entry.dist.name if entry.dist is not None else entry.value


def plug_in(method: str) -> PlugIn | None:
    """The package of a method; None for one that is built in."""
    entries = [entry for group in (METHODS, OPTIONS) for name, entry in claims(group).items() if name == method]
    if not entries:
        return None
    packages = tuple(_folder_of(name) for name in sorted({entry.module.partition(".")[0] for entry in entries}))
    return PlugIn(packages, {name: text for entry in entries for name, text in _metadata(entry).items()})


def _folder_of(package: str) -> Path:
    found = find_spec(package)
    if found is None or (found.origin is None and not found.submodule_search_locations):
        problem = f"package {package!r} of an entry point cannot be found"
        raise SpecError(Fault("method.name", problem, "install it again"))
    return Path(found.submodule_search_locations[0] if found.submodule_search_locations else str(found.origin))


def _metadata(entry: EntryPoint) -> dict[str, bytes]:
    dist = entry.dist
    if dist is None:
        return {}
    folder = f"{dist.name.replace('-', '_')}-{dist.version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {dist.name}\nVersion: {dist.version}\n"
    return {
        f"{folder}/METADATA": about.encode(),
        f"{folder}/entry_points.txt": (dist.read_text("entry_points.txt") or "").encode(),
    }
