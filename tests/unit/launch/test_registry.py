"""Launchers by name."""

from inspect import signature

import pytest

from gmml_cluster.errors import Fault, PreflightError
from gmml_cluster.launch.protocol import Launcher
from gmml_cluster.launch.registry import LAUNCHERS, launcher_named

METHODS = [name for name, value in vars(Launcher).items() if callable(value) and not name.startswith("_")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_has_every_method_of_the_protocol(name, method):
    ours = list(signature(getattr(launcher_named(name), method)).parameters)
    assert ["self", *ours] == list(signature(getattr(Launcher, method)).parameters)


def test_a_launcher_of_a_later_version_is_refused_by_name():
    with pytest.raises(PreflightError) as refused:
        launcher_named("k8s")
    problem = "'k8s' is not yet in this version, local and ray and slurm are"
    assert refused.value.faults == [Fault("launcher", problem, "choose a profile with one of them")]
