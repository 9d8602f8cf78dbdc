"""`engine.compile` compiles blocks, and changes nothing that is saved."""

import pytest

from gmml_cluster.errors import GmmlError
from gmml_cluster.methods.build import build
from gmml_cluster.models.rope_vit import RopeBlock
from gmml_cluster.models.vit import Block
from gmml_cluster.train.engines import compiled
from tests.unit.methods.jobs import job
from tests.unit.methods.test_build import OPTIONS


@pytest.mark.parametrize("name", ["gmml", "mae", "capi", "ijepa"])
def test_every_block_is_compiled_under_the_names_that_checkpoints_have(name: str) -> None:
    module = build(job(OPTIONS[name])).module
    names = list(module.state_dict())
    compiled.compile_blocks(module)
    blocks = [block for block in module.modules() if isinstance(block, (Block, RopeBlock))]
    assert blocks
    assert all(block._compiled_call_impl is not None for block in blocks)
    assert list(module.state_dict()) == names


def test_a_node_without_a_compiler_is_named_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(GmmlError, match=r"engine\.compile: this node has no C compiler.*install gcc"):
        compiled.compile_blocks(build(job(OPTIONS["gmml"])).module)
