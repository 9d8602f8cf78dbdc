"""`verify` of every method in random configurations that no other test has, against oracles in numpy: `make drills`.

SEED draws them: `make drills SEED=7` has others.
"""

import os
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from gmml_cluster.methods import verify
from gmml_cluster.spec.methods.plugins import BUILT_IN
from tests.drills.verify_cases import Case, Rng, weights_of
from tests.drills.verify_heads import attentive, linear, segmentation, supervised
from tests.drills.verify_masked import capi, conmim, gmml, ijepa, mae, simmim
from tests.drills.verify_relations import gmml_beside, mae_beside, masked_beside, relvit

SEED, COUNT = int(os.environ.get("SEED", "1")), 40
STEP = 1e-7
"""Small, as absolute values and rectifiers have kinks."""
CASES: dict[str, Callable[[Rng], Case]] = {
    "gmml": gmml,
    "mae": mae,
    "simmim": simmim,
    "conmim": conmim,
    "gmml, amt": lambda rng: gmml(rng, thrown=True),
    "mae, amt": lambda rng: mae(rng, thrown=True),
    "simmim, amt": lambda rng: simmim(rng, thrown=True),
    "conmim, amt": lambda rng: conmim(rng, thrown=True),
    "capi": capi,
    "ijepa": ijepa,
    "relvit": relvit,
    "supervised": supervised,
    "finetune": lambda rng: supervised(rng, "finetune"),
    "linear": linear,
    "attentive": attentive,
    "segmentation": segmentation,
    "gmml, relations": gmml_beside,
    "mae, relations": mae_beside,
    "simmim, relations": lambda rng: masked_beside(rng, simmim),
    "conmim, relations": lambda rng: masked_beside(rng, conmim),
    "supervised, relations": lambda rng: supervised(rng, relations=True),
    "finetune, relations": lambda rng: supervised(rng, "finetune", relations=True),
}


def test_no_method_is_left_out() -> None:
    assert {name.partition(",")[0] for name in CASES} == set(BUILT_IN)


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.parametrize("name", CASES)
def test_a_random_configuration_is_the_oracles(name: str, number: int) -> None:
    """Losses of all groups, and the slope of their mean along a random direction of all trained weights."""
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode()), number])
    case = CASES[name](rng)
    weights, trained = weights_of(rng, case.spec)
    asked = [each for each in trained if not each.startswith(case.in_targets)]
    result = verify(case.spec, weights, case.pixels, case.draws, dtype="float64", gradients=asked)
    assert result.losses == pytest.approx(case.losses(weights), rel=case.tolerance), case.spec
    direction = {each: rng.standard_normal(weights[each].shape) for each in asked}
    ahead, behind = (
        np.mean(case.losses(weights | {each: weights[each] + sign * STEP * direction[each] for each in asked}))
        for sign in (1, -1)
    )
    slopes = [(result.gradients[each] * direction[each]).sum() for each in asked]  # type: ignore[operator]
    assert (ahead - behind) / (2 * STEP) == pytest.approx(sum(slopes), rel=1e-4, abs=1e-5), case.spec
