"""Every field that a user may write says what it means."""

import inspect

import pytest
from pydantic import BaseModel

from gmml_cluster.spec import base, cluster, job, scalars
from gmml_cluster.spec.docstrings import docstrings_of
from gmml_cluster.spec.methods import (
    attentive,
    classifier,
    conmim,
    finetune,
    gmml,
    ijepa,
    linear,
    mae,
    relations,
    relvit,
    simmim,
    supervised,
)

MODULES = (
    base,
    cluster,
    job,
    scalars,
    attentive,
    classifier,
    finetune,
    gmml,
    ijepa,
    linear,
    mae,
    relations,
    relvit,
    conmim,
    simmim,
    supervised,
)
MODELS = sorted(
    {
        model
        for module in MODULES
        for _, model in inspect.getmembers(module, inspect.isclass)
        if issubclass(model, BaseModel) and model.__module__.startswith("gmml_cluster.spec")
    },
    key=lambda model: model.__qualname__,
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_and_field_has_a_docstring(model):
    assert model.__doc__
    described = docstrings_of(model)
    assert [name for name in model.model_fields if not described.get(name)] == []


def test_the_models_are_found():
    assert {job.JobSpec, job.Optim, cluster.SlurmSection, gmml.GmmlOptions, mae.MaeOptions} <= set(MODELS)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_is_frozen_and_refuses_unknown_keys(model):
    assert model.model_config["frozen"]
    assert model.model_config["extra"] == "forbid"
