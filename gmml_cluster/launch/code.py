"""Which code a run's attempts run: what is installed here, or what the run was submitted with."""

from pathlib import Path

import gmml_cluster
from gmml_cluster.launch.snapshot import Snapshot, take
from gmml_cluster.run.history import Submit
from gmml_cluster.run.root import RunRoot
from gmml_cluster.spec.methods.plugins import plug_in


def installed_code(method: str) -> Snapshot:
    """Snapshot of this project, and of the plug-in that has the method.

    Raises:
        PreflightError: they are too large.
        SpecError: the plug-in's package cannot be found.
    """
    ours, plugin = Path(gmml_cluster.__file__).parent, plug_in(method)
    return take(ours) if plugin is None else take(ours, *plugin.packages, metadata=plugin.metadata)


def code_of_run(run: RunRoot, last: Submit, installed: Snapshot) -> tuple[Snapshot, tuple[str, ...]]:
    """The code of a run's last submit, and a note where another is installed here."""
    if last.code == installed.digest:
        return installed, ()
    note = (
        f"continues with the run's own code, {last.code[:12]}; "
        f"gmml resume {run.name} --code takes what is installed here, {installed.digest[:12]}"
    )
    return Snapshot(last.code, run.code(last.code)), (note,)
