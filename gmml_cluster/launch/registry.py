"""The launchers of this version, a line each; a launcher's module is imported when it is used."""

from collections.abc import Iterator
from importlib import import_module

from gmml_cluster.errors import Fault, PreflightError
from gmml_cluster.launch.protocol import Launcher

LAUNCHERS = {
    "local": "gmml_cluster.launch.local.launcher:LocalLauncher",
    "ray": "gmml_cluster.launch.ray.launcher:RayLauncher",
    "slurm": "gmml_cluster.launch.slurm.launcher:SlurmLauncher",
}


def launcher_named(name: str) -> Launcher:
    """The launcher of this name, as a profile has it under `launcher` and a `submit` entry keeps it.

    Raises:
        PreflightError: this version has no such launcher.
    """
    if name not in LAUNCHERS:
        known = " and ".join(LAUNCHERS)
        raise PreflightError(
            Fault("launcher", f"{name!r} is not yet in this version, {known} are", "choose a profile with one of them")
        )
    module, _, class_name = LAUNCHERS[name].partition(":")
    launcher: Launcher = getattr(import_module(module), class_name)()
    return launcher


def launchers() -> Iterator[Launcher]:
    """All launchers of this version."""
    return map(launcher_named, LAUNCHERS)
